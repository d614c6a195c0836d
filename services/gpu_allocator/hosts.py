"""GPUs without a container: a program in a scope of its own, and login sessions that an administrator opens.

The device filter of the scope, or of the user's login slice, is the fence. A unit is free only when nothing of it can
run any more: the scope is gone, or the time is over, and NVML lists no process of that user on it.
"""

from __future__ import annotations

import asyncio
import math
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ds01.common.errors import Ds01Error, Unavailable
from ds01.common.events import Event
from ds01.common.inventory import GpuProcesses
from ds01.common.limits import Limits, Policies
from ds01.common.model import Lease, LeaseKind, LeaseState
from ds01.common.processes import Place
from ds01.common.slices import Devices, PropertyValue, ScopePlan, TimerPlan
from ds01.common.varlink import Link
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.foreign import Using, is_busy, is_his, of_intruder
from ds01.gpu_allocator.lifecycle import on_processes, on_scope, release
from ds01.gpu_allocator.reports import of_lease

DAY_S = 86400.0
ENDS_LOOKS, ENDS_LOOK_S = 3, 0.1
"""systemd hears of the end of a scope's last process a moment after whoever started it."""

SETTLE_S = 0.5
"""Between the end of a scope and the first look for what escaped it."""


class Units(Protocol):
    """systemd."""

    async def start_scope(self, plan: ScopePlan) -> None: ...
    async def start_timer(self, plan: TimerPlan) -> None: ...
    async def is_there(self, unit: str) -> bool: ...
    async def devices(self, unit: str) -> Devices: ...
    async def set_devices(self, unit: str, devices: Devices) -> None: ...
    async def stop(self, unit: str) -> None: ...


