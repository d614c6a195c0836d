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
from ds01.common.errors import PeerRefused
from ds01.common.events import Event
from ds01.common.hangups import Hangups
from ds01.common.limits import Limits, Policy
from ds01.common.peer import Peer
from ds01.common.varlink import call
from ds01.docker_shim.actions import Actions, Doors
from ds01.docker_shim.audit import Audit
from ds01.docker_shim.clients import AllocatorClient, LimitsClient
from ds01.docker_shim.engine_state import EngineState
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


def denial(reason: str, message: str = "no", hint: str = "", to_end: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """A "no" as the allocator says it."""
    numbers = {"limit": "2", "used": "2", "requested": "1"}
    return {"reason": reason, "message": message, "hint": hint, **numbers, "to_end": [*to_end]}


class FakeServices:
    """Allocator and limits_sync on one socket, which speaks Varlink. While `turn` is not set, no unit is free.

    `down`: methods at which the connection is closed. `waiting` and `left`: request ids or leases that wait in the
    queue, and whose callers closed while they did. `ended`: leases that are no more, in whose place others are given.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.down: set[str] = set()
        self.denial: dict[str, Any] | None = None
        self.warnings: list[str] = []
        self.turn = asyncio.Event()
        self.turn.set()
        self.waiting: list[str] = []
        self.left: list[str] = []
        self.ended: set[str] = set()
        self.recorded = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def named(self, method: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == method]

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    def stop(self) -> None:
        """As a daemon that is killed: nobody listens, and every connection is lost."""
        assert self._server is not None
        self._server.close()
        Path(self.path).unlink()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            call = json.loads((await reader.readuntil(b"\0"))[:-1])
            name, parameters = call["method"].rsplit(".", 1)[-1], call.get("parameters", {})
            self.calls.append((name, parameters))
            if name in self.down:
                return
            reply = await self._answer(name, parameters, reader)
            if reply is not None:
                writer.write(json.dumps({"parameters": reply}).encode() + b"\0")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer(
        self, name: str, parameters: dict[str, Any], reader: asyncio.StreamReader
    ) -> dict[str, Any] | None:
        match name:
            case "EnsureSlice":
                uid = parameters["uid"]
                return {"slice": f"ds01-student-u{uid}.slice", "group": "student"}
            case "Lease" | "Renew":
                return await self._grant(parameters, reader)
            case "Record":
                self.recorded.set()
            case "Release":
                self.ended.add(parameters["lease"])
        return {}

    async def _grant(self, parameters: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any] | None:
        if self.denial is not None:
            return {"grant": None, "denial": self.denial}
        if not self.turn.is_set():
            if not parameters["wait_s"]:
                return {"grant": None, "denial": denial("none-free")}
            if not await self._queued(parameters, reader):
                return None
        lease = parameters.get("lease") or f"l-{parameters['request_id'][:8]}"
        while lease in self.ended:
            lease += "-again"
        units = [{"name": "0:0", "profile": "2g.10gb", "uuid": ""}]
        grant = {"lease": lease, "state": "granted", "units": units, "warnings": self.warnings, "until": None}
        return {"grant": grant, "denial": None}

    async def _queued(self, parameters: dict[str, Any], reader: asyncio.StreamReader) -> bool:
        """True when the turn has come, False when the caller has closed."""
        who = parameters.get("request_id") or parameters["lease"]
        self.waiting.append(who)
        turn, closed = asyncio.create_task(self.turn.wait()), asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({turn, closed}, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                self.left.append(who)
            return not closed.done()
        finally:
            self.waiting.remove(who)
            turn.cancel()
            closed.cancel()
            await asyncio.gather(turn, closed, return_exceptions=True)


class World:
    """The running parts, and hands to ask with."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.engine = FakeEngine(str(folder / "engine.sock"))
        self.services = FakeServices(str(folder / "ds01.sock"))
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
async def running(patience_s: float = 1.0, kept_s: float = 1.5) -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), LIMITS)
        await world.engine.start()
        await world.services.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind(world.path)
        listener.listen()
        engine = Engine(world.engine.path, timeout_s=5)
        state = EngineState(Engine(world.engine.path, timeout_s=0.5), engine)
        allocator = AllocatorClient(call, world.services.path, patience_s, kept_s)
        limits = LimitsClient(call, world.services.path, patience_s)
        doors = Doors(engine, engine, state, allocator, limits, world.policy)
        audit = Audit(world, allocator.record, Coalescer(window_s=0.2))
        hangups = Hangups()
        relayer = Relayer(hangups, world.engine.path)
        server = Server(Actions(doors), relayer, hangups, state, audit, world.identify, world.budget)
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
            world.services.stop()
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
