"""An allocator with a real ledger on disk, and everything around it under control."""

from __future__ import annotations

from pathlib import Path

from engine_world import DeviceFolder, EngineWorld, Gpus, Journal
from worlds import STUDENT, policy_of

from ds01.common.ledger import Ledger
from ds01.common.limits import Limits, Policy
from ds01.common.model import Denied, Lease
from ds01.gpu_allocator.allocator import Allocator
from ds01.gpu_allocator.book import Book


class FixedPolicy:
    def __init__(self, limits: Limits) -> None:
        self._policy = policy_of(limits)

    def current(self) -> Policy:
        return self._policy


class Scene:
    """`now` is the clock. `crash` kills the allocator and starts it again on the same ledger."""

    def __init__(self, folder: Path, limits: Limits = STUDENT) -> None:
        self.path = folder / "ledger.sqlite"
        self.now = 1_000_000.0
        self.engine = EngineWorld()
        self.gpus = Gpus()
        self.devices = DeviceFolder()
        self.journal = Journal()
        self.limits = limits
        self.callers_wait = True
        self.allocator = self._start()

    def crash(self) -> None:
        self.allocator = self._start()

    def _start(self) -> Allocator:
        self.ledger = Ledger.open(self.path)
        self.book = Book(self.ledger, self.devices, self.journal, lambda: self.now)
        return Allocator(
            self.book,
            FixedPolicy(self.limits),
            self.engine,
            self.gpus.read,
            lambda uid: (f"user{uid}", frozenset({"student"})),
            self.journal,
            lambda: self.now,
        )

    async def lease(self, uid: int, count: int = 1, request: str = "") -> Lease | Denied:
        request_id = request or f"r{uid}-{len(self.journal.events)}-{self.now}"
        return await self.allocator.lease(request_id, uid, f"train._.{uid}", count, lambda: self.callers_wait)

    async def run(self, uid: int) -> tuple[Lease, str]:
        """A container of `uid` that holds one unit and runs."""
        lease = await self.lease(uid)
        assert isinstance(lease, Lease), lease
        identity = self.engine.create(lease.id, uid)
        self.engine.set(identity, running=True)
        await self.allocator.observe(lease.id)
        return lease, identity
