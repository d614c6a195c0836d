"""The allocator: turns requests, the engine's word and the clock into committed changes. Decides nothing itself.

Between a decision and its commit nothing is awaited, so no two requests ever decide on the same world.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from ds01.common.errors import Ds01Error, EngineRefused, Unavailable
from ds01.common.events import Event, EventLog
from ds01.common.inventory import Inventory
from ds01.common.limits import Limits, Policy
from ds01.common.model import ContainerFacts, Denied, Lease, LeasedUnit, LeaseState, Unit
from ds01.common.peer import Peer
from ds01.common.rates import Rates
from ds01.gpu_allocator import views
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.decide import World, decide
from ds01.gpu_allocator.interface import Overview, Report
from ds01.gpu_allocator.lifecycle import (
    DRAIN_WAIT_S,
    Change,
    Timeouts,
    on_clock,
    on_container,
    on_renew,
    release,
)
from ds01.gpu_allocator.reports import about, denied

INVENTORY_MAX_AGE_S = 1.0
"""How old an inventory may be when it is decided on; a storm of requests shares one reading."""

DENIALS_PER_S, DENIALS_BURST = 0.1, 20.0
"""How many denials of one user reach the journal."""

LOOKS_AT_ONCE = 32
"""How many containers are asked about at the same time."""

_logger = logging.getLogger(__name__)


class PolicySource(Protocol):
    def current(self) -> Policy: ...


class EngineView(Protocol):
    """What the allocator asks the engine."""

    async def answers(self) -> None: ...
    async def inspect(self, reference: str) -> ContainerFacts | None: ...
    async def start(self, container: str) -> None: ...
    async def find_leased(self, lease: str) -> ContainerFacts | None: ...


class Allocator:
    """The one owner of who holds which GPU."""

    def __init__(
        self,
        book: Book,
        policy: PolicySource,
        engine: EngineView,
        read_inventory: Callable[[], Awaitable[Inventory]],
        account: Callable[[int], tuple[str, frozenset[str]]],
        log: EventLog,
        clock: Callable[[], float],
    ) -> None:
        self._book = book
        self._policy = policy
        self._engine = engine
        self._read_inventory = read_inventory
        self._account = account
        self._log = log
        self._clock = clock
        self._inventory: Inventory | None = None
        self._inventory_at = 0.0
        self._reading: asyncio.Task[Inventory] | None = None
        self._nvml_lost = False
        self._engine_known = False
        self._alarm: asyncio.TimerHandle | None = None
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._looks: dict[str, asyncio.Lock] = {}
        self._denials = Rates(DENIALS_PER_S, DENIALS_BURST)
        self._hints: set[asyncio.Task[None]] = set()
        self._few = asyncio.Semaphore(LOOKS_AT_ONCE)

    # --- requests -----------------------------------------------------------------------------------------------

    async def lease(
        self, request_id: str, uid: int, container_name: str, count: int, is_there: Callable[[], bool]
    ) -> Lease | Denied:
        """A new lease, or why not; the same request has the same answer. A caller who has gone gets none."""
        inventory = await self._fresh_inventory()
        if not is_there():
            raise Unavailable("the caller did not wait; nothing was granted")
        self._require_engine()
        known = self._book.of_request(uid, request_id)
        if known is not None:
            if known.state is not LeaseState.GRANTED or known.container:
                raise Unavailable(f"request '{request_id}' was answered before, and its lease was used; ask anew")
            return known
        user, group, limits = self._limits(uid)
        now = self._clock()
        blank = Lease(
            id=f"l{secrets.token_hex(8)}",
            request_id=request_id,
            uid=uid,
            user=user,
            group=group,
            container="",
            container_name=container_name,
            count=count,
            state=LeaseState.GRANTED,
            since=now,
            until=now + self._policy.current().policies.granted_timeout_s,
            units=(),
        )
        return self._grant(blank, "gpu.granted", limits, inventory)

    async def renew(self, lease_id: str, uid: int) -> Lease | Denied:
        """The lease with units for a start that is about to be forwarded, other units than before if need be."""
        inventory = await self._fresh_inventory()
        self._require_engine()
        lease = self._book.past(lease_id)
        if lease is None or lease.uid != uid:
            raise Unavailable(f"there is no lease '{lease_id}'; create the container anew")
        if lease.state is not LeaseState.RELEASED and self._book.is_complete(lease):
            change = on_renew(lease, self._clock())
            if change is None:
                return lease
            self._stop_drain(lease_id)
            return self._committed(change)
        if lease.state is LeaseState.ACTIVE:
            return lease
        _, _, limits = self._limits(uid)
        now = self._clock()
        self._stop_drain(lease_id)
        state = LeaseState.HELD if lease.container else LeaseState.GRANTED
        until = now + self._policy.current().policies.granted_timeout_s
        blank = replace(lease, state=state, since=now, until=until, units=())
        return self._grant(blank, "gpu.renewed", limits, inventory)

    async def release(self, lease_id: str, reason: str) -> None:
        """End a lease whose container never came or is gone, on the engine's word and not the caller's."""
        self._require_engine()
        lease = self._book.find(lease_id)
        if lease is not None and await self._container_of(lease) is None:
            self._end(lease_id, reason)

    async def explain(self, peer: Peer, count: int) -> tuple[list[str], tuple[Unit, ...] | Denied]:
        """What a request would get now, and why."""
        inventory = await self._fresh_inventory()
        _, _, limits = self._limits(peer.uid)
        return views.explain(peer.uid, count, limits, World(inventory.units, self._book.leases))

    async def overview(self, peer: Peer) -> Overview:
        """Who holds what."""
        inventory = await self._fresh_inventory()
        _, _, limits = self._limits(peer.uid)
        world = World(inventory.units, self._book.leases)
        return views.overview(views.Viewer(peer.uid, peer.is_admin), world, inventory.withheld, limits)

    def record(self, report: Report) -> None:
        """Keep a refusal of the shim. The shim has told the journal itself."""
        user, _ = self._account(report.uid)
        self._book.keep(
            Event(
                name="access.refused",
                message=report.message,
                user=user,
                uid=report.uid,
                container=report.container,
                container_name=report.container_name,
                reason=report.reason,
                request=report.request,
                count=report.count,
            )
        )

    def uuid_of(self, lease: Lease) -> dict[str, str]:
        """Today's device UUIDs of a lease's units, by unit name."""
        uuids = {unit.key: unit.uuid for unit in self._book.units}
        return {unit.name: uuids.get(unit.key, "") for unit in lease.units}

    # --- the engine's word ----------------------------------------------------------------------------------------

    def engine_lost(self) -> None:
        """From now on nothing is granted or released."""
        if self._engine_known:
            self._engine_known = False
            self._log.emit(Event("engine.lost", "The Docker engine does not answer; nothing is granted or released"))

    async def reconcile(self) -> None:
        """Ask the engine about the container of every lease: compare, correct, go on."""
        await self._engine.answers()
        if not self._engine_known:
            self._engine_known = True
            self._log.emit(Event("engine.found", "The Docker engine answers"))
        await asyncio.gather(*(self._look(lease.id) for lease in self._book.leases))
        self.tick()

    def hint(self, lease_id: str) -> None:
        """Something happened to the container of this lease: look at it, without keeping anybody waiting."""
        if self._book.find(lease_id) is not None:
            look = asyncio.create_task(self._look(lease_id))
            self._hints.add(look)
            look.add_done_callback(self._hints.discard)

    async def _look(self, lease_id: str) -> None:
        """A look that may fail: one container that the engine can't tell of says nothing about the others.

        What was not seen has not changed: a look that failed never counts as "not running".
        """
        try:
            async with self._few:
                await self.observe(lease_id)
        except Ds01Error as exc:
            _logger.warning("lease %s could not be looked at: %s", lease_id, exc)

    async def observe(self, lease_id: str) -> None:
        """Something may have happened to the container of this lease: look at it. One look at a time, so that an
        older answer never overrides a newer one."""
        async with self._looks.setdefault(lease_id, asyncio.Lock()):
            lease = self._book.find(lease_id)
            if lease is not None:
                facts = await self._container_of(lease)
                self._see(self._book.find(lease_id), facts)
                if facts is not None and facts.lost_its_restart:
                    await self._start_again(lease, facts)
        if self._book.find(lease_id) is None:
            self._looks.pop(lease_id, None)

    def tick(self) -> None:
        """Do what the clock asks for, and set the alarm for the next time."""
        if self._engine_known:
            now = self._clock()
            for lease in self._book.leases:
                change = on_clock(lease, now)
                if change is not None:
                    self._committed(change)
                if lease.state is LeaseState.DRAINING or (change and change.lease.state is LeaseState.DRAINING):
                    self._start_drain(lease.id)
        self._set_alarm()

    async def look_at_gpus(self) -> None:
        """Read the inventory, so that device entries follow GPUs that come and go, and containers theirs."""
        waiting = [lease.id for lease in self._book.leases if not self._book.is_complete(lease)]
        try:
            await self._fresh_inventory(max_age_s=0.0)
            for lease in self._book.leases:
                if lease.id in waiting and self._book.is_complete(lease) and self._engine_known:
                    await self.observe(lease.id)
        except Unavailable as exc:
            _logger.debug("%s", exc)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _grant(self, blank: Lease, event: str, limits: Limits, inventory: Inventory) -> Lease | Denied:
        others = tuple(lease for lease in self._book.leases if lease.id != blank.id)
        verdict = decide(blank.uid, blank.count, limits, World(inventory.units, others))
        if isinstance(verdict, Denied):
            self._tell_denied(denied(blank, verdict))
            return verdict
        units = tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in verdict.units)
        return self._committed(Change(replace(blank, units=units), event, "within quota, and free"))

    async def _start_again(self, lease: Lease, facts: ContainerFacts) -> None:
        """The engine gave up on a restart for want of a device: do it now that the device is there, or say why not."""
        if facts.owner_uid != lease.uid or facts.id != lease.container or not self._book.is_complete(lease):
            return
        try:
            await self._engine.start(facts.id)
        except EngineRefused as exc:
            self._book.note(about("container.restart-failed", lease, facts, exc.message))
            return
        self._see(self._book.find(lease.id), await self._container_of(lease))
        self._book.note(about("container.restarted", lease, facts, facts.error))

    def _tell_denied(self, event: Event) -> None:
        """Each denial is a row of the ledger; who asks in a loop does not fill the journal as well."""
        if self._denials.allows(event.uid or 0, asyncio.get_running_loop().time()):
            self._book.note(event)
        else:
            self._book.keep(event)

    def _see(self, lease: Lease | None, facts: ContainerFacts | None) -> None:
        if lease is None:
            return
        if facts is not None and (facts.owner_uid != lease.uid or (lease.container and facts.id != lease.container)):
            return  # a label proves nothing: this is not the container that the ledger knows
        change = on_container(lease, facts, self._timeouts(lease.uid), self._clock())
        if change is not None:
            self._stop_drain(lease.id)
            self._committed(change)

    async def _container_of(self, lease: Lease) -> ContainerFacts | None:
        facts = await self._engine.inspect(lease.container) if lease.container else None
        # While any container carries the lease's label its units are not free, whatever became of the first one.
        return facts or await self._engine.find_leased(lease.id)

    def _committed(self, change: Change) -> Lease:
        lease = self._book.commit(change)
        self._set_alarm()
        return lease

    def _end(self, lease_id: str, reason: str) -> None:
        lease = self._book.find(lease_id)
        if lease is not None:
            self._committed(release(lease, reason, self._clock()))

    def _limits(self, uid: int) -> tuple[str, str, Limits]:
        user, unix_groups = self._account(uid)
        policy = self._policy.current()
        return user, policy.group_of(user, unix_groups), policy.limits_for(user, unix_groups)

    def _timeouts(self, uid: int) -> Timeouts:
        granted_s = self._policy.current().policies.granted_timeout_s
        return Timeouts(self._limits(uid)[2].gpu_hold_after_stop_s, granted_s)

    def _require_engine(self) -> None:
        if not self._engine_known:
            raise Unavailable("the Docker engine does not answer, so no GPU is granted; try again in a moment")

    async def _fresh_inventory(self, max_age_s: float = INVENTORY_MAX_AGE_S) -> Inventory:
        loop = asyncio.get_running_loop()
        if self._inventory is not None and loop.time() - self._inventory_at < max_age_s:
            return self._inventory
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._update_inventory())
        return await asyncio.shield(self._reading)

    async def _update_inventory(self) -> Inventory:
        try:
            inventory = await self._read_inventory()
        except Unavailable as exc:
            self._inventory = None
            if not self._nvml_lost:
                self._nvml_lost = True
                self._log.emit(Event("nvml.lost", f"The state of the GPUs is unknown: {exc}", reason=str(exc)))
            raise
        if self._nvml_lost or self._inventory is None or self._inventory.units != inventory.units:
            names = ",".join(unit.name for unit in inventory.units)
            self._log.emit(Event("nvml.found", f"The GPUs were read: {names or 'no unit'}", new=names))
        self._nvml_lost = False
        self._inventory, self._inventory_at = inventory, asyncio.get_running_loop().time()
        self._book.see_units(inventory.units)
        return inventory

    # --- taking a unit away -----------------------------------------------------------------------------------------

    def _start_drain(self, lease_id: str) -> None:
        running = self._drains.get(lease_id)
        if running is None or running.done():
            self._drains[lease_id] = asyncio.create_task(self._drain(lease_id))

    def _stop_drain(self, lease_id: str) -> None:
        drain = self._drains.pop(lease_id, None)
        if drain is not None:
            drain.cancel()

    async def _drain(self, lease_id: str) -> None:
        """The device entry is gone: look, wait, look again, and only then free the unit."""
        try:
            for wait_s in (0.0, DRAIN_WAIT_S):
                await asyncio.sleep(wait_s)
                lease = self._book.find(lease_id)
                if lease is None or lease.state is not LeaseState.DRAINING:
                    return
                facts = await self._container_of(lease)
                if facts is not None and (facts.running or facts.restarting):
                    self._drains.pop(lease_id, None)
                    self._see(lease, facts)
                    return
            self._drains.pop(lease_id, None)
            self._end(lease_id, "its hold is over and its container does not run")
        except Ds01Error as exc:
            _logger.debug("lease %s keeps draining: %s", lease_id, exc)  # reconcile tries again

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        ends = [lease.until for lease in self._book.leases if lease.until is not None]
        if ends and self._engine_known:
            delay_s = max(0.05, min(ends) - self._clock())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.tick)
