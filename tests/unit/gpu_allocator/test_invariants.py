"""Whatever happens in whatever order: one unit, one lease; what was acknowledged is not lost; entries follow leases."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from scene import Scene
from worlds import ALICE, BOB, REFERENCE_SITE, RITA

from ds01.common.errors import Unavailable
from ds01.common.model import WITH_DEVICES, Lease, LeaseState
from ds01.gpu_allocator import allocator as module

module.DRAIN_WAIT_S = 0.0  # time is the machine's own here


class Leases(RuleBasedStateMachine):
    """Users lease, start, stop and remove; the allocator dies; GPUs and the engine go silent and come back."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._loop = asyncio.new_event_loop()
        self.scene = self._loop.run_until_complete(self._open())
        self.containers: dict[str, tuple[str, int]] = {}

    async def _open(self) -> Scene:
        scene = Scene(Path(self._folder.name))
        await scene.allocator.reconcile()
        return scene

    def teardown(self) -> None:
        self.scene.ledger.close()
        self._loop.close()
        self._folder.cleanup()

    @rule(uid=st.sampled_from([ALICE, BOB, RITA]), count=st.integers(1, 2))
    def create(self, uid: int, count: int) -> None:
        async def act() -> None:
            verdict = await self.scene.lease(uid, count)
            if isinstance(verdict, Lease):
                self.containers[self.scene.engine.create(verdict.id, uid)] = (verdict.id, uid)

        self._try(act())

    @rule(uid=st.sampled_from([ALICE, BOB]))
    def lease_and_die(self, uid: int) -> None:
        async def act() -> None:
            await self.scene.lease(uid)

        self._try(act())

    @precondition(lambda self: self.containers)
    @rule(data=st.data(), seen=st.booleans())
    def start(self, data: st.DataObject, seen: bool) -> None:
        identity = data.draw(st.sampled_from(sorted(self.containers)))
        lease, uid = self.containers[identity]

        async def act() -> None:
            verdict = await self.scene.allocator.renew(lease, uid)
            if isinstance(verdict, Lease) and lease in self.scene.devices.nodes():
                self.scene.engine.set(identity, running=True)
            if seen:
                await self.scene.allocator.observe(lease)

        self._try(act())

    @precondition(lambda self: self.containers)
    @rule(data=st.data(), seen=st.booleans(), remove=st.booleans())
    def stop(self, data: st.DataObject, seen: bool, remove: bool) -> None:
        identity = data.draw(st.sampled_from(sorted(self.containers)))
        lease, _ = self.containers[identity]
        if remove:
            del self.scene.engine.containers[identity]
            del self.containers[identity]
        else:
            self.scene.engine.set(identity, running=False)
        if seen:
            self._try(self.scene.allocator.observe(lease))

    @rule(seconds=st.sampled_from([1, 61, 901]))
    def time_passes(self, seconds: int) -> None:
        self.scene.now += seconds

        async def act() -> None:
            self.scene.allocator.tick()
            for _ in range(5):
                await asyncio.sleep(0)

        self._try(act())

    @rule()
    def allocator_dies(self) -> None:
        self.scene.ledger.close()
        self.scene.crash()
        self._try(self.scene.allocator.reconcile())

    @rule()
    def engine_goes(self) -> None:
        self.scene.engine.silent = True
        self.scene.allocator.engine_lost()

    @rule()
    def engine_comes(self) -> None:
        self.scene.engine.silent = False
        self._try(self.scene.allocator.reconcile())

    @rule(count=st.sampled_from([8, 6, 3, None]))
    def gpus_change(self, count: int | None) -> None:
        self.scene.gpus.units = None if count is None else REFERENCE_SITE[:count]
        self._try(self.scene.allocator.look_at_gpus())

    @invariant()
    def one_unit_has_one_lease(self) -> None:
        held = [unit.key for lease in self.scene.book.leases for unit in lease.units]
        assert len(held) == len(set(held))

    @invariant()
    def memory_is_the_ledger(self) -> None:
        assert set(self.scene.book.leases) == set(self.scene.ledger.holding())

    @invariant()
    def a_running_container_is_never_without_its_lease(self) -> None:
        for identity, facts in self.scene.engine.containers.items():
            if facts.running:
                assert self.scene.book.find(facts.lease) is not None, identity

    @invariant()
    def no_two_device_entries_share_a_unit(self) -> None:
        nodes = [node for nodes in self.scene.devices.nodes().values() for node in nodes]
        assert len(nodes) == len(set(nodes))

    @invariant()
    def only_leases_that_may_start_have_an_entry(self) -> None:
        may = {lease.id for lease in self.scene.book.leases if lease.state in WITH_DEVICES}
        assert set(self.scene.devices.nodes()) <= may
        assert all(lease.state is not LeaseState.RELEASED for lease in self.scene.book.leases)

    def _try(self, act: object) -> None:
        async def play() -> None:
            try:
                await act  # type: ignore[misc]
            except Unavailable:
                return  # a refusal to decide is an answer

        self._loop.run_until_complete(play())


Leases.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLeases = Leases.TestCase
