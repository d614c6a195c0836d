"""A whole shim on a Unix socket between a test and the fake engine; allocator and limits_sync by their protocol."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shim_engine import Container, FakeEngine
from worlds import STUDENT, policy_of

from ds01.common.engine import Engine
from ds01.common.errors import PeerRefused, Unavailable
from ds01.common.events import Event
from ds01.common.limits import Limits, Policy
from ds01.common.peer import Peer
from ds01.docker_shim.actions import Actions, Doors
from ds01.docker_shim.audit import Audit
from ds01.docker_shim.clients import AllocatorClient, LimitsClient
from ds01.docker_shim.engine_state import EngineState
from ds01.docker_shim.hangups import Hangups
from ds01.docker_shim.refusals import Coalescer
from ds01.docker_shim.relay import Relayer
from ds01.docker_shim.server import Budget, Server

LIMITS: Limits = replace(STUDENT, max_connections=4, max_streams=4)
ALICE = Peer(1001, "alice", frozenset({"student"}), 1, "", is_admin=False)
BOB = Peer(1002, "bob", frozenset({"student"}), 2, "", is_admin=False)
ADA = Peer(1010, "ada", frozenset({"ds01-admin"}), 3, "", is_admin=True)


@dataclass
class Reply:
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json()["message"])

    @property
    def reason(self) -> str:
        return str(self.json()["ds01"]["reason"])


class FakeServices:
    """Allocator and limits_sync as their callers see them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.down: set[str] = set()
        self.denial: dict[str, str] | None = None
        self.profiles = ["2g.10gb"]
        self.recorded = asyncio.Event()

    def named(self, method: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == method]

    async def call(self, path: str, method: str, timeout_s: float = 10.0, **parameters: Any) -> dict[str, Any]:
        name = method.rsplit(".", 1)[-1]
        self.calls.append((name, parameters))
        if name in self.down:
            raise Unavailable(f"'{path}' does not answer")
        match name:
            case "EnsureSlice":
                uid = parameters["uid"]
                return {"slice": f"ds01-student-u{uid}.slice", "group": "student"}
            case "Lease" | "Renew":
                if self.denial is not None:
                    return {"grant": None, "denial": self.denial}
                lease = parameters.get("lease") or f"l-{parameters['request_id'][:8]}"
                units = [{"name": "0:0", "profile": profile, "uuid": ""} for profile in self.profiles]
                return {"grant": {"lease": lease, "state": "granted", "units": units}, "denial": None}
            case "Record":
                self.recorded.set()
        return {}


class World:
    """The running parts, and hands to ask with."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.engine = FakeEngine(str(folder / "engine.sock"))
        self.services = FakeServices()
        self.events: list[Event] = []
        self.peer = ALICE
        self.refuse_peer = ""
        self.path = str(folder / "docker.sock")

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def identify(self, _: socket.socket) -> Peer:
        if self.refuse_peer:
            raise PeerRefused(self.refuse_peer)
        return self.peer

    def budget(self, _: Peer) -> Budget:
        return Budget(self.limits.max_connections, self.limits.max_streams)

    def policy(self) -> Policy:
        return policy_of(self.limits)

    def own(self, peer: Peer, name: str, lease: str = "", identity: str = "") -> Container:
        return self.engine.add(name, {"ds01.uid": str(peer.uid), "ds01.lease": lease}, identity)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def ask(
        self, method: str, target: str, body: object = None, headers: dict[str, str] | None = None, version: str = "1.1"
    ) -> Reply:
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "docker", **({"Content-Length": str(len(payload))} if payload else {}), **(headers or {})}
        lines = "".join(f"{key}: {value}\r\n" for key, value in fields.items())
        return await self.ask_raw(f"{method} {target} HTTP/{version}\r\n{lines}\r\n".encode() + payload)

    async def ask_raw(self, raw: bytes) -> Reply:
        reader, writer = await self.connect()
        writer.write(raw)
        answer = await asyncio.wait_for(reader.read(), 15)
        writer.close()
        return parse(answer)


def parse(raw: bytes) -> Reply:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, value in (line.split(":", 1) for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Reply(int(first.split(" ")[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return found


@asynccontextmanager
async def running(patience_s: float = 0.3) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), LIMITS)
        await world.engine.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(world.path)
        listener.listen()
        engine = Engine(world.engine.path, timeout_s=5)
        state = EngineState(Engine(world.engine.path, timeout_s=0.5), engine)
        allocator = AllocatorClient(world.services.call, patience_s=patience_s)
        limits = LimitsClient(world.services.call, patience_s=patience_s)
        doors = Doors(engine, engine, state, allocator, limits, world.policy)
        audit = Audit(world, allocator.record, Coalescer(window_s=0.2))
        hangups = Hangups()
        relayer = Relayer(hangups, world.engine.path)
        server = Server(Actions(doors), relayer, state, audit, world.identify, world.budget)
        works = [asyncio.create_task(work) for work in (server.accept(listener), audit.work())]
        try:
            yield world
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            await server.close()
            hangups.close()
            await world.engine.stop()
            listener.close()


def in_world(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an asynchronous test in a world of its own."""

    async def whole() -> None:
        async with running() as world:
            await asyncio.wait_for(test(world), 30)

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(whole())

    del run.__wrapped__  # pytest must not see the parameter
    return run


async def eventually(check: Callable[[], bool], within_s: float = 5.0) -> None:
    """Wait until `check` holds."""
    async with asyncio.timeout(within_s):
        while not check():
            await asyncio.sleep(0.01)
