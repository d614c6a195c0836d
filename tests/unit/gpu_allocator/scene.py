"""An allocator with a real ledger on disk, and everything around it under control."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from engine_world import DeviceFolder, EngineWorld, Gpus, Journal, UnitsWorld
from worlds import STUDENT, policy_of

from ds01.common import varlink
from ds01.common.errors import LedgerBroken, PeerRefused, Unavailable
from ds01.common.events import Event
from ds01.common.hangups import Hangups
from ds01.common.ledger import Ledger
from ds01.common.limits import GpuTotal, Limits, Policy
from ds01.common.model import Denied, Lease, LeaseState
from ds01.common.peer import Peer
from ds01.common.processes import Place
from ds01.common.varlink import Link
from ds01.gpu_allocator import engine_side, hosts
from ds01.gpu_allocator.allocator import Allocator
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.engine_side import EngineSide
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.hosts import Hosts
from ds01.gpu_allocator.interface import ContainerWish, HostWish, LoginWish
from ds01.gpu_allocator.stock import Stock
from ds01.gpu_allocator.waiting import Queue

engine_side.DRAIN_WAIT_S = hosts.ENDS_LOOK_S = varlink.DEATH_LOOK_S = 0.0  # time is the scene's own

Story = Callable[["Scene"], Awaitable[None]]


class FixedPolicy:
    def __init__(self, limits: Limits, total: GpuTotal) -> None:
        self.policy = policy_of(limits, total)

    def current(self) -> Policy:
        return self.policy


class Caller:
    """Somebody at the other end of a connection."""

    def __init__(self, hangups: Hangups) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.link = Link(self._ours, hangups)

    def hang_up(self) -> None:
        self._theirs.close()

    def close(self) -> None:
        self._theirs.close()
        self._ours.close()


class Scene:
    """`now` is the clock. `crash` kills the allocator and starts it again on the same ledger."""

    UNKNOWN = 4999
    """The uid of an account that is gone."""

    def __init__(self, folder: Path, limits: Limits = STUDENT, total: GpuTotal = GpuTotal()) -> None:  # noqa: B008
        self.path = folder / "ledger.sqlite"
        self.now = 1_000_000.0
        self.engine = EngineWorld()
        self.gpus = Gpus()
        self.units = UnitsWorld()
        self.devices = DeviceFolder()
        self.journal = Journal()
        self.policy = FixedPolicy(limits, total)
        self.places: dict[int, Place] = {}
        self.strange: tuple[str, ...] = ()
        self.slice_error = ""
        self.hangups = Hangups()
        self.callers: list[Caller] = []
        self.allocator = self._start()

    def crash(self) -> None:
        self.facts.engine_known = self.book.is_known = False  # what was under way in the old one comes to nothing
        self.book.close()
        self.ledger.close()
        self.allocator = self._start()
        self.waiting.adopt()

    def close(self) -> None:
        for caller in self.callers:
            caller.close()
        self.hangups.close()
        self.book.close()
        self.ledger.close()

    def _start(self) -> Allocator:
        self.ledger = Ledger.open(self.path)
        self.book = Book(self.ledger, self.devices, self.journal, lambda: self.now)
        stock = Stock(self.gpus.read, self.journal, self.book.see_units)

        def account(uid: int) -> tuple[str, frozenset[str]]:
            if uid == self.UNKNOWN:
                raise PeerRefused("there is no such account")
            return f"user{uid}", frozenset({"student"})

        self.facts = Facts(self.book, stock, self.policy, account, lambda: self.now)
        self.waiting = Queue(self.facts)
        self.hosts = Hosts(
            self.facts, self.units, self._slice, self.gpus.read_processes, self.book.nodes, self.places.get
        )
        self.side = EngineSide(
            self.facts, self.engine, self.journal, lambda lease, pid: self.strange, lambda: self.allocator.changed()
        )
        return Allocator(self.facts, self.side, self.hosts, self.waiting, self._no_rebuild)

    async def _slice(self, uid: int) -> str:
        if self.slice_error:
            raise Unavailable(self.slice_error)
        return f"ds01-student-user{uid}.slice"

    async def _no_rebuild(self) -> list[str]:
        raise AssertionError("nobody asked for it")

    def caller(self) -> Caller:
        self.callers.append(Caller(self.hangups))
        return self.callers[-1]

    def peer(self, uid: int, *, is_admin: bool = False) -> Peer:
        return Peer(uid, f"user{uid}", frozenset(), 1, "", is_admin)

    async def lease(
        self, uid: int, gpus: int | str = 1, request: str = "", wait_s: float = 0.0, caller: Caller | None = None
    ) -> Lease | Denied:
        request_id = request or f"r{uid}-{len(self.journal.events)}-{self.now}-{len(self.callers)}"
        wish = ContainerWish(request_id, uid, f"train._.{uid}", str(gpus), wait_s)
        verdict = await self.allocator.lease(wish, (caller or self.caller()).link)
        return verdict if isinstance(verdict, Denied) else verdict[0]

    async def renew(self, lease_id: str, uid: int, wait_s: float = 0.0) -> Lease | Denied:
        verdict = await self.allocator.renew(lease_id, uid, wait_s, self.caller().link)
        return verdict if isinstance(verdict, Denied) else verdict[0]

    async def program(
        self, uid: int, gpus: str = "1", request: str = "", wait_s: float = 0.0, caller: Caller | None = None
    ) -> Lease | Denied:
        request_id = request or f"p{uid}-{len(self.callers)}"
        wish = HostWish(request_id, "python3", gpus, wait_s)
        verdict = await self.allocator.run(self.peer(uid), wish, (caller or self.caller()).link)
        return verdict if isinstance(verdict, Denied) else verdict[0]

    async def login(self, user: str, gpus: str = "1", for_s: float = 3600.0) -> Lease | Denied:
        wish = LoginWish(user, gpus, self.now + for_s)
        verdict = await self.allocator.open_login(self.peer(0, is_admin=True), wish)
        return verdict if isinstance(verdict, Denied) else verdict[0]

    async def run(self, uid: int, gpus: int | str = 1) -> tuple[Lease, str]:
        """A container of `uid` that holds what it asked for and runs."""
        lease = await self.lease(uid, gpus)
        assert isinstance(lease, Lease), lease
        identity = self.engine.create(lease.id, uid)
        self.engine.set(identity, running=True)
        await self.side.observe(lease.id)
        return lease, identity

    async def stop(self, lease: Lease, identity: str) -> None:
        self.engine.set(identity, running=False)
        await self.side.observe(lease.id)

    async def remove(self, lease: Lease, identity: str) -> None:
        del self.engine.containers[identity]
        await self.side.observe(lease.id)

    async def remove_and_break_ledger(self, lease: Lease, identity: str) -> None:
        """The end of the lease is the last thing that is written; what follows fails before anybody looks again."""
        del self.engine.containers[identity]
        emit, loop = self.journal.emit, asyncio.get_running_loop()

        def emit_and_break(event: Event) -> None:
            emit(event)
            if event.name == "gpu.released":
                self.break_ledger()
                loop.call_soon(loop.call_soon, time.sleep, 0.05)  # the loop is busy once a turn has been given

        self.journal.emit = emit_and_break  # type: ignore[method-assign]
        await self.side.observe(lease.id)
        self.journal.emit = emit  # type: ignore[method-assign]

    def state(self, lease: Lease) -> LeaseState | None:
        found = self.book.find(lease.id)
        return found.state if found else None

    async def pass_time(self, seconds: float) -> None:
        """Let the clock go on, and everything that follows from it happen."""
        self.now += seconds
        self.allocator.tick()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            with suppress(LedgerBroken):
                await self.book.settled()
            await asyncio.sleep(0.001)

    def break_ledger(self, *, broken: bool = True) -> None:
        """From now on nothing can be written, or it can again."""
        self.ledger._connection.execute(f"PRAGMA query_only = {'ON' if broken else 'OFF'}")


@asynccontextmanager
async def scene_in(folder: Path, limits: Limits = STUDENT) -> AsyncIterator[Scene]:
    stage = Scene(folder, limits)
    try:
        yield stage
    finally:
        stage.close()


def play(folder: Path, story: Story, limits: Limits = STUDENT) -> None:
    """A story on a scene whose engine and GPUs answer."""

    async def scene() -> None:
        async with scene_in(folder, limits) as stage:
            await stage.side.reconcile()
            await asyncio.wait_for(story(stage), 20)

    asyncio.run(scene())
