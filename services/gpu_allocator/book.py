"""The leases and the queue in memory, in the ledger and in the CDI file: one order of writing, so that a crash loses
nothing.

Memory first, so that the next decision sees this one; then the ledger (durable); then the device entries, the journal
and the answer. What could not be made durable is taken back. Everybody else changes leases only through here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

from ds01.common.cdi import VendorSpec, compose, missing_units, node_paths, own_nodes
from ds01.common.errors import LedgerBroken
from ds01.common.events import Event, EventLog
from ds01.common.model import HOLDING, NO_SHARE, Entry, Lease, Share, Unit, UnitKey, Waiter
from ds01.gpu_allocator.lifecycle import Change
from ds01.gpu_allocator.reports import of_change
from ds01.gpu_allocator.shares import advance
from ds01.gpu_allocator.writer import LedgerWriter


class LedgerFile(Protocol):
    """The durable side."""

    def holding(self) -> tuple[Lease, ...]: ...
    def waiters(self) -> tuple[Waiter, ...]: ...
    def shares(self) -> dict[int, Share]: ...
    def by_request(self, uid: int, request_id: str) -> Lease | None: ...
    def by_id(self, lease: str) -> Lease | None: ...
    def write(self, entries: Iterable[Entry]) -> None: ...


class DeviceFiles(Protocol):
    """The CDI side."""

    def vendor(self, wanted: Container[str] | None = None) -> VendorSpec: ...
    def write(self, spec: Mapping[str, Any]) -> None: ...


Done = asyncio.Future[None]


@dataclass
class Pages:
    """What the ledger says of the present: leases that hold units by id, waiters by (uid, request id), GPU time."""

    leases: dict[str, Lease] = field(default_factory=dict)
    waiters: dict[tuple[int, str], Waiter] = field(default_factory=dict)
    shares: dict[int, Share] = field(default_factory=dict)

    def apply(self, entry: Entry) -> None:
        """Turn an entry into the present."""
        for lease in entry.leases:
            if lease.state in HOLDING:
                self.leases[lease.id] = lease
            else:
                self.leases.pop(lease.id, None)
        for key in entry.gone:
            self.waiters.pop(key, None)
        self.waiters |= {(one.uid, one.request_id): one for one in entry.waiting}
        self.shares |= dict(entry.shares)

    def copy(self) -> Pages:
        """The same, to be changed by itself."""
        return Pages(dict(self.leases), dict(self.waiters), dict(self.shares))


@dataclass(frozen=True, slots=True)
class _Pending:
    """An entry on its way to the disk, and how many failures were known when it was decided."""

    done: Done
    entry: Entry
    failures: int


class Book:
    """All leases that hold units, and everybody who waits for some."""

    def __init__(
        self,
        ledger: LedgerFile,
        devices: DeviceFiles,
        log: EventLog,
        clock: Callable[[], float],
        half_life_s: Callable[[], float] = lambda: 7 * 86400.0,
    ) -> None:
        self._ledger = ledger
        self._devices = devices
        self._log = log
        self._clock = clock
        self._half_life_s = half_life_s
        self._durable = _read(ledger)
        self._now = self._durable.copy()
        self._epoch = 0  # grows with each ledger
        self._failures = 0
        self._writer = LedgerWriter(ledger, partial(self._settle, self._epoch))
        self._unsettled: deque[_Pending] = deque()
        self._units: tuple[Unit, ...] = ()
        self.version = 0
        """Grows with each change of leases, waiters or units, so that what follows from them can be kept."""
        self.is_known = True
        """False: the ledger can't be read, so the device entries stay as they are, whatever we know."""
        self._missing: Mapping[str, tuple[str, ...]] = {}
        self.is_broken = False
        """The last thing that was to be written could not be."""
        self.changed: Callable[[], None] = lambda: None
        """Called after each change that is durable."""

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases that hold units, oldest first."""
        return tuple(self._now.leases.values())

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """Everybody in the queue, in no order."""
        return tuple(self._now.waiters.values())

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that existed when they were last read."""
        return self._units

    def close(self) -> None:
        """Finish writing."""
        self._writer.close()

    def reopen(self, ledger: LedgerFile) -> None:
        """Go on with another ledger. What is on its way to the old one has failed."""
        self._writer.close()
        self._epoch += 1
        for one in self._unsettled:
            one.done.set_exception(LedgerBroken("the ledger was put aside; ask again"))
        self._unsettled.clear()
        self._ledger = ledger
        self._durable = _read(ledger)
        self._now = self._durable.copy()
        self._writer = LedgerWriter(ledger, partial(self._settle, self._epoch))
        self.is_known, self.is_broken = True, False
        self.publish()

    def find(self, lease_id: str) -> Lease | None:
        """The lease with this id, as long as it holds units."""
        return self._now.leases.get(lease_id)

    def past(self, lease_id: str) -> Lease | None:
        """The lease with this id, in any state."""
        return self.find(lease_id) or self._ledger.by_id(lease_id)

    def of_request(self, uid: int, request_id: str) -> Lease | None:
        """The lease that this request made, in any state."""
        found = (one for one in self._now.leases.values() if (one.uid, one.request_id) == (uid, request_id))
        return next(found, None) or self._ledger.by_request(uid, request_id)

    def share(self, uid: int) -> Share:
        """The GPU time of `uid` as of now."""
        share = self._now.shares.get(uid, NO_SHARE)
        return advance(share, self._rate(uid), self._clock(), self._half_life_s())

    def commit(self, change: Change, *, gone: tuple[tuple[int, str], ...] = ()) -> Done:
        """Make a change: decisions see it at once, `Done` is when it is durable, effective and known.

        `gone` are waiters whose waiting ends with it. The future fails with `LedgerBroken`: nothing was changed.
        """
        lease = change.lease
        event = of_change(change)
        return self._enter(
            Entry(
                leases=(lease,),
                events=((self._clock(), event),) if event is not None else (),
                shares=((lease.uid, self.share(lease.uid)),),
                gone=gone,
            )
        )

    def wait(self, waiter: Waiter) -> Done:
        """Put somebody into the queue."""
        return self._enter(Entry(waiting=(waiter,)))

    def leave(self, waiter: Waiter) -> Done:
        """Take somebody out of the queue."""
        return self._enter(Entry(gone=((waiter.uid, waiter.request_id),)))

    def keep(self, event: Event) -> Done:
        """Keep an event in the ledger that the journal is not told of, or has already."""
        return self._enter(_Untold(events=((self._clock(), event),)))

    def note(self, event: Event) -> Done:
        """Keep an event that changes no lease, in the ledger and in the journal."""
        return self._enter(Entry(events=((self._clock(), event),)))

    async def settled(self) -> None:
        """Return when everything that was decided until now is durable.

        Raises:
            LedgerBroken: it could not be made so.
        """
        if self._unsettled:
            await asyncio.shield(self._unsettled[-1].done)

    def see_units(self, units: tuple[Unit, ...]) -> None:
        """The inventory was read."""
        self.version += units != self._units
        self._units = units
        self.publish()

    def publish(self) -> None:
        """Write the device entries as they must be now."""
        if not self.is_known:
            return
        leases = self._durable.leases.values()
        by_key = {unit.key: unit for unit in self._units}
        wanted = {by_key[unit.key].uuid for lease in leases for unit in lease.units if unit.key in by_key}
        vendor = self._devices.vendor(wanted)
        self._devices.write(compose(leases, self._units, vendor))
        self._missing = {lease.id: missing_units(lease, by_key, vendor) for lease in leases}

    def missing(self, lease: Lease) -> tuple[str, ...]:
        """Names of the lease's units that do not exist now, or have no device entry."""
        return self._missing.get(lease.id, ())

    def nodes(self, lease: Lease) -> tuple[str, ...]:
        """The device nodes that whoever has this lease may open: those of its units, and those that all GPUs share."""
        vendor = self._devices.vendor()
        uuids = {unit.key: unit.uuid for unit in self._units}
        edits = [vendor.devices.get(uuids.get(unit.key, ""), {}) for unit in lease.units]
        found = [node for one in (*edits, vendor.common if edits else {}) for node in node_paths(one)]
        return tuple(dict.fromkeys(found))

    def strange_nodes(self, lease: Lease, seen: frozenset[str] | None) -> tuple[str, ...]:
        """GPU nodes of `seen` that belong to other units, and those that are missing; () where nothing can be told."""
        vendor = self._devices.vendor()
        common = set(node_paths(vendor.common))
        units = {node for edits in vendor.devices.values() for node in node_paths(edits)} - common
        found = (seen or frozenset()) & units
        return tuple(sorted(found ^ (set(self.nodes(lease)) & units))) if found else ()

    def units_with(self, nodes: Iterable[str]) -> tuple[UnitKey, ...]:
        """The units that any of these device nodes belongs to alone."""
        vendor, wanted = self._devices.vendor(), set(nodes)
        return tuple(unit.key for unit in self._units if wanted & own_nodes(unit, self._units, vendor))

    def _rate(self, uid: int) -> Fraction:
        return sum((lease.size for lease in self._now.leases.values() if lease.uid == uid), Fraction(0))

    def _enter(self, entry: Entry) -> Done:
        done: Done = asyncio.get_running_loop().create_future()
        done.add_done_callback(_seen)
        self._now.apply(entry)
        self.version += 1
        self._unsettled.append(_Pending(done, entry, self._failures))
        self._writer.write(entry)
        return done

    def _settle(self, epoch: int, entries: Sequence[Entry], error: LedgerBroken | None) -> None:
        """The writer's word on the oldest entries that were handed over."""
        if epoch != self._epoch:
            return
        settled = [self._unsettled.popleft() for _ in entries]
        if error is None:
            self._keep_settled(entries)
        else:
            self._failures += settled[-1].failures == self._failures  # else it was doomed by the one before
            self._take_back()
            self._tell_broken(error)
        for one in settled:
            if one.done.cancelled():
                continue
            if error is None:
                one.done.set_result(None)
            else:
                one.done.set_exception(error)
        if error is None:
            self.changed()

    def _keep_settled(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._durable.apply(entry)
        if any(entry.leases for entry in entries):
            self.publish()
        self._tell(entries)

    def _take_back(self) -> None:
        """What is durable, and what was handed over since the failure is known: all else was decided on it."""
        self.version += 1
        self._now = self._durable.copy()
        for one in self._unsettled:
            if one.failures == self._failures:
                self._now.apply(one.entry)

    def _tell(self, entries: Sequence[Entry]) -> None:
        if self.is_broken:
            self.is_broken = False
            self._log.emit(Event("ledger.mended", "The ledger is written again; GPUs are granted again"))
        for entry in entries:
            for _, event in () if isinstance(entry, _Untold) else entry.events:
                self._log.emit(event)

    def _tell_broken(self, error: LedgerBroken) -> None:
        if not self.is_broken:
            self.is_broken = True
            self._log.emit(Event("ledger.broken", f"Nothing new is granted or released: {error}", reason=str(error)))


def _read(ledger: LedgerFile) -> Pages:
    return Pages(
        {lease.id: lease for lease in ledger.holding()},
        {(one.uid, one.request_id): one for one in ledger.waiters()},
        ledger.shares(),
    )


class _Untold(Entry):
    """An entry whose events the journal is not told of."""


def _seen(done: Done) -> None:
    """A failure that nobody waits for has been told by an event."""
    if not done.cancelled():
        done.exception()
