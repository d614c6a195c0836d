"""What people are shown of units and leases. Pure. Names are for the owner and administrators only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.limits import Limits
from ds01.common.model import Denied, Granted, Lease, LeasedUnit, Unit
from ds01.gpu_allocator.decide import World, decide, free_units, usage
from ds01.gpu_allocator.interface import Overview, UnitView


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks."""

    uid: int
    is_admin: bool


def overview(viewer: Viewer, world: World, withheld: Mapping[int, str], limits: Limits) -> Overview:
    """Every unit that exists or is held, in the order of its name, and GPUs that offer nothing."""
    holders = {unit.key: (lease, unit) for lease in world.leases for unit in lease.units}
    existing = {unit.key for unit in world.units}
    rows = [_row(viewer, unit.name, unit.profile, holders.get(unit.key), "") for unit in world.units]
    rows += [
        _row(viewer, unit.name, unit.profile, (lease, unit), "it does not exist at the moment")
        for key, (lease, unit) in holders.items()
        if key not in existing
    ]
    rows += [
        UnitView(str(index), "", "withheld", False, "", "", "", "", None, None, reason)
        for index, reason in withheld.items()
        if not any(row.name.split(":")[0] == str(index) for row in rows)
    ]
    used = usage(world.leases, viewer.uid)
    most = limits.max_mig_instances
    return {"units": sorted(rows, key=_by_name), "used_units": used.units, "max_units": most}


def explain(uid: int, count: int, limits: Limits, world: World) -> tuple[list[str], tuple[Unit, ...] | Denied]:
    """What a request for `count` units would get now, told in sentences with numbers."""
    used = usage(world.leases, uid)
    free = free_units(world)
    lines = [
        f"{len(free)} of {len(world.units)} units are free: {', '.join(unit.name for unit in free) or 'none'}",
        f"you hold {used.units} units ({used.equivalents} GPUs, {used.mig_instances} MIG instances)",
        f"your limits: {_limit(limits.max_gpu_units_per_container)} units in one container, "
        f"{_limit(limits.max_mig_instances)} MIG instances, {_limit(limits.max_gpu_equivalents)} GPUs in all, "
        f"whole GPUs {'allowed' if limits.allow_full_gpu else 'not allowed'}",
    ]
    verdict = decide(uid, count, limits, world)
    match verdict:
        case Granted(units):
            lines.append(f"{count} would be granted now: {', '.join(f'{u.name} ({u.profile})' for u in units)}")
            return lines, units
        case Denied():
            lines.append(f"{count} would be refused now: {verdict.message}; {verdict.hint}")
            return lines, verdict


def _row(viewer: Viewer, name: str, profile: str, held: tuple[Lease, LeasedUnit] | None, reason: str) -> UnitView:
    if held is None:
        return UnitView(name, profile, "free", False, "", "", "", "", None, None, reason)
    lease, _ = held
    mine = lease.uid == viewer.uid
    named = mine or viewer.is_admin
    return UnitView(
        name=name,
        profile=profile,
        state=lease.state.value,
        mine=mine,
        group=lease.group,
        user=lease.user if named else "",
        container=lease.container_name if named else "",
        lease=lease.id if named else "",
        since=lease.since if named else None,
        until=lease.until,
        reason=reason,
    )


def _limit(value: object) -> str:
    return "no limit on" if value is None else str(value)


def _by_name(row: UnitView) -> list[int]:
    return [int(part) for part in row.name.split(":")]
