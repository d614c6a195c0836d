"""Which units a request could have, and which of them it gets. Pure and deterministic.

MIG instances come before whole GPUs, small ones before large ones, those of the least-used GPU first; whole GPUs that
go together are NVLink neighbours where there are any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from ds01.common.model import FULL, Unit, UnitKey
from ds01.gpu_allocator.request import GpuRequest
from ds01.gpu_allocator.world import World

MOST_SETS = 5000
"""How many sets of GPUs are compared by their links: every choice of 4 among 16 is 1,820."""


def candidates(request: GpuRequest, world: World, *, allow_full: bool) -> tuple[Unit, ...]:
    """The units that exist and would do, free or not. Empty where none would."""
    units = tuple(unit for unit in world.units if allow_full or not unit.is_full)
    if request.names:
        found = dict.fromkeys(named(name, world.units) for name in request.names)  # one unit has several names
        return tuple(unit for unit in found if isinstance(unit, Unit) and unit in units)
    if request.profile:
        profile = resolved_profile(request.profile, world.units)
        return tuple(unit for unit in units if unit.profile == profile)
    return units


def resolved_profile(profile: str, units: Iterable[Unit]) -> str:
    """A nominal size such as `10gb` is the smallest profile of that size that exists here."""
    if profile == FULL or "." in profile:
        return profile
    of_size = [unit for unit in units if unit.profile.partition("+")[0].endswith(f"g.{profile}")]
    return min(of_size, key=lambda unit: (unit.size, unit.profile)).profile if of_size else profile


def named(name: str, units: Sequence[Unit]) -> Unit | str:
    """The unit of this name, UUID or beginning of a UUID; why not, where there is not exactly one."""
    exact = next((unit for unit in units if name in (unit.name, unit.uuid)), None)
    if exact is not None:
        return exact
    parts = [unit.name for unit in units if unit.name.startswith(f"{name}:") or unit.key.gpu_uuid == name]
    if parts:
        return f"GPU {name} is cut into MIG instances; ask for one of {', '.join(parts)}"
    begins = [unit for unit in units if name.startswith(("G", "M")) and unit.uuid.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        return f"'{name}' is the beginning of {len(begins)} UUIDs; write more of it"
    return f"there is no GPU {name} here"


def choose(request: GpuRequest, free: Iterable[Unit], world: World) -> tuple[Unit, ...] | None:
    """`request.count` of the `free` candidates; None if there are too few."""
    if request.names:
        found = tuple(free)
        return found if len(found) == request.count else None
    load = _load(world)
    pool = list(free)
    whole = [unit for unit in pool if unit.is_full]
    picked = _instances([unit for unit in pool if not unit.is_full], request.count, load)
    missing = request.count - len(picked)
    if missing > len(whole):
        return None
    return (*picked, *_linked(whole, missing, world))


def _load(world: World) -> Counter[int]:
    taken = world.taken()
    return Counter(unit.gpu_index for unit in world.units if unit.key in taken)


def _instances(pool: list[Unit], count: int, load: Counter[int]) -> list[Unit]:
    picked: list[Unit] = []
    while pool and len(picked) < count:
        best = min(pool, key=lambda unit: (unit.size, load[unit.gpu_index], unit.gpu_index, unit.key))
        pool.remove(best)
        load[best.gpu_index] += 1
        picked.append(best)
    return picked


def _linked(whole: Sequence[Unit], count: int, world: World) -> tuple[Unit, ...]:
    """`count` whole GPUs with the most NVLinks among them; the lowest indices where that is equal."""
    ordered = sorted(whole, key=lambda unit: (unit.gpu_index, unit.key))
    if count <= 1 or not world.links:
        return tuple(ordered[:count])
    best, most = tuple(ordered[:count]), -1
    for tried, several in enumerate(combinations(ordered, count)):
        joined = sum(b.gpu_index in world.links.get(a.gpu_index, ()) for a, b in combinations(several, 2))
        if joined > most:
            best, most = several, joined
        if tried >= MOST_SETS or most == count * (count - 1) // 2:
            break
    return best


def keys(units: Iterable[Unit]) -> frozenset[UnitKey]:
    """Their keys."""
    return frozenset(unit.key for unit in units)
