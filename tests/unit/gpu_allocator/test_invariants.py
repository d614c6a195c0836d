"""Whatever happens in whatever order: one unit, one lease; what was acknowledged is not lost; entries follow leases;
nobody waits whose turn it is."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from engine_world import EVER
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scene import Caller, Scene
from worlds import ALICE, BOB, CUT_ANEW, REFERENCE_SITE, RESEARCHER, RITA

from ds01.common.errors import Ds01Error, LedgerBroken
from ds01.common.model import WITH_DEVICES, Denied, Lease, LeaseKind, LeaseState, Unit, Waiter
from ds01.common.processes import Place
from ds01.gpu_allocator.shares import score
from ds01.gpu_allocator.waiting import REJOIN_S

MOST_MIG, MOST_GPUS = 3, Fraction(12, 7)
LIMITS = replace(RESEARCHER, max_mig_instances=MOST_MIG, max_gpu_equivalents=MOST_GPUS, max_gpu_units_per_container=2)

USERS = st.sampled_from([ALICE, BOB, RITA])
KINDS = ["2g.10gb", "2x2g.10gb", "full"]
"""Requests that one look at the free units can tell the outcome of."""
ASKED = st.sampled_from(["1", "2", "0:0", "all", "2x10g", *KINDS])
FEW = (*REFERENCE_SITE[1:5], REFERENCE_SITE[6])
"""So few units that people have to wait."""
LAYOUTS = [FEW, FEW[1:], FEW[:4], REFERENCE_SITE, CUT_ANEW]
LOGINS = {"nobody": 65534, "daemon": 1}


@dataclass
class Waits:
    """Somebody who waits, or did until the allocator died."""

    uid: int
    gpus: str
    caller: Caller
    task: asyncio.Task[Lease | Denied] | None


class Leases(RuleBasedStateMachine):
    """Users lease, start, stop, remove, run, wait and hang up; logins are opened; the allocator dies; GPUs, the engine
    and the ledger fail and come back."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.containers: dict[str, tuple[str, int]] = {}
        self.programs: dict[str, int] = {}
        self.living: dict[int, str] = {}
        self.waits: dict[str, Waits] = {}
        self.troubles: dict[str, int] = {}
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self.scene = Scene(Path(self._folder.name), LIMITS)
        self.units = self.scene.gpus.units = FEW
        await self.scene.allocator.look()
        await self.scene.side.reconcile()

    def teardown(self) -> None:
        self._loop.run_until_complete(self._close())
        self._loop.close()
        self._folder.cleanup()

    async def _close(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        self.scene.close()

    @initialize(busy=st.lists(st.tuples(USERS, st.sampled_from(["1", "2", "full"])), max_size=4))
    def some_run_already(self, busy: list[tuple[int, str]]) -> None:
        for uid, gpus in busy:
            self.create(uid, gpus)
        for identity in self.containers:
            self.scene.engine.set(identity, running=True)
        self._try(self.scene.side.reconcile())

    # --- containers -------------------------------------------------------------------------------------------------

    @rule(uid=USERS, gpus=ASKED)
    def create(self, uid: int, gpus: str) -> None:
        async def act() -> None:
            self._use(await self.scene.lease(uid, gpus, self._next()))

        self._try(act())

    @rule(uid=USERS)
    def lease_and_die(self, uid: int) -> None:
        self._try(self.scene.lease(uid, "1", self._next()))

    @precondition(lambda self: self.containers)
    @rule(data=st.data(), seen=st.booleans())
    def start(self, data: st.DataObject, seen: bool) -> None:
        identity = data.draw(st.sampled_from(list(self.containers)))
        lease, uid = self.containers[identity]

        async def act() -> None:
            verdict = await self.scene.renew(lease, uid)
            if isinstance(verdict, Lease) and lease in self.scene.devices.nodes():
                self.scene.engine.set(identity, running=True)
            if seen:
                await self.scene.side.observe(lease)

        self._try(act())

    @precondition(lambda self: self.containers)
    @rule(data=st.data(), seen=st.booleans(), remove=st.booleans())
    def stop(self, data: st.DataObject, seen: bool, remove: bool) -> None:
        identity = data.draw(st.sampled_from(list(self.containers)))
        lease, _ = self.containers[identity]
        if remove:
            del self.scene.engine.containers[identity]
            del self.containers[identity]
        else:
            self.scene.engine.set(identity, running=False)
        if seen:
            self._try(self.scene.side.observe(lease))

    # --- programs and logins ----------------------------------------------------------------------------------------

    @rule(uid=USERS, gpus=st.sampled_from(["1", "0", "2"]), computes=st.booleans())
    def run(self, uid: int, gpus: str, computes: bool) -> None:
        async def act() -> None:
            verdict = await self.scene.program(uid, gpus, self._next())
            if isinstance(verdict, Lease):
                self.programs[verdict.id] = uid
                if computes:
                    self._compute(verdict, Place(uid, f"user{uid}", "", verdict.scope))

        self._try(act())

    @precondition(lambda self: self.programs)
    @rule(data=st.data(), escaped=st.booleans())
    def scope_ends(self, data: st.DataObject, escaped: bool) -> None:
        lease_id = data.draw(st.sampled_from(list(self.programs)))
        uid = self.programs.pop(lease_id)
        del self.scene.units.scopes[f"ds01-{lease_id}.scope"]
        for pid in [pid for pid, its in self.living.items() if its == lease_id]:
            if escaped:
                self.scene.places[pid] = Place(uid, f"user{uid}", "", "")
            else:
                self._end(pid)
        self._try(self.scene.allocator.look())

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def process_ends(self, data: st.DataObject) -> None:
        self._end(data.draw(st.sampled_from(list(self.living))))

    @rule(user=st.sampled_from(sorted(LOGINS)), gpus=st.sampled_from(["1", "full", "0:1"]), computes=st.booleans())
    def open_login(self, user: str, gpus: str, computes: bool) -> None:
        async def act() -> None:
            verdict = await self.scene.login(user, gpus, 600.0)
            if isinstance(verdict, Lease) and computes:
                self._compute(verdict, Place(LOGINS[user], user, "", ""))

        self._try(act())

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        open_now = [one.id for one in self.scene.book.leases if one.kind is LeaseKind.LOGIN]
        if open_now:
            lease_id = data.draw(st.sampled_from(open_now))
            self._try(self.scene.allocator.revoke(self.scene.peer(0, is_admin=True), lease_id))

    # --- the queue --------------------------------------------------------------------------------------------------

    @rule(uid=USERS, gpus=st.sampled_from(KINDS))
    def wait(self, uid: int, gpus: str) -> None:
        self._wait(self._next(), uid, gpus)

    @precondition(lambda self: any(one.task is None for one in self.waits.values()))
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([key for key, one in self.waits.items() if one.task is None]))
        self._wait(request, self.waits[request].uid, self.waits[request].gpus)

    @precondition(lambda self: any(one.task is not None for one in self.waits.values()))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([key for key, one in self.waits.items() if one.task is not None]))
        self.waits[request].caller.hang_up()
        self._try(asyncio.sleep(0.002))
        assert request not in self.waits or ("ledger" in self.troubles and self.waits[request].task is None)

    # --- everything else --------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, REJOIN_S + 1, 61.0, 601.0, 901.0]))
    def time_passes(self, seconds: float) -> None:
        self.scene.now += seconds

        async def act() -> None:
            self.scene.allocator.tick()
            self.scene.waiting.wake()

        self._try(act())

    @rule()
    def allocator_dies(self) -> None:
        async def act() -> None:
            self.scene.crash()
            self.scene.break_ledger(broken="ledger" in self.troubles)
            for one in self.waits.values():
                if one.task is not None:
                    one.task.cancel()
                    one.task = None
            await asyncio.sleep(0)
            await self.scene.allocator.look()
            await self.scene.hosts.restore_logins()
            await self.scene.side.reconcile()

        self._try(act())

    @rule(what=st.sampled_from(["engine", "ledger", "gpus", "systemd"]), steps=st.integers(1, 6))
    def trouble(self, what: str, steps: int) -> None:
        """Something fails for as long as a few other things take to happen."""
        self.troubles[what] = steps
        self._set(what, fails=True)

    @rule(units=st.sampled_from(LAYOUTS), withheld=st.sampled_from([{}, {}, {1: "Xid 79"}]))
    def gpus_change(self, units: tuple[Unit, ...], withheld: dict[int, str]) -> None:
        self.units, self.scene.gpus.withheld = units, withheld
        if "gpus" not in self.troubles:
            self.scene.gpus.units = units
        self._try(self.scene.allocator.look())

    @rule()
    def look(self) -> None:
        self._try(self.scene.allocator.look())

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def one_unit_has_one_lease(self) -> None:
        held = [unit.key for lease in self.scene.book.leases for unit in lease.units]
        assert len(held) == len(set(held))

    @invariant()
    def memory_is_the_ledger(self) -> None:
        assert set(self.scene.book.leases) == set(self.scene.ledger.holding())
        assert set(self.scene.book.waiters) == set(self.scene.ledger.waiters())

    @invariant()
    def a_lease_holds_what_it_counts(self) -> None:
        for lease in self.scene.book.leases:
            assert len(lease.units) == lease.count
            assert lease.units

    @invariant()
    def nobody_has_more_than_his_quota(self) -> None:
        for uid in (ALICE, BOB, RITA):
            units = [unit for lease in self.scene.book.leases if lease.uid == uid for unit in lease.units]
            assert sum(1 for unit in units if unit.key.placement) <= MOST_MIG
            assert sum((unit.size for unit in units), Fraction(0)) <= MOST_GPUS

    @invariant()
    def a_running_container_is_never_without_its_lease(self) -> None:
        for identity, facts in self.scene.engine.containers.items():
            if facts.running and self.scene.facts.engine_known:
                assert self.scene.book.find(facts.lease) is not None, identity

    @invariant()
    def a_living_process_keeps_the_lease_that_it_came_with(self) -> None:
        for pid, lease_id in self.living.items():
            assert self.scene.book.find(lease_id) is not None, pid

    @invariant()
    def a_living_scope_keeps_its_lease(self) -> None:
        for scope, plan in self.scene.units.scopes.items():
            lease_id = scope.removeprefix("ds01-").removesuffix(".scope")
            assert self.scene.book.find(lease_id) is not None or not plan.devices, scope

    @invariant()
    def a_login_opens_nothing_that_it_has_no_lease_for(self) -> None:
        for uid in LOGINS.values():
            keys = {unit.key for one in self.scene.book.leases if one.uid == uid for unit in one.units}
            his = {unit.uuid for unit in EVER if unit.key in keys}
            assert self.scene.units.may_open(f"user-{uid}.slice") <= his

    @invariant()
    def no_two_device_entries_share_a_unit(self) -> None:
        nodes = [node for nodes in self.scene.devices.nodes().values() for node in nodes]
        assert len(nodes) == len(set(nodes))

    @invariant()
    def only_leases_that_may_start_have_an_entry(self) -> None:
        may = {lease.id for lease in self.scene.book.leases if lease.state in WITH_DEVICES}
        assert set(self.scene.devices.nodes()) <= may
        assert all(lease.state is not LeaseState.RELEASED for lease in self.scene.book.leases)

    @invariant()
    def nobody_waits_whose_turn_it_is(self) -> None:
        inventory, waiters = self.scene.facts.stock.last, self.scene.book.waiters
        if inventory is None or not waiters or not self.scene.facts.engine_known:
            return
        first = min(waiters, key=self._order)
        wait = self.waits[first.request_id]
        if wait.task is None:
            return
        taken = {unit.key for lease in self.scene.book.leases for unit in lease.units}
        profile, count = first.request.rpartition("x")[2], 2 if first.request.startswith("2x") else 1
        would_do = [unit for unit in inventory.units if unit.profile == profile and unit.key not in taken]
        would_do = [unit for unit in would_do if unit.key not in self.scene.facts.intruded]
        mine = [unit for lease in self.scene.book.leases if lease.uid == first.uid for unit in lease.units]
        if len(would_do) >= count:
            instances = sum(1 for unit in [*mine, *would_do[:count]] if unit.key.placement)
            sizes = sum((unit.size for unit in [*mine, *would_do[:count]]), Fraction(0))
            is_mig = bool(would_do[0].key.placement)
            assert (is_mig and instances > MOST_MIG) or sizes > MOST_GPUS, f"{first} could have {would_do[:count]}"

    @invariant()
    def a_place_is_kept_for_who_is_there_or_may_come_back(self) -> None:
        kept = {one.request_id for one in self.scene.book.waiters}
        assert {key for key, one in self.waits.items() if one.task is not None} <= kept
        assert kept <= set(self.waits)

    # --- trouble ----------------------------------------------------------------------------------------------------

    def _set(self, what: str, *, fails: bool) -> None:
        match what:
            case "engine":
                self.scene.engine.silent = fails
                if fails:
                    self.scene.side.lost()
            case "ledger":
                self.scene.break_ledger(broken=fails)
            case "gpus":
                self.scene.gpus.units = None if fails else self.units
            case "systemd":
                self.scene.units.silent = fails

    async def _endure(self) -> None:
        """Troubles pass, and what hangs on them is looked at soon."""
        for what, steps in list(self.troubles.items()):
            self.troubles[what] = steps - 1
            if steps == 0:
                del self.troubles[what]
                self._set(what, fails=False)
        if not self.scene.facts.engine_known:
            with suppress(Ds01Error):
                await self.scene.side.reconcile()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _order(self, waiter: Waiter) -> tuple[float, float, int, str]:
        return (score(self.scene.book.share(waiter.uid), 100), waiter.since, waiter.uid, waiter.request_id)

    def _next(self) -> str:
        self._number += 1
        return f"r{self._number}"

    def _use(self, verdict: Lease | Denied) -> None:
        if isinstance(verdict, Lease):
            self.containers[self.scene.engine.create(verdict.id, verdict.uid)] = (verdict.id, verdict.uid)

    def _compute(self, lease: Lease, place: Place) -> None:
        unit = next((unit for unit in EVER if lease.units and unit.key == lease.units[0].key), None)
        if unit is not None:
            self._number += 1
            self.scene.places[self._number] = place
            self.living[self._number] = lease.id
            self.scene.gpus.compute(self._number, unit)

    def _end(self, pid: int) -> None:
        self.scene.gpus.end(pid)
        del self.scene.places[pid]
        del self.living[pid]

    def _wait(self, request: str, uid: int, gpus: str) -> None:
        async def act() -> None:
            caller = self.scene.caller()
            task = asyncio.create_task(self.scene.lease(uid, gpus, request, 1e6, caller))
            self.waits[request] = Waits(uid, gpus, caller, task)

        self._try(act())

    async def _quiet(self) -> None:
        """Wait until nothing more follows by itself."""
        for _ in range(12):
            with suppress(LedgerBroken):
                await self.scene.book.settled()
            await asyncio.sleep(0)

    def _collect(self) -> None:
        """What became of those who wait."""
        for one in self.waits.values():
            if one.task is not None and one.task.done():
                with suppress(Ds01Error):
                    self._use(one.task.result())
                one.task = None
        kept = {waiter.request_id for waiter in self.scene.book.waiters}
        self.waits = {key: one for key, one in self.waits.items() if key in kept or one.task is not None}

    def _try(self, act: Coroutine[Any, Any, object]) -> None:
        async def play() -> None:
            await self._endure()
            with suppress(Ds01Error):  # a refusal to decide is an answer
                await act
            await self._quiet()

        self._loop.run_until_complete(play())
        self._collect()


Leases.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, report_multiple_bugs=False)
TestLeases = Leases.TestCase
