"""The GPUs as they were last read: what exists, what is withheld and why. Reads them no more often than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from ds01.common.errors import Unavailable
from ds01.common.events import Event, EventLog
from ds01.common.inventory import Inventory
from ds01.common.model import Lease, Unit
from ds01.gpu_allocator.reports import holder

MAX_AGE_S = 1.0
"""How old an inventory may be when it is decided on; a storm of requests shares one reading."""


class Stock:
    """What ds01-nvml said last. `seen` is told of each reading; `leases` are named where a GPU is in trouble."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Inventory]],
        log: EventLog,
        seen: Callable[[tuple[Unit, ...]], None],
        leases: Callable[[], Iterable[Lease]] = tuple,
    ) -> None:
        self._read = read
        self._log = log
        self._seen = seen
        self._leases = leases
        self._at = 0.0
        self._reading: asyncio.Task[Inventory] | None = None
        self._last: Inventory | None = None
        self._is_lost = False

    @property
    def last(self) -> Inventory | None:
        """The last reading; None while the state of the GPUs is unknown."""
        return self._last

    async def fresh(self, max_age_s: float = MAX_AGE_S) -> Inventory:
        """An inventory that is no older.

        Raises:
            Unavailable: the state of the GPUs is unknown.
        """
        loop = asyncio.get_running_loop()
        if self._last is not None and loop.time() - self._at < max_age_s:
            return self._last
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._update())
        return await asyncio.shield(self._reading)

    def gone(self, lease: Lease) -> tuple[str, ...]:
        """Names of the lease's units that do not exist, as far as that can be told: not those of a GPU that can't be
        read at the moment."""
        if self._last is None:
            return ()
        existing = {unit.key for unit in self._last.units}
        return tuple(
            unit.name
            for unit in lease.units
            if unit.key not in existing and not self._last.is_unknown(unit.key.gpu_uuid)
        )

    async def _update(self) -> Inventory:
        try:
            inventory = await self._read()
        except Unavailable as exc:
            self._last = None
            if not self._is_lost:
                self._is_lost = True
                self._log.emit(Event("nvml.lost", f"The state of the GPUs is unknown: {exc}", reason=str(exc)))
            raise
        self._tell(self._last, inventory)
        self._is_lost = False
        self._last, self._at = inventory, asyncio.get_running_loop().time()
        self._seen(inventory.units)
        return inventory

    def _tell(self, before: Inventory | None, now: Inventory) -> None:
        if self._is_lost or before is None or before.units != now.units:
            names = ",".join(unit.name for unit in now.units)
            self._log.emit(Event("nvml.found", f"The GPUs were read: {names or 'no unit'}", new=names))
        for event in withheld_events({} if before is None else troubled(before), troubled(now), self._leases()):
            self._log.emit(event)


def troubled(inventory: Inventory) -> dict[int, str]:
    """What is wrong with GPUs, by index. One that has merely not been cut into instances is not in trouble."""
    well = {index for uuid, index in inventory.gpus.items() if uuid not in inventory.unusable}
    return {index: why for index, why in inventory.withheld.items() if index not in well}


def withheld_events(before: Mapping[int, str], now: Mapping[int, str], leases: Iterable[Lease]) -> list[Event]:
    """GPUs that from now on offer nothing, with those who are on them, and GPUs that do again."""
    on: dict[str, list[str]] = {}
    for lease in leases:
        for gpu in {unit.name.split(":")[0] for unit in lease.units}:
            on.setdefault(gpu, []).append(f"{holder(lease)} of {lease.user}")
    events = [
        Event(
            "gpu.withheld",
            f"GPU {index} is given to nobody: {why}; on it: {', '.join(on.get(str(index), ['nobody']))}",
            gpu=str(index),
            reason=why,
        )
        for index, why in sorted(now.items())
        if before.get(index) != why
    ]
    return events + [
        Event("gpu.restored", f"GPU {index} is given away again; what was wrong: {why}", gpu=str(index), old=why)
        for index, why in sorted(before.items())
        if index not in now
    ]
