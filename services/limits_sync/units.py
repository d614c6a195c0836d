"""Keeps units equal to what is wanted: makes those that are ours to make, sets what differs, tells what changed.

What was set last is remembered, so a pass without a difference asks nobody. Changes by hand are told from outside
(`verify`, `restore`), since systemd sends no signal for them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from ds01.common.errors import Unavailable
from ds01.common.events import EventLog
from ds01.common.slices import PropertyValue, SlicePlan, cgroup_of
from ds01.limits_sync import telling
from ds01.limits_sync.pendings import Pendings, Waiting
from ds01.limits_sync.shrink import settle
from ds01.limits_sync.telling import LIMITS
from ds01.limits_sync.wanted import Wanted

PUT_BACK_A_MINUTE = 5

_logger = logging.getLogger(__name__)


class Manager(Protocol):
    """systemd."""

    async def ensure_slice(self, plan: SlicePlan) -> bool: ...
    async def set_properties(self, unit: str, properties: Mapping[str, PropertyValue]) -> None: ...
    async def properties(self, unit: str, names: Iterable[str]) -> dict[str, PropertyValue]: ...
    async def drop_ins(self, unit: str) -> list[str]: ...
    async def is_active(self, unit: str) -> bool: ...


class Kernel(Protocol):
    """The cgroup hierarchy."""

    def exists(self, path: str) -> bool: ...
    def used_bytes(self, path: str) -> int | None: ...


class Units:
    """All units that carry limits. `wanted` and `grace_s` are replaced from outside, then `refresh` is called."""

    def __init__(
        self,
        systemd: Manager,
        kernel: Kernel,
        pendings: Pendings,
        log: EventLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.wanted: dict[str, Wanted] = {}
        self.grace_s = 0.0
        self._systemd = systemd
        self._kernel = kernel
        self._pendings = pendings
        self._log = log
        self._clock = clock
        self._set: dict[str, dict[str, PropertyValue]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._put_back: dict[str, list[float]] = {}

    def want(self, *units: Wanted) -> None:
        """Add units, or replace what is wanted of them."""
        self.wanted.update((one.plan.name, one) for one in units)

    def look_anew(self, unit: str) -> None:
        """What a unit had may not be what it has now: it is read before it is set the next time."""
        self._set.pop(unit, None)

    def forget(self, unit: str) -> None:
        """A unit that is ours no more."""
        self.wanted.pop(unit, None)
        self._set.pop(unit, None)
        self._pendings.put(unit, None)

    async def refresh_all(self) -> tuple[int, list[str]]:
        """Bring every unit to what is wanted, parents first; how many changed, and what went wrong."""
        changed, problems = 0, []
        names = list(self.wanted)
        ours = [name for name in names if self.wanted[name].transient]
        parents = [name for name in ours if name.count("-") == 1]
        for batch in ([name for name in names if name not in ours], parents, [n for n in ours if n not in parents]):
            for result in await asyncio.gather(*(self.refresh(name) for name in batch), return_exceptions=True):
                if isinstance(result, Unavailable):
                    problems.append(str(result))
                elif isinstance(result, BaseException):
                    raise result
                else:
                    changed += result
        return changed, problems

    async def refresh(self, name: str, *, tells: bool = True) -> bool:
        """Bring one unit to what is wanted of it now; True if something was set. Raises `Unavailable`."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            wanted = self.wanted.get(name)
            if wanted is None:
                return False
            if wanted.transient and not self._kernel.exists(cgroup_of(name)):
                return await self._make(wanted)
            have = self._set.get(name)
            if have is None:
                have = self._set[name] = await self._systemd.properties(name, LIMITS)
            return await self._settle(wanted, have, tells)

    async def verify(self, name: str) -> bool:
        """Look at a unit that somebody may have changed, and put it back; True if that has to be done again later.

        Raises `Unavailable`.
        """
        wanted, before = self.wanted.get(name), self._set.get(name)
        if wanted is None or before is None:
            return False
        found = await self._systemd.properties(name, LIMITS)
        if self._set.get(name) is not before:
            return False  # it was set by us meanwhile
        if not found or not await self._systemd.is_active(name):
            self._set.pop(name, None)  # an ended session, a service that is not there: it is set when it is seen again
            return False
        if all(found.get(key) == value for key, value in before.items()):
            return False
        if not self._may_put_back(name):
            return True
        self._set[name] = found
        other = {key: value for key, value in found.items() if before.get(key, value) != value}
        drop_ins = [path for path in await self._systemd.drop_ins(name) if path.startswith("/etc/")]
        await self.refresh(name, tells=False)
        self._log.emit(telling.restored(wanted, other, drop_ins))
        return False

    def _may_put_back(self, name: str) -> bool:
        """Somebody else may be at it just as stubbornly: a few times a minute are enough."""
        now = self._clock()
        times = self._put_back[name] = [at for at in self._put_back.get(name, []) if now - at < 60] + [now]
        if len(times) == PUT_BACK_A_MINUTE + 1:
            self._log.emit(telling.contested(self.wanted[name]))
        return len(times) <= PUT_BACK_A_MINUTE

    async def restore(self) -> None:
        """Make again what was stopped by hand, parents first. Raises `Unavailable`."""
        gone = [one for one in self.wanted.values() if one.transient and one.plan.name in self._set]
        gone = [one for one in gone if not self._kernel.exists(cgroup_of(one.plan.name))]
        for one in sorted(gone, key=lambda one: one.plan.name.count("-")):
            await self.refresh(one.plan.name)

    async def _make(self, wanted: Wanted) -> bool:
        name = wanted.plan.name
        known = name in self._set
        made = await self._systemd.ensure_slice(wanted.plan)
        self._set[name] = {key: value for key, value in wanted.plan.properties.items() if key in LIMITS}
        self._pendings.put(name, None)
        if known:  # whoever comes first makes it again: a pass, `restore`, or a container that is to start
            self._log.emit(telling.restored(wanted, None, ()))
        elif made and wanted.uid is not None:
            self._log.emit(telling.ensured(wanted))
        return True

    async def _settle(self, wanted: Wanted, have: dict[str, PropertyValue], tells: bool) -> bool:
        name = wanted.plan.name
        target = {key: value for key, value in wanted.plan.properties.items() if key in LIMITS}
        used = self._kernel.used_bytes(cgroup_of(name)) if target.get("MemoryMax") != have.get("MemoryMax") else None
        settled = settle(target, have, used, self._pendings.of(name), self._clock(), self.grace_s)
        new = {key: value for key, value in settled.properties.items() if have.get(key) != value}
        if new and have:
            await self._systemd.set_properties(name, new)
            self._set[name] = {**have, **new}
            if tells:
                self._log.emit(telling.applied(wanted, have, new))
        waiting = None
        if settled.pending is not None:
            waiting = Waiting(settled.pending, wanted.uid, wanted.user, wanted.what)
        if self._pendings.put(name, waiting) and settled.pending is not None:
            self._log.emit(telling.shrinking(wanted, settled.pending, used or 0))
        return bool(new and have)