class Hosts:
    """`nodes_of` names the device nodes of a lease; `place_of` where a process runs; `ensure_slice` makes the slice of
    a uid and names it."""

    def __init__(
        self,
        facts: Facts,
        units: Units,
        ensure_slice: Callable[[int], Awaitable[str]],
        read_processes: Callable[[], Awaitable[GpuProcesses]],
        nodes_of: Callable[[Lease], tuple[str, ...]],
        place_of: Callable[[int], Place | None],
    ) -> None:
        self._facts = facts
        self._book = facts.book
        self._units = units
        self._ensure_slice = ensure_slice
        self._read_processes = read_processes
        self._nodes_of = nodes_of
        self._place_of = place_of
        self._starting: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: frozenset[str] = frozenset()
        self._seen: frozenset[tuple[int, str]] = frozenset()
        self._looking = asyncio.Lock()

    # --- programs ---------------------------------------------------------------------------------------------------

    async def start(self, lease: Lease, link: Link) -> Lease:
        """Move the process at the other end of `link` into the scope of its lease.

        Raises:
            Unavailable: it could not be moved, and the lease has ended, unless its scope is there all the same.
        """
        async with self._starting.setdefault(lease.id, asyncio.Lock()):
            return await self._start(lease, link)

    async def _start(self, lease: Lease, link: Link) -> Lease:
        now = self._book.find(lease.id)
        if now is None or now.state is not LeaseState.GRANTED:
            raise Unavailable(f"request '{lease.request_id}' was answered before, and its lease was used; ask anew")
        try:
            await self._move(lease, link)
        except Ds01Error as exc:
            if not await self._units.is_there(lease.scope):
                await self._book.commit(release(lease, f"its program could not be started: {exc}", self._facts.now()))
            raise
        change = on_scope(self._book.find(lease.id) or lease, self._facts.now(), exists=True)
        if change is not None:
            await self._book.commit(change)
        return lease if change is None else change.lease

    async def start_without(self, blank: Lease, link: Link) -> Lease:
        """Move the process into a scope that may open no GPU. Nothing is leased, so nothing is kept of it.

        Raises:
            Unavailable: it could not be moved.
        """
        await self._move(blank, link)
        return replace(blank, state=LeaseState.ACTIVE, until=None)

    async def _move(self, lease: Lease, link: Link) -> None:
        folder = await self._ensure_slice(lease.uid)
        properties = scope_properties(lease, self._facts.limits(lease.uid), self._facts.policies())
        nodes = tuple((node, "rw") for node in self._nodes_of(lease))
        pidfd = link.pidfd()
        try:
            await self._units.start_scope(ScopePlan(lease.scope, folder, pidfd, nodes, properties))
        finally:
            os.close(pidfd)

    def ended(self, unit: str) -> None:
        """systemd forgot a unit ('' if some may have been missed): look soon, if it concerns us."""
        if unit.startswith("ds01-l") and unit.endswith(".service"):
            self._soon(self.restore_logins)  # a timer closed everything: what another grant opened is open again
        if not unit or any(lease.scope == unit for lease in self._book.leases if lease.kind is LeaseKind.HOST):
            asyncio.get_running_loop().call_later(SETTLE_S, self._soon, self.look)

    def _soon(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do it beside everything else; what fails is done again by the next look."""
        task = asyncio.create_task(work())
        self._tasks.add(task)  # asyncio itself keeps no task alive
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else asks for it

    async def look(self) -> None:
        """Compare host and login leases with systemd and NVML.

        Raises:
            Ds01Error: one of them does not answer; what is not known has not changed.
        """
        async with self._looking:
            await self.compare_scopes()
            for uid in {one.uid for one in self._book.leases if _is_closing(one)}:
                await self.open_logins(uid)  # what could not be closed is not free
            await self._look_at_processes()

    async def compare_scopes(self) -> None:
        """Host leases whose scopes have gone begin to end.

        Raises:
            Unavailable: systemd does not answer.
            LedgerBroken: what was seen could not be kept.
        """
        for lease in self._book.leases:
            if lease.kind is LeaseKind.HOST:
                exists = await self._units.is_there(lease.scope)
                change = on_scope(self._book.find(lease.id) or lease, self._facts.now(), exists=exists)
                if change is not None:
                    await self._book.commit(change)

    async def ends_something_of(self, uid: int) -> bool:
        """Look again, soon, whether a program of `uid` has just ended, before he is told that he holds too much."""
        own = [one.id for one in self._book.leases if one.uid == uid and one.kind is LeaseKind.HOST]
        for _ in range(ENDS_LOOKS if own else 0):
            with suppress(Ds01Error):
                await self.look()
            if any(self._book.find(lease) is None for lease in own):
                return True
            await asyncio.sleep(ENDS_LOOK_S)
        return False

    async def close_lost(self) -> None:
        """What opened a unit that vanished must not open the one that gets its nodes next.

        Raises:
            Unavailable: systemd does not answer.
        """
        lost = [
            one for one in self._book.leases if one.state is LeaseState.LOST and one.kind is not LeaseKind.CONTAINER
        ]
        for lease in lost:
            if lease.id in self._closed:
                continue
            if lease.kind is LeaseKind.HOST:
                await self._units.set_devices(lease.scope, ())
            else:
                await self.open_logins(lease.uid)
            self._closed |= {lease.id}
        self._closed &= {lease.id for lease in lost}

    async def _look_at_processes(self) -> None:
        inventory = self._facts.stock.last
        if inventory is None:
            return
        told = await self._read_processes()
        using: list[Using] = []
        perhaps: list[Using] = []
        for process in told.known:
            place, key = self._place_of(process.pid), inventory.unit_of(process)
            if place is None or place.is_service:
                continue
            keys = [unit.key for unit in inventory.units if unit.key.gpu_uuid == process.gpu_uuid]
            for one in keys if key is None else [key]:
                found = Using(process.pid, one, place.owner, place.user, place.container, place.scope)
                (perhaps if key is None else using).append(found)
        self._tell_intruders(using)
        for lease in self._book.leases:
            busy = None if _is_unknown(lease, told, inventory.gpus) else is_busy(lease, [*using, *perhaps])
            change = on_processes(lease, self._facts.now(), busy=busy)
            if change is not None:
                await self._book.commit(change)

    def _tell_intruders(self, using: Iterable[Using]) -> None:
        """Each process on a unit that is not its own is told once."""
        leases = self._book.leases
        strangers = {(one.pid, str(one.key)): one for one in using if not is_his(one, leases)}
        self._facts.intruded = {one.key: "a process without a lease computes on it" for one in strangers.values()}
        for key, one in strangers.items():
            unit = next((unit for unit in self._book.units if unit.key == one.key), None)
            if key not in self._seen and unit is not None:
                holders = (lease for lease in leases if any(held.key == one.key for held in lease.units))
                self._book.note(of_intruder(one, unit, next(holders, None)))
        self._seen = frozenset(strangers)

    # --- logins -----------------------------------------------------------------------------------------------------

    async def open_logins(self, uid: int) -> None:
        """Let the login sessions of `uid` open what his login leases say, and nothing else; systemd ends it in time."""
        unit = f"user-{uid}.slice"
        leases = [one for one in self._book.leases if one.kind is LeaseKind.LOGIN and one.uid == uid]
        now = self._facts.now()
        open_now = [lease for lease in leases if lease.state is LeaseState.ACTIVE and (lease.until or 0.0) > now]
        base = tuple((path, mode) for path, mode in await self._units.devices(unit) if "nvidia" not in path)
        nodes = dict.fromkeys(node for lease in open_now for node in self._nodes_of(lease))
        for lease in open_now:  # first what closes it again
            await self._units.start_timer(closing_timer(lease, unit, base))
        await self._units.set_devices(unit, (*base, *((node, "rw") for node in nodes)))

    async def restore_logins(self) -> None:
        """After a start: systemd has forgotten at a boot what was opened, or we may have missed an end."""
        for uid in {lease.uid for lease in self._book.leases if lease.kind is LeaseKind.LOGIN}:
            await self.open_logins(uid)

    def close_soon(self, lease: Lease) -> None:
        """The time of a login lease is over."""
        self._soon(partial(self._close, lease))

    async def _close(self, lease: Lease) -> None:
        try:
            await self._book.settled()
            await self.close_login(lease)
        except Ds01Error as exc:
            await self._book.note(Event("login.close-failed", f"GPU {lease.unit_names}: {exc}", lease=lease.id))

    async def close_login(self, lease: Lease) -> None:
        """A login lease is over: nothing new is opened. Programs that have a node open keep it, and are told of."""
        await self._units.stop(f"ds01-{lease.id}.timer")
        await self.open_logins(lease.uid)
        message = f"GPU {lease.unit_names} is closed to new programs in logins of {lease.user}"
        self._book.note(of_lease("login.closed", lease, message, "its time is over"))


def scope_properties(lease: Lease, limits: Limits, policies: Policies) -> Mapping[str, PropertyValue]:
    """A program has the limits of one container, and systemd's own end where a container would have it."""
    found: dict[str, PropertyValue] = {
        "Description": f"DS01 program on GPU {lease.unit_names or 'none'}",
        "MemoryMax": limits.memory_bytes,
        "MemorySwapMax": max(0, limits.memory_swap_bytes - limits.memory_bytes),
        "TasksMax": limits.pids,
        "CPUQuotaPerSecUSec": int(limits.cpus * 1_000_000),
        "TimeoutStopUSec": int(policies.sigterm_grace_s * 1_000_000),
    }
    if limits.max_runtime_s is not None:
        longest_s = limits.max_runtime_s + policies.extension_budget_s + DAY_S
        found["RuntimeMaxUSec"] = int(longest_s * 1_000_000)
    return found


def closing_timer(lease: Lease, unit: str, base: Devices) -> TimerPlan:
    """What takes the GPUs away from a login slice at the end of a lease, even if all our daemons are dead.

    Not before the end: it closes everything, and what is open by another lease is opened again by us, this one not.
    """
    assert lease.until is not None
    at = datetime.fromtimestamp(math.ceil(lease.until), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    allowed = [f"DeviceAllow={path} {mode}" for path, mode in base]
    argv = ("/usr/bin/systemctl", "set-property", "--runtime", unit, "DeviceAllow=", *allowed)
    return TimerPlan(f"ds01-{lease.id}.timer", at, argv, f"DS01: close GPU {lease.unit_names} to {unit}")


def _is_closing(lease: Lease) -> bool:
    return lease.kind is LeaseKind.LOGIN and lease.state is LeaseState.DRAINING


def _is_unknown(lease: Lease, told: GpuProcesses, listed: Mapping[str, int]) -> bool:
    """Whether anything about the processes on the lease's GPUs can't be told."""
    gpus = {unit.key.gpu_uuid for unit in lease.units}
    return bool(gpus & told.unknown) or ("" in told.unknown and any(gpu not in listed for gpu in gpus))


def require_time(until: float, now: float) -> None:
    """Raises `Unavailable` for a time that is past or absurd."""
    if not now < until <= now + 366 * DAY_S:
        raise Unavailable("the end of a grant must be in the future, and within a year")
