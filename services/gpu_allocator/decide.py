"""May this request have units, and which? Pure: the same question of the same world has the same answer.

One code path for one unit and for many, for a new lease and for one whose hold has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ds01.common.limits import Limits
from ds01.common.model import HOLDING, Denied, Granted, Lease, Reason, Unit

RETIRE_HINT = "end one with 'container retire NAME' (or 'docker rm -f NAME') and try again"


@dataclass(frozen=True, slots=True)
class World:
    """What exists and who holds it at the moment of a decision."""

    units: tuple[Unit, ...]
    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one user holds now."""

    units: int
    equivalents: Fraction
    mig_instances: int


def usage(leases: Iterable[Lease], uid: int) -> Usage:
    """What `uid` holds over all leases, holds included."""
    held = [unit for lease in leases if lease.uid == uid and lease.state in HOLDING for unit in lease.units]
    sizes = sum((unit.size for unit in held), Fraction(0))
    return Usage(len(held), sizes, sum(1 for unit in held if unit.key.placement))


def free_units(world: World) -> tuple[Unit, ...]:
    """Units that exist and that no lease holds."""
    taken = {unit.key for lease in world.leases if lease.state in HOLDING for unit in lease.units}
    return tuple(unit for unit in world.units if unit.key not in taken)


def decide(uid: int, count: int, limits: Limits, world: World) -> Granted | Denied:
    """Whether `uid` may have `count` more units, and which: least-used GPUs first, whole GPUs kept whole."""
    if count < 1:
        return Denied(
            Reason.NOT_A_COUNT, f"{count} is not a number of GPU units", "", "", str(count), "ask for 1 or more"
        )
    used = usage(world.leases, uid)
    per_container = limits.max_gpu_units_per_container
    if per_container is not None and count > per_container:
        return Denied(
            Reason.OVER_UNITS_PER_CONTAINER,
            f"{count} GPU units were asked for one container, and your limit is {per_container}",
            str(per_container),
            str(used.units),
            str(count),
            f"ask for {per_container} or fewer" if per_container else "your group has no GPU; ask an administrator",
        )
    chosen = _choose(free_units(world), world, count, limits.allow_full_gpu)
    over = _over_quota(chosen or _smallest(world.units, count, limits.allow_full_gpu), count, used, limits)
    if over is not None:
        return over
    if chosen is None:
        return _none_free(count, limits, world)
    return Granted(chosen)


def _choose(free: Sequence[Unit], world: World, count: int, allow_full: bool) -> tuple[Unit, ...] | None:
    """`count` units in order of preference; None if there are too few. MIG instances come before whole GPUs."""
    taken = {unit.key for unit in world.units} - {unit.key for unit in free}
    load = Counter(unit.gpu_index for unit in world.units if unit.key in taken)
    instances = [unit for unit in free if not unit.is_full]
    whole = [unit for unit in free if unit.is_full] if allow_full else []
    picked: list[Unit] = []
    for pool in (instances, whole):
        while pool and len(picked) < count:
            best = min(pool, key=lambda unit: (unit.size, load[unit.gpu_index], unit.gpu_index, unit.key))
            pool.remove(best)
            load[best.gpu_index] += 1
            picked.append(best)
    return tuple(picked) if len(picked) == count else None


def _smallest(units: Sequence[Unit], count: int, allow_full: bool) -> tuple[Unit, ...]:
    """The least that `count` units could cost, to judge a quota when nothing is free."""
    usable = [unit for unit in units if allow_full or not unit.is_full]
    return tuple(sorted(usable, key=lambda unit: (unit.size, unit.key))[:count])


def _over_quota(units: Sequence[Unit], count: int, used: Usage, limits: Limits) -> Denied | None:
    asked_mig = sum(1 for unit in units if not unit.is_full)
    most_mig = limits.max_mig_instances
    if most_mig is not None and asked_mig and used.mig_instances + asked_mig > most_mig:
        return Denied(
            Reason.OVER_MIG_INSTANCES,
            f"you hold {used.mig_instances} of {most_mig} MIG instances and asked for {count} more",
            str(most_mig),
            str(used.mig_instances),
            str(count),
            RETIRE_HINT,
        )
    asked = sum((unit.size for unit in units), Fraction(0))
    most = limits.max_gpu_equivalents
    if most is not None and used.equivalents + asked > most:
        return Denied(
            Reason.OVER_GPU_EQUIVALENTS,
            f"you hold {used.equivalents} of {most} GPUs and asked for {asked} more",
            str(most),
            str(used.equivalents),
            str(asked),
            RETIRE_HINT,
        )
    return None


def _none_free(count: int, limits: Limits, world: World) -> Denied:
    usable = [unit for unit in world.units if limits.allow_full_gpu or not unit.is_full]
    free = sum(1 for unit in free_units(world) if limits.allow_full_gpu or not unit.is_full)
    if not usable and world.units:
        return Denied(
            Reason.FULL_GPU_NOT_ALLOWED,
            "only whole GPUs exist here at the moment, and your group may not have one",
            "0",
            "0",
            str(count),
            "ask an administrator for MIG instances or for 'allow_full_gpu'",
        )
    first_end = min(
        (lease.until for lease in world.leases if lease.until is not None and lease.state in HOLDING), default=None
    )
    hint = "'ds01 status' shows who holds what and until when; try again later"
    if first_end is not None:
        hint = "a hold of somebody ends soon; " + hint
    return Denied(
        Reason.NONE_FREE,
        f"{count} GPU units were asked for and {free} of {len(usable)} are free",
        str(len(usable)),
        str(len(usable) - free),
        str(count),
        hint,
    )
