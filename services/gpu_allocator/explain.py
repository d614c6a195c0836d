"""What a request would get, and why, in sentences with numbers. Pure: of a world now, or of a saved one."""

from __future__ import annotations

from ds01.common.model import Denied, Granted
from ds01.gpu_allocator.decide import decide, objections
from ds01.gpu_allocator.request import parse_request
from ds01.gpu_allocator.world import Asker, World, usage, usage_of

Explained = tuple[list[str], Granted | Denied, list[Denied]]
"""Sentences, the decision, and everything that speaks against the request."""


def explain(gpus: str, asker: Asker, world: World, gpus_all_means: int) -> Explained:
    """What a request for `gpus` (see request.py) would get in this world."""
    request = parse_request(gpus, gpus_all_means)
    if isinstance(request, Denied):
        return [f"{request.message}; {request.hint}"], request, [request]
    against = list(objections(request, asker, world))
    verdict = against[0] if against else decide(request, asker, world)
    lines = _world(world) + _own(asker, world)
    if isinstance(verdict, Granted):
        what = ", ".join(f"{unit.name} ({unit.profile})" for unit in verdict.units)
        return [*lines, f"{request.words} would be granted now: {what}", *verdict.warnings], verdict, []
    return [*lines, f"{request.words} would be refused now: {verdict.message}; {verdict.hint}"], verdict, against


def _world(world: World) -> list[str]:
    free = [unit for unit in world.free() if unit.key not in world.reserved]
    kept = [unit for unit in world.free() if unit.key in world.reserved]
    lines = [f"{len(free)} of {len(world.units)} units are free: {', '.join(unit.name for unit in free) or 'none'}"]
    if kept:
        lines.append(f"{len(kept)} more are kept for who waits: {', '.join(unit.name for unit in kept)}")
    lines += [f"GPU {index} is withheld: {why}" for index, why in sorted(world.withheld.items())]
    names = {unit.key: unit.name for unit in world.units}
    return lines + [f"GPU {names[key]} is withheld: {why}" for key, why in world.occupied.items() if key in names]


def _own(asker: Asker, world: World) -> list[str]:
    used = usage_of(world.leases, asker.uid)
    lines = [
        f"you hold {used.units} units ({used.equivalents} GPUs, {used.mig_instances} MIG instances)",
        f"your limits: {_limit(asker.max_units_per_container)} units in one container, "
        f"{_limit(asker.max_mig_instances)} MIG instances, {_limit(asker.max_equivalents)} GPUs in all, "
        f"whole GPUs {'allowed' if asker.allow_full else 'not allowed'}",
    ]
    if asker.group_max_equivalents is None and asker.group_max_mig_instances is None:
        return lines
    group = usage(lease for lease in world.leases if lease.group == asker.group)
    lines.append(
        f"'{asker.group}' as a whole holds {group.equivalents} of {_limit(asker.group_max_equivalents)} GPUs and "
        f"{group.mig_instances} of {_limit(asker.group_max_mig_instances)} MIG instances"
    )
    return lines


def _limit(value: object) -> str:
    return "no limit on" if value is None else str(value)
