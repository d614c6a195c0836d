"""May this request have units, and which? Pure: the same question of the same world has the same answer.

One code path for one unit and for many, for containers, host processes and logins, for a new lease and for one whose
hold has ended. `objections` is everything that speaks against a request, `decide` the first of it or the units.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from ds01.common.model import HOLDING, Blocker, Denied, Granted, Lease, Reason, Unit
from ds01.gpu_allocator.choose import candidates, choose, keys, named
from ds01.gpu_allocator.request import GpuRequest
from ds01.gpu_allocator.world import Asker, Usage, World, usage, usage_of

RETIRE_HINT = "end one with 'container retire NAME' (or 'docker rm -f NAME'), or a program of yours, and try again"
WAIT_HINT = "'ds01 status' shows who holds what; try again later, or wait for your turn with '--wait'"


def decide(request: GpuRequest, asker: Asker, world: World) -> Granted | Denied:
    """The units that `asker` gets, or the first reason why he gets none."""
    denied = next(objections(request, asker, world), None)
    if denied is not None:
        return denied
    chosen = choose(request, _available(request, asker, world), world)
    assert chosen is not None
    return Granted(chosen, tuple(_warnings(request, chosen)))


def objections(request: GpuRequest, asker: Asker, world: World) -> Iterator[Denied]:
    """Every reason against the request, the most final first."""
    yield from _over_one_lease(request, asker, world)
    wanted = candidates(request, world, allow_full=asker.allow_full)
    impossible = _impossible(request, asker, world, wanted)
    if impossible is not None:
        yield impossible
        return
    free = _available(request, asker, world)
    chosen = choose(request, free, world)
    least = cheapest(wanted, request.count)
    over = list(_over_quota(chosen or least, request, asker, world))
    if chosen and over and not any(_over_quota(least, request, asker, world)):
        over, chosen = [], None  # what is free is too much for him; a smaller unit would do, once it is free
    yield from over
    if chosen is None:
        yield _none_free(request, world, wanted, free)


def _available(request: GpuRequest, asker: Asker, world: World) -> tuple[Unit, ...]:
    """What would do, is free, and is not kept for somebody who waits."""
    wanted = keys(candidates(request, world, allow_full=asker.allow_full))
    return tuple(unit for unit in world.free() if unit.key in wanted and unit.key not in world.reserved)


def _warnings(request: GpuRequest, units: Sequence[Unit]) -> Iterator[str]:
    if request.warning:
        yield request.warning
    if len(units) > 1 and any(not unit.is_full for unit in units):
        yield f"you have {len(units)} GPU units, and one CUDA process can use one MIG instance only"


def _over_one_lease(request: GpuRequest, asker: Asker, world: World) -> Iterator[Denied]:
    most = asker.max_units_per_container
    if most is not None and request.count > most:
        yield Denied(
            Reason.OVER_UNITS_PER_CONTAINER,
            f"{request.count} GPU units were asked for at once, and your limit is {most}",
            str(most),
            str(usage_of(world.leases, asker.uid).units),
            str(request.count),
            f"ask for {most} or fewer" if most else "your group has no GPU; ask an administrator",
        )


def _impossible(request: GpuRequest, asker: Asker, world: World, wanted: Sequence[Unit]) -> Denied | None:
    """What no waiting would bring: a unit that is not here, or that the asker may not have."""
    unknown = next((why for name in request.names if isinstance(why := named(name, world.units), str)), None)
    if unknown is not None and not _withheld_name(request, world):
        return _no_such(request, unknown, world)
    refused = [] if asker.allow_full else candidates(request, world, allow_full=True)
    if len(wanted) < len(refused) and len(wanted) < request.count:
        return Denied(
            Reason.FULL_GPU_NOT_ALLOWED,
            "only whole GPUs would do for that, and your group may not have one",
            "0",
            "0",
            str(request.count),
            f"ask for a MIG instance ({_profiles(world)}), or an administrator for 'allow_full_gpu'",
        )
    if len(wanted) >= request.count or not world.units or _withheld_name(request, world):
        return None
    few = f"there are only {len(wanted)} of them" if wanted else "there is none"
    return _no_such(request, f"{request.words} {'was' if request.count == 1 else 'were'} asked for, and {few}", world)


def _withheld_name(request: GpuRequest, world: World) -> bool:
    """A GPU that offers nothing at the moment may be the one that is asked for."""
    if request.names:
        return any(name.split(":")[0] == str(index) for name in request.names for index in world.withheld)
    return bool(world.withheld)


def _no_such(request: GpuRequest, why: str, world: World) -> Denied:
    here = ", ".join(f"{unit.name} ({unit.profile})" for unit in world.units[:12])
    hint = f"here are {here}" if here else "no GPU can be used at the moment; see 'ds01 status'"
    return Denied(Reason.NO_SUCH_UNIT, why, "", "", str(request), hint)


def _profiles(world: World) -> str:
    found = sorted({unit.profile for unit in world.units if not unit.is_full})
    return ", ".join(found) or "there is none at the moment"


def cheapest(units: Sequence[Unit], count: int) -> tuple[Unit, ...]:
    """The least that `count` units could cost, to judge a quota when nothing is free."""
    return tuple(sorted(units, key=lambda unit: (unit.size, unit.key))[:count])


def _over_quota(units: Sequence[Unit], request: GpuRequest, asker: Asker, world: World) -> Iterator[Denied]:
    counted = (*world.leases, *world.promised)
    own = [lease for lease in counted if lease.uid == asker.uid]
    group = [lease for lease in counted if lease.group == asker.group]
    yield from _over(
        units,
        world,
        asker.max_mig_instances,
        asker.max_equivalents,
        own,
        usage(own),
        "you hold",
        "",
        RETIRE_HINT,
        request,
    )
    yield from _over(
        units,
        world,
        asker.group_max_mig_instances,
        asker.group_max_equivalents,
        group,
        usage(group),
        f"everybody in '{asker.group}' together holds",
        "the group's ",
        WAIT_HINT,
        request,
    )


def _over(
    units: Sequence[Unit],
    world: World,
    most_mig: int | None,
    most: Fraction | None,
    holders: Sequence[Lease],
    used: Usage,
    who: str,
    whose: str,
    hint: str,
    request: GpuRequest,
) -> Iterator[Denied]:
    """What these units would be too much of, for a user or for a group."""
    asked_mig = sum(1 for unit in units if not unit.is_full)
    asked = sum((unit.size for unit in units), Fraction(0))
    to_end = blockers((lease for lease in holders if lease.units), world)
    if most_mig is not None and asked_mig and used.mig_instances + asked_mig > most_mig:
        yield Denied(
            Reason.OVER_GROUP_TOTAL if whose else Reason.OVER_MIG_INSTANCES,
            f"{who} {used.mig_instances} of {whose}{most_mig} MIG instances, and {asked_mig} more "
            f"{'was' if asked_mig == 1 else 'were'} asked for",
            str(most_mig),
            str(used.mig_instances),
            str(request.count),
            hint if used.mig_instances else f"ask for {most_mig} or fewer",
            to_end,
        )
    if most is not None and used.equivalents + asked > most:
        yield Denied(
            Reason.OVER_GROUP_TOTAL if whose else Reason.OVER_GPU_EQUIVALENTS,
            f"{who} {used.equivalents} of {whose}{most} GPUs, and {asked} more were asked for",
            str(most),
            str(used.equivalents),
            str(asked),
            hint if used.units else "ask for less",
            to_end,
        )


def blockers(leases: Iterable[Lease], world: World) -> tuple[Blocker, ...]:
    """These leases as what would have to end, the first to end first."""
    found = [
        Blocker(
            lease.uid, lease.user, lease.group, lease.container_name, lease.unit_names, lease.state,
            world.ends.get(lease.id),
        )
        for lease in leases
        if lease.state in HOLDING
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: (one.until is None, one.until or 0.0, one.units)))


def _none_free(request: GpuRequest, world: World, wanted: Sequence[Unit], free: Sequence[Unit]) -> Denied:
    usable = keys(wanted)
    holders = [lease for lease in world.leases if any(unit.key in usable for unit in lease.units)]
    kept = len(usable & world.reserved & keys(world.free()))
    message = f"{request.words} {'was' if request.count == 1 else 'were'} asked for, and "
    message += f"{len(free)} of {len(usable)} that would do {'is' if len(free) == 1 else 'are'} free"
    notes = [f"{kept} more {'is' if kept == 1 else 'are'} kept for who waits longer"] if kept else []
    asked = {name.split(":")[0] for name in request.names}
    withheld = {index: why for index, why in world.withheld.items() if not asked or str(index) in asked}
    notes += [f"GPU {index} is withheld: {why}" for index, why in withheld.items()]
    notes += [world.occupied[unit.key] for unit in wanted if unit.key in world.occupied]
    return Denied(
        Reason.NONE_FREE,
        "; ".join([message, *notes]),
        str(len(usable)),
        str(len(usable) - len(free)),
        str(request.count),
        WAIT_HINT,
        blockers(holders, world),
    )
