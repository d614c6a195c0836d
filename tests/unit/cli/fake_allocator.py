"""io.ds01.Allocator on a Unix socket, spoken by hand, that answers as it is told and misbehaves on request."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncvarlink import varlinksignature

from ds01.gpu_allocator.interface import AllocatorInterface

WITHIN_S = 20.0


@dataclass(frozen=True)
class Call:
    """A call as it came in, and the process that made it."""

    method: str
    parameters: dict[str, Any]
    pid: int


class Talk:
    """One call that is to be answered."""

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self._connection = connection
        self._stopping = stopping

    def say(self, **parameters: object) -> None:
        self.send(json.dumps({"parameters": parameters}).encode() + b"\0")

    def fail(self, error: str, **parameters: object) -> None:
        self.send(json.dumps({"error": error, "parameters": parameters}).encode() + b"\0")

    def send(self, raw: bytes) -> None:
        self._connection.sendall(raw)

    def until(self, event: threading.Event) -> bool:
        """Wait for `event`; False when the caller hung up before."""
        self._connection.settimeout(0.02)
        while not event.is_set() and not self._stopping.is_set():
            try:
                if not self._connection.recv(1):
                    return False
            except TimeoutError:
                continue
        return True


Answer = Callable[[Talk], None]


def says(**parameters: object) -> Answer:
    return lambda talk: talk.say(**parameters)


def fails(error: str, **parameters: object) -> Answer:
    return lambda talk: talk.fail(error, **parameters)


def breaks(talk: Talk) -> None:
    """The connection is closed without a word."""


def grants(*units: tuple[str, str], warnings: tuple[str, ...] = (), until: float | None = None) -> Answer:
    told = [{"name": name, "profile": profile, "uuid": f"MIG-{name.replace(':', '-')}"} for name, profile in units]
    grant = {"lease": "l0123", "state": "active", "units": told, "warnings": list(warnings), "until": until}
    return says(grant=grant, denial=None)


def denial(reason: str, message: str, hint: str = "", to_end: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    numbers = {"limit": "6", "used": "6", "requested": "1"}
    return {"reason": reason, "message": message, **numbers, "hint": hint, "to_end": list(to_end)}


def denies(reason: str, message: str = "no", hint: str = "", to_end: tuple[dict[str, Any], ...] = ()) -> Answer:
    return says(grant=None, denial=denial(reason, message, hint, to_end))


def blocker(units: str, group: str = "student", user: str = "", until: float | None = None) -> dict[str, Any]:
    return {
        "mine": False, "user": user, "group": group, "name": "", "units": units, "state": "active", "until": until,
    }  # fmt: skip


def waiter(position: int, request: str = "", **more: object) -> dict[str, Any]:
    row = {
        "position": position, "mine": bool(request), "user": "", "group": "student", "gpus": "1", "name": "",
        "request": request, "since": time.time() - 600, "until": None, "reason": "0 of 6 are free", "estimate": None,
    }  # fmt: skip
    return {**row, **more}


def unit(name: str, state: str = "free", **more: object) -> dict[str, Any]:
    row = {
        "name": name, "profile": "2g.10gb", "state": state, "mine": False, "group": "", "user": "", "container": "",
        "lease": "", "kind": "container", "since": None, "until": None, "reason": "",
    }  # fmt: skip
    return {**row, **more}


class FakeAllocator:
    """`answers` by method; of a list one after the other, the last one again and again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Call] = []
        self.answers: dict[str, list[Answer]] = {"Queue": [lambda talk: talk.say(waiters=self.queue)]}
        self.turn = threading.Event()
        self.left = threading.Event()
        self._waiting: list[dict[str, Any]] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.listen()

    @property
    def queue(self) -> list[dict[str, Any]]:
        """The rows, `request` of `ours` being the one that was asked last."""
        asked = next((call.parameters["request_id"] for call in reversed(self.calls) if call.method == "Run"), "")
        return [{**row, "request": asked if row["request"] == "ours" else row["request"]} for row in self._waiting]

    @queue.setter
    def queue(self, rows: list[dict[str, Any]]) -> None:
        self._waiting = rows

    def of(self, method: str) -> list[Call]:
        with self._lock:
            return [call for call in self.calls if call.method == method]

    def in_turn(self, then: Answer) -> Answer:
        """Waits until `turn` is set; notes who leaves before."""

        def answer(talk: Talk) -> None:
            if talk.until(self.turn):
                then(talk)
            else:
                self.left.set()

        return answer

    def listen(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        thread = threading.Thread(target=self._accept, args=(self._listener,))
        thread.start()
        self._threads.append(thread)

    def die(self) -> None:
        """All connections break, and nobody listens."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._stopping.set()
        with suppress(OSError):
            self.die()
        for thread in self._threads:
            thread.join(WITHIN_S)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        with connection, suppress(OSError):
            received = b""
            while not received.endswith(b"\0"):
                chunk = connection.recv(65536)
                if not chunk:
                    return
                received += chunk
            self._answer(json.loads(received[:-1]), connection)
        with self._lock:
            self._open.discard(connection)

    def _answer(self, message: dict[str, Any], connection: socket.socket) -> None:
        method = message["method"].removeprefix("io.ds01.Allocator.")
        wanted = varlinksignature(getattr(AllocatorInterface, method)).parameter_type.as_type.__annotations__
        if set(message["parameters"]) != set(wanted):
            Talk(connection, self._stopping).fail("org.varlink.service.InvalidParameter", parameter=method)
            return
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with self._lock:
            self.calls.append(Call(method, message["parameters"], pid))
            answers = self.answers[method]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(Talk(connection, self._stopping))


@contextmanager
def allocator_at(path: Path) -> Iterator[FakeAllocator]:
    fake = FakeAllocator(path)
    try:
        yield fake
    finally:
        fake.stop()


def eventually(holds: Callable[[], object], claim: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end, f"not in time: {claim}"
        time.sleep(0.02)
