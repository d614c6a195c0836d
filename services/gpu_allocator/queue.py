"""The queue: in which order people wait, who gets a turn now, and which units are kept for whom. Pure.

Whoever has had the least GPU time lately comes first, then whoever has waited longest. A request that can't be met yet
reserves what is free of the units that would do for it, so that smaller ones behind it never starve it; this is only
done for the first in line for those units, or one idle GPU after another would be kept for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ds01.common.model import Denied, Granted, Lease, LeasedUnit, LeaseState, Reason, Unit, UnitKey, Waiter
from ds01.gpu_allocator.choose import candidates, keys
from ds01.gpu_allocator.decide import cheapest, decide
from ds01.gpu_allocator.request import GpuRequest
from ds01.gpu_allocator.world import Asker, World

MAX_WAITING_PER_USER = 8
"""Places in the queue of one user: each is a row of the ledger and a connection."""


@dataclass(frozen=True, slots=True)
class InLine:
    """A waiter with what he asks for and may have. `score` orders: the lowest first. `present`: somebody waits at the
    other end, so that he may be given a turn."""

    waiter: Waiter
    request: GpuRequest
    asker: Asker
    score: float
    present: bool = True


@dataclass(frozen=True, slots=True)
class Turn:
    """A place in the queue (from 1), why it is not its turn, and when it may be (epoch; None: unknown)."""

    place: int
    line: InLine
    denied: Denied
    estimate: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the queue comes to: at most one waiter whose turn it is (give it, then plan anew), everybody's places, and
    what is kept for them."""

    next: tuple[InLine, Granted] | None
    turns: tuple[Turn, ...]
    reserved: frozenset[UnitKey]


def ordered(lines: Iterable[InLine]) -> tuple[InLine, ...]:
    """The order of turns."""
    return tuple(
        sorted(lines, key=lambda line: (line.score, line.waiter.since, line.waiter.uid, line.waiter.request_id))
    )


def plan(lines: Iterable[InLine], world: World) -> Plan:
    """Walk down the queue: the first whose request can be met is next; the others keep, or get, their reservations."""
    reserved: frozenset[UnitKey] = frozenset()
    claimed: frozenset[UnitKey] = frozenset()
    found: tuple[InLine, Granted] | None = None
    waiting: list[tuple[InLine, Denied]] = []
    promised: list[Lease] = []
    for line in ordered(lines):
        verdict = decide(line.request, line.asker, _seen_by(line.waiter, world, reserved, promised))
        wants = keys(candidates(line.request, world, allow_full=line.asker.allow_full))
        if isinstance(verdict, Granted):
            if line.present and found is None:
                found = (line, verdict)
            reserved |= keys(verdict.units)
            promised.append(_promise(line, verdict.units))
            continue
        waiting.append((line, verdict))
        if verdict.reason is Reason.NONE_FREE and not wants & claimed:
            reserved |= keys(unit for unit in world.free() if unit.key in wants and unit.key not in reserved)
            claimed |= wants
            wanted = candidates(line.request, world, allow_full=line.asker.allow_full)
            promised.append(_promise(line, cheapest(wanted, line.request.count)))
    return Plan(found, _turns(waiting, world), reserved)


def _promise(line: InLine, units: Iterable[Unit]) -> Lease:
    """What is kept for somebody as if he held it: nobody has more kept for him than his quota."""
    waiter = line.waiter
    return Lease(
        id=f"promised-{waiter.uid}-{waiter.request_id}",
        request_id=waiter.request_id,
        uid=waiter.uid,
        user=waiter.user,
        group=waiter.group,
        container="",
        container_name=waiter.name,
        count=line.request.count,
        state=LeaseState.GRANTED,
        since=waiter.since,
        until=None,
        units=tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in units),
        kind=waiter.kind,
        request=waiter.request,
    )


def _seen_by(waiter: Waiter, world: World, reserved: frozenset[UnitKey], promised: Iterable[Lease]) -> World:
    """The world without the lease that the waiter already has and wants other units for: it takes its place; and with
    what was promised to those before him."""
    key = (waiter.uid, waiter.request_id)
    others = tuple(lease for lease in world.leases if (lease.uid, lease.request_id) != key)
    return replace(world, leases=others, reserved=reserved, promised=tuple(promised))


def _turns(waiting: Sequence[tuple[InLine, Denied]], world: World) -> tuple[Turn, ...]:
    """Places and estimates: each waiter takes the first ends of leases on units that would do for him."""
    open_at = _open_at(world)
    turns = []
    for place, (line, denied) in enumerate(waiting, start=1):
        wanted = candidates(line.request, world, allow_full=line.asker.allow_full)
        times = sorted((open_at[unit.key], unit.key) for unit in wanted if unit.key in open_at)[: line.request.count]
        enough = len(times) == line.request.count and denied.reason is Reason.NONE_FREE
        for _, key in times if enough else ():
            del open_at[key]
        turns.append(Turn(place, line, denied, (times[-1][0] or None) if enough else None))
    return tuple(turns)


def _open_at(world: World) -> dict[UnitKey, float]:
    """When each unit is expected to be free (epoch; 0.0: it is now). A unit of unknown end is not in it."""
    open_at: dict[UnitKey, float] = {unit.key: 0.0 for unit in world.free()}
    for lease in world.leases:
        if lease.id in world.ends:
            open_at |= {unit.key: world.ends[lease.id] for unit in lease.units}
    return open_at
