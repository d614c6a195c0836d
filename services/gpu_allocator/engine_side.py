"""The engine's word on the containers of leases: compare, correct, take units away, start again what was given up.

An event is a hint to look, a list a hint of what differs; only a look at one container changes its lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from ds01.common.errors import Ds01Error, EngineRefused
from ds01.common.events import Event, EventLog
from ds01.common.model import ContainerFacts, Lease, LeaseKind, LeaseState, Listed, UnitKey
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.foreign import Foreign, gpus_of, of_foreign
from ds01.gpu_allocator.lifecycle import DRAIN_WAIT_S, on_container, on_units, release
from ds01.gpu_allocator.reports import of_lease, of_restart

STRANGER_S = 3.0
"""How long the engine may take to tell of a container that no lease knows."""

LOOKS_AT_ONCE = 32
"""How many containers are asked about at the same time."""

_logger = logging.getLogger(__name__)


class EngineView(Protocol):
    """What is asked of the engine."""

    async def listed(self) -> list[Listed]: ...
    async def inspect(self, reference: str) -> ContainerFacts | None: ...
    async def raw(self, container: str) -> Mapping[str, Any] | None: ...
    async def start(self, container: str) -> None: ...
    async def find_leased(self, lease: str) -> ContainerFacts | None: ...


class EngineSide:
    """`strange_nodes` names GPU nodes that a container has and its lease does not account for, or lacks."""

    def __init__(
        self,
        facts: Facts,
        engine: EngineView,
        log: EventLog,
        strange_nodes: Callable[[Lease, int], Sequence[str]],
        changed: Callable[[], None],
    ) -> None:
        self._facts = facts
        self._book = facts.book
        self._engine = engine
        self._log = log
        self._strange_nodes = strange_nodes
        self._changed = changed
        self._drains: dict[str, asyncio.Task[None]] = {}
        self._looks: dict[str, asyncio.Lock] = {}
        self._hints: set[asyncio.Task[None]] = set()
        self._few = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._made_with: dict[str, Foreign | None] = {}
        self._unknown: dict[str, Foreign] = {}

    # --- what runs ------------------------------------------------------------------------------------------------

    def lost(self) -> None:
        """From now on nothing is granted or released."""
        if self._facts.engine_known:
            self._facts.engine_known = False
            self._log.emit(Event("engine.lost", "The Docker engine does not answer; nothing is granted or released"))

    async def reconcile(self) -> None:
        """Ask the engine about all containers: compare, correct, go on."""
        listed = await self._engine.listed()
        await self._find_foreign(listed)
        by_id = {one.id: one for one in listed}
        by_lease = {one.lease: one for one in listed if one.lease}
        differ = [
            lease.id
            for lease in self._book.leases
            if lease.kind is LeaseKind.CONTAINER
            and _differs(lease, by_id.get(lease.container) or by_lease.get(lease.id))
        ]
        await asyncio.gather(*(self._look(lease) for lease in differ))
        if not self._facts.engine_known:
            self._facts.engine_known = True
            self._log.emit(Event("engine.found", "The Docker engine answers"))
        for lease in self._book.leases:
            if lease.state is LeaseState.DRAINING and lease.kind is LeaseKind.CONTAINER:
                self.drain(lease.id)
        self._changed()

    def hint(self, lease_id: str) -> None:
        """Something happened to the container of this lease: look at it, without keeping anybody waiting."""
        if self._book.find(lease_id) is not None:
            self._soon(self._look(lease_id))

    def stranger(self, container: str) -> None:
        """A container without a lease has started or ended: see what it has, without keeping anybody waiting."""
        self._soon(self._look_at_stranger(container))

    def _soon(self, look: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(look)
        self._hints.add(task)
        task.add_done_callback(self._hints.discard)

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
            if lease is not None and lease.kind is LeaseKind.CONTAINER:
                facts = await self.container_of(lease)
                await self._see(self._book.find(lease_id), facts)
                if facts is not None and facts.lost_its_restart:
                    await self._start_again(lease, facts)
        if self._book.find(lease_id) is None:
            self._looks.pop(lease_id, None)

    async def container_of(self, lease: Lease) -> ContainerFacts | None:
        """The container behind a lease; None if there is none."""
        facts = await self._engine.inspect(lease.container) if lease.container else None
        # While any container carries the lease's label its units are not free, whatever became of the first one.
        return facts or await self._engine.find_leased(lease.id)

    async def _see(self, lease: Lease | None, facts: ContainerFacts | None) -> None:
        if lease is None:
            return
        if facts is not None and (facts.owner_uid != lease.uid or (lease.container and facts.id != lease.container)):
            return  # a label proves nothing: this is not the container that the ledger knows
        change = on_container(lease, facts, self._facts.timeouts(lease), self._facts.now())
        if change is None:
            return
        self.stop_drain(lease.id)
        await self._book.commit(change)
        if change.lease.state is LeaseState.ACTIVE and facts is not None:
            self._compare(change.lease, facts)

    def _compare(self, lease: Lease, facts: ContainerFacts) -> None:
        """What a container that has started really has, against the ledger."""
        strange = self._strange_nodes(lease, facts.pid)
        if strange:
            nodes = ", ".join(strange)
            message = f"Container '{facts.name}' of {lease.user} has other GPU nodes than its lease: {nodes}"
            self._book.note(of_lease("gpu.mismatched", lease, message, nodes))

    async def _start_again(self, lease: Lease, facts: ContainerFacts) -> None:
        """The engine gave up on a restart for want of a device: do it now that the device is there, or say why not."""
        if facts.owner_uid != lease.uid or facts.id != lease.container or self._book.missing(lease):
            return
        if lease.state is LeaseState.DRAINING:
            return
        try:
            await self._engine.start(facts.id)
        except EngineRefused as exc:
            await self._book.note(of_restart("container.restart-failed", lease, facts, exc.message))
            return
        await self._see(self._book.find(lease.id), await self.container_of(lease))
        await self._book.note(of_restart("container.restarted", lease, facts, facts.error))

    # --- what exists ----------------------------------------------------------------------------------------------

    async def compare_units(self) -> None:
        """The GPUs were read: leases whose units have gone wait or are lost, and those whose units came back go on."""
        returned = []
        for lease in self._book.leases:
            missing = self._facts.stock.gone(lease)
            if lease.state not in (LeaseState.ACTIVE, LeaseState.LOST):
                missing = missing or (self._book.missing(lease) if lease.state is LeaseState.WAITING else ())
            change = on_units(lease, missing, self._facts.now()) if self._facts.engine_known else None
            if change is not None:
                await self._book.commit(change)
                returned += [lease.id] if lease.state is LeaseState.WAITING else []
        for lease_id in returned:
            await self.observe(lease_id)
        await self._find_haunted()

    async def _find_haunted(self) -> None:
        """A container whose unit vanished keeps its nodes until it stops; another unit may have got them since."""
        haunted: dict[UnitKey, str] = {}
        for lease in self._book.leases:
            if lease.state is LeaseState.LOST and lease.kind is LeaseKind.CONTAINER:
                try:
                    facts = await self.container_of(lease)
                except Ds01Error:
                    haunted |= self._facts.haunted  # what can't be told has not changed
                    continue
                nodes = self._strange_nodes(lease, facts.pid) if facts is not None else ()
                haunted |= dict.fromkeys(
                    self._book.units_with(nodes), "a container whose own unit vanished has its nodes"
                )
        self._facts.haunted = haunted

    async def _find_foreign(self, listed: Sequence[Listed]) -> None:
        """Running containers that no lease knows, and the GPUs that they were made with."""
        known = {lease.container for lease in self._book.leases}
        strangers = [one for one in listed if one.running and one.id not in known]
        self._made_with = {one.id: self._made_with[one.id] for one in strangers if one.id in self._made_with}
        self._unknown = {}
        await asyncio.gather(*(self._inspect(one) for one in strangers if one.id not in self._made_with))
        self._see_bypassing()

    async def _inspect(self, one: Listed) -> None:
        """What a stranger was made with. Of one that the engine can't tell of, anybody's but the shim's, it may be all;
        a container that hangs its own inspection must not keep the others from GPUs."""
        try:
            async with self._few, asyncio.timeout(STRANGER_S):
                self._meet(one.id, await self._engine.raw(one.id))
        except (Ds01Error, TimeoutError) as exc:
            _logger.debug("container %s could not be looked at: %s", one.id, exc)
            if one.owner_uid is None:
                self._unknown[one.id] = Foreign(one.id, one.name, everything=True, names=())

    async def _look_at_stranger(self, container: str) -> None:
        try:
            async with self._few:
                raw = await self._engine.raw(container)
        except Ds01Error as exc:
            _logger.debug("container %s could not be looked at: %s", container, exc)  # reconcile does it again
            return
        if raw is not None and (raw.get("State") or {}).get("Running"):
            self._meet(container, raw)
        else:
            self._made_with.pop(container, None)
        before = self._facts.bypassing
        self._see_bypassing()
        if self._facts.bypassing != before:
            self._changed()

    def _meet(self, container: str, raw: Mapping[str, Any] | None) -> None:
        """A container that no lease knows: remember what it was made with, and tell once of GPUs."""
        if container in self._made_with:
            return
        found = None if raw is None else gpus_of(raw)
        self._made_with[container] = found
        if found is not None:
            self._book.note(of_foreign(found))

    def _see_bypassing(self) -> None:
        met = (one for one in self._made_with.values() if one is not None)
        self._facts.bypassing = (*met, *self._unknown.values())

    # --- taking a unit away -----------------------------------------------------------------------------------------

    def drain(self, lease_id: str) -> None:
        """The device entry is gone: take the units away once the container has twice been seen not to run."""
        running = self._drains.get(lease_id)
        if running is None or running.done():
            self._drains[lease_id] = asyncio.create_task(self._drain(lease_id))

    def stop_drain(self, lease_id: str) -> None:
        """It may run again."""
        drain = self._drains.pop(lease_id, None)
        if drain is not None and drain is not asyncio.current_task():
            drain.cancel()

    async def _drain(self, lease_id: str) -> None:
        try:
            for wait_s in (0.0, DRAIN_WAIT_S):
                await self._book.settled()
                await asyncio.sleep(wait_s)
                lease = self._book.find(lease_id)
                if lease is None or lease.state is not LeaseState.DRAINING:
                    return
                facts = await self.container_of(lease)
                if facts is not None and (facts.running or facts.restarting):
                    await self._see(lease, facts)
                    return
            lease = self._book.find(lease_id)
            if lease is not None and lease.state is LeaseState.DRAINING:
                reason = "its hold is over and its container does not run"
                await self._book.commit(release(lease, reason, self._facts.now()))
        except Ds01Error as exc:
            _logger.debug("lease %s keeps draining: %s", lease_id, exc)  # reconcile tries again


def _differs(lease: Lease, listed: Listed | None) -> bool:
    """Whether a list gives a reason to look at the lease's container."""
    if listed is None:
        return bool(lease.container)
    if lease.state is LeaseState.GRANTED or not lease.container:
        return True
    is_active = lease.state in (LeaseState.ACTIVE, LeaseState.LOST)
    return listed.running != is_active or not listed.running
