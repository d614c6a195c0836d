"""What people are shown of units, leases and the queue. Pure. Names are for the owner and administrators only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ds01.common.events import Event
from ds01.common.model import Lease, LeasedUnit, LeaseState, Reason
from ds01.gpu_allocator.interface import Overview, Report, UnitView, WaiterView
from ds01.gpu_allocator.queue import Turn
from ds01.gpu_allocator.reports import holder
from ds01.gpu_allocator.world import Asker, World, usage_of


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks."""

    uid: int
    is_admin: bool

    def may_see(self, uid: int) -> bool:
        """Whether names of `uid` are for this viewer."""
        return self.is_admin or uid == self.uid


def overview(viewer: Viewer, asker: Asker, world: World) -> Overview:
    """Every unit that exists or is held, in the order of its name, and GPUs that offer nothing."""
    holders = {unit.key: (lease, unit) for lease in world.leases for unit in lease.units}
    existing = {unit.key for unit in world.units}
    rows = [
        _row(viewer, unit.name, unit.profile, holders.get(unit.key), world.occupied.get(unit.key, ""))
        for unit in world.units
    ]
    rows += [
        _row(viewer, unit.name, unit.profile, (lease, unit), world.withheld.get(_gpu(unit), _GONE))
        for key, (lease, unit) in holders.items()
        if key not in existing
    ]
    shown = {row.name.split(":")[0] for row in rows}
    rows += [
        UnitView(str(index), "", "withheld", False, "", "", "", "", "", None, None, reason)
        for index, reason in world.withheld.items()
        if str(index) not in shown
    ]
    return {
        "units": sorted(rows, key=_by_name),
        "used_units": usage_of(world.leases, viewer.uid).units,
        "max_units": asker.max_mig_instances,
        "notices": [
            notice for lease in world.leases if lease.uid == viewer.uid for notice in _notices(lease, world.withheld)
        ],
    }


def queue(viewer: Viewer, turns: Iterable[Turn]) -> list[WaiterView]:
    """Everybody who waits, in the order of turns."""
    return [_waiter(viewer, turn) for turn in turns]


def refusal(report: Report, user: str) -> Event:
    """What the shim refused, as the ledger keeps it."""
    return Event(
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


_WHY_OTHERS = {
    Reason.NONE_FREE: "no unit that would do is free",
    Reason.NO_SUCH_UNIT: "no such unit is here at the moment",
}
_GONE = "it does not exist at the moment"


def _gpu(unit: LeasedUnit) -> int:
    return int(unit.name.split(":")[0])


def _notices(lease: Lease, withheld: Mapping[int, str]) -> list[str]:
    """What an owner must be told of his lease."""
    match lease.state:
        case LeaseState.LOST:
            return [
                f"GPU {lease.unit_names} of your {holder(lease)} does not exist any more: save what you can, stop it, "
                "and start it again for another one"
            ]
        case LeaseState.WAITING:
            return [
                f"GPU {lease.unit_names} of your {holder(lease)} does not exist at the moment: 'docker start' looks "
                "for another one"
            ]
        case _:
            troubled = {unit.name: withheld[_gpu(unit)] for unit in lease.units if _gpu(unit) in withheld}
            return [f"GPU {name} of your {holder(lease)} is in trouble: {why}" for name, why in troubled.items()]


def _row(viewer: Viewer, name: str, profile: str, held: tuple[Lease, LeasedUnit] | None, reason: str) -> UnitView:
    if held is None:
        state = "withheld" if reason else "free"
        return UnitView(name, profile, state, False, "", "", "", "", "", None, None, reason)
    lease, _ = held
    named = viewer.may_see(lease.uid)
    return UnitView(
        name=name,
        profile=profile,
        state=lease.state.value,
        mine=lease.uid == viewer.uid,
        group=lease.group,
        user=lease.user if named else "",
        container=lease.container_name if named else "",
        lease=lease.id if named else "",
        kind=lease.kind.value,
        since=lease.since if named else None,
        until=lease.until,
        reason=reason,
    )


def _waiter(viewer: Viewer, turn: Turn) -> WaiterView:
    waiter = turn.line.waiter
    named = viewer.may_see(waiter.uid)
    return WaiterView(
        position=turn.place,
        mine=waiter.uid == viewer.uid,
        user=waiter.user if named else "",
        group=waiter.group,
        gpus=waiter.request,
        name=waiter.name if named else "",
        request=waiter.request_id if named else "",
        since=waiter.since,
        until=waiter.until,
        reason=turn.denied.message if named else _WHY_OTHERS.get(turn.denied.reason, "a quota is used up"),
        estimate=turn.estimate,
    )


def _by_name(row: UnitView) -> list[int]:
    return [int(part) for part in row.name.split(":")]
