"""How benches ask the allocator as the shim does, and the engine as the allocator does. Runs on the host as root."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

ALLOCATOR, ENGINE = "/run/ds01/allocator.sock", "/run/ds01-engine/engine.sock"
SHIM_CGROUP = Path("/sys/fs/cgroup/system.slice/ds01-docker-shim.service/cgroup.procs")
UID = 1006
"""An administrator of the test host, whom no quota stops."""

Row = dict[str, object]
_numbers = iter(range(1, 1_000_000_000))


def become_the_shim() -> None:
    """Leases and releases are believed of the shim alone, which is told by its cgroup. A stop of it ends us too."""
    SHIM_CGROUP.write_text(str(os.getpid()))


class Client:
    """One connection to the allocator. Raises OSError where nobody listens, or the connection ends."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(ALLOCATOR)
        self._received = b""

    def ask_for_one(self) -> None:
        """Send a request for a unit."""
        name = f"bench-{os.getpid()}-{next(_numbers)}"
        self._send("Lease", request_id=name, uid=UID, container_name=name, gpus="1", wait_s=0.0)

    def lease(self) -> str:
        """A lease of a unit."""
        self.ask_for_one()
        return granted(self._wait())

    def release(self, lease: str) -> None:
        """End it."""
        self.call("Release", lease=lease, reason="bench")

    def call(self, method: str, **parameters: object) -> dict[str, object]:
        """The parameters of the answer."""
        self._send(method, **parameters)
        return self._wait()

    def answer(self) -> dict[str, object] | None:
        """Read once: the parameters of an answer; None where only a part of it is here."""
        read = self.socket.recv(65536)
        if not read:
            raise ConnectionResetError("the allocator closed the connection")
        self._received += read
        if not self._received.endswith(b"\0"):
            return None
        told, self._received = json.loads(self._received[:-1]), b""
        if "error" in told:
            raise ConnectionRefusedError(str(told))
        return dict(told.get("parameters") or {})

    def _send(self, method: str, **parameters: object) -> None:
        call = {"method": f"io.ds01.Allocator.{method}", "parameters": parameters}
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def _wait(self) -> dict[str, object]:
        while (answer := self.answer()) is None:
            pass
        return answer


def granted(answer: dict[str, object]) -> str:
    """The lease of an answer."""
    grant = answer["grant"]
    assert isinstance(grant, dict), answer
    return str(grant["lease"])


class _EngineConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(ENGINE)


def engine(method: str, path: str, body: object = None) -> object:
    """One request at the engine's own socket; its answer."""
    connection = _EngineConnection("docker", timeout=60)
    headers = {"Content-Type": "application/json"}
    connection.request(method, f"/v1.45{path}", None if body is None else json.dumps(body), headers)
    with connection.getresponse() as response:
        raw = response.read()
        assert response.status < 400, (path, raw)
        return json.loads(raw) if raw else None


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def row(name: str, value: float, unit: str, against: str = "", ratio: float | None = None) -> Row:
    """A row of the table."""
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}
