"""The leases in memory, in the ledger and in the CDI file: one order of writing, so that a crash loses nothing.

Ledger first (durable), then memory, then the device entries, then the journal. Everybody else changes leases only
through `commit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ds01.common.cdi import VendorSpec, compose, missing_units
from ds01.common.events import Event, EventLog
from ds01.common.model import HOLDING, Lease, Unit
from ds01.gpu_allocator.lifecycle import Change


class LedgerFile(Protocol):
    """The durable side."""

    def holding(self) -> tuple[Lease, ...]: ...
    def by_request(self, uid: int, request_id: str) -> Lease | None: ...
    def by_id(self, lease: str) -> Lease | None: ...
    def save(self, leases: Iterable[Lease], events: Iterable[tuple[float, Event]] = ()) -> None: ...
    def record(self, at: float, event: Event) -> None: ...


class DeviceFiles(Protocol):
    """The CDI side."""

    def vendor(self) -> VendorSpec: ...
    def write(self, spec: Mapping[str, Any]) -> None: ...


class Book:
    """All leases that hold units."""

    def __init__(self, ledger: LedgerFile, devices: DeviceFiles, log: EventLog, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._devices = devices
        self._log = log
        self._clock = clock
        self._leases = {lease.id: lease for lease in ledger.holding()}
        self._units: tuple[Unit, ...] = ()
        self._missing: frozenset[str] = frozenset()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases that hold units, oldest first."""
        return tuple(self._leases.values())

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that existed when they were last read."""
        return self._units

    def find(self, lease_id: str) -> Lease | None:
        """The lease with this id, as long as it holds units."""
        return self._leases.get(lease_id)

    def past(self, lease_id: str) -> Lease | None:
        """The lease with this id, in any state."""
        return self._leases.get(lease_id) or self._ledger.by_id(lease_id)

    def of_request(self, uid: int, request_id: str) -> Lease | None:
        """The lease that this request made, in any state."""
        return self._ledger.by_request(uid, request_id)

    def commit(self, change: Change) -> Lease:
        """Make one change durable, then effective, then known.

        Raises:
            LedgerBroken: nothing was changed.
        """
        lease, now = change.lease, self._clock()
        events = [_event(change)] if change.event else []
        self._ledger.save([lease], [(now, event) for event in events])
        if lease.state in HOLDING:
            self._leases[lease.id] = lease
        else:
            self._leases.pop(lease.id, None)
        self.publish()
        for event in events:
            self._log.emit(event)
        return lease

    def see_units(self, units: tuple[Unit, ...]) -> None:
        """The inventory was read."""
        self._units = units
        self.publish()

    def publish(self) -> None:
        """Write the device entries as they must be now, and report leases whose units have gone."""
        vendor = self._devices.vendor()
        self._devices.write(compose(self._leases.values(), self._units, vendor))
        by_key = {unit.key: unit for unit in self._units}
        missing = frozenset(lease.id for lease in self._leases.values() if missing_units(lease, by_key, vendor))
        for lease_id in missing - self._missing:
            self._log.emit(_missing(self._leases[lease_id]))
        self._missing = missing

    def is_complete(self, lease: Lease) -> bool:
        """Every unit of the lease exists now and has a device entry."""
        return lease.id not in self._missing

    def keep(self, event: Event) -> None:
        """Keep an event in the ledger that the journal has already."""
        self._ledger.record(self._clock(), event)

    def note(self, event: Event) -> None:
        """Keep an event that changes no lease, in the ledger and in the journal."""
        self.keep(event)
        self._log.emit(event)


def _event(change: Change) -> Event:
    lease = change.lease
    who = f"lease {lease.id} of {lease.user} on GPU {lease.unit_names}"
    return Event(
        name=change.event,
        message=f"{change.event.partition('.')[2].capitalize()}: {who}, container '{lease.container_name}': "
        f"{change.reason}",
        user=lease.user,
        uid=lease.uid,
        group=lease.group,
        lease=lease.id,
        gpu=lease.unit_names,
        container=lease.container,
        container_name=lease.container_name,
        reason=change.reason,
        request=lease.request_id,
        new=lease.state.value,
    )


def _missing(lease: Lease) -> Event:
    return Event(
        "gpu.unit-missing",
        f"GPU {lease.unit_names} of lease {lease.id} ({lease.user}) does not exist at the moment",
        user=lease.user,
        uid=lease.uid,
        group=lease.group,
        lease=lease.id,
        gpu=lease.unit_names,
        container=lease.container,
        container_name=lease.container_name,
    )
