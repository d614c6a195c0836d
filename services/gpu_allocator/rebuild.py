"""A ledger made anew from what runs, when the old one can't be used: labels name leases, device nodes tell units.

What does not run holds nothing; its lease is kept as ended, so that a start leases anew. Times of the past, GPU time
and the queue are lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ds01.common.cdi import VendorSpec, own_nodes
from ds01.common.errors import LedgerBroken, PeerRefused, Unavailable
from ds01.common.events import Event
from ds01.common.ledger import Ledger
from ds01.common.model import ContainerFacts, Entry, Lease, LeasedUnit, LeaseState, Listed, Unit
from ds01.gpu_allocator.facts import Facts


@dataclass(frozen=True, slots=True)
class Found:
    """A container that carries a lease's label, and the device nodes that it has."""

    listed: Listed
    nodes: frozenset[str]


def leases_of(
    found: Iterable[Found],
    units: Sequence[Unit],
    vendor: VendorSpec,
    owner: Callable[[int], tuple[str, str]],
    now: float,
) -> tuple[list[Lease], list[str]]:
    """Leases, and a sentence for each thing that an administrator should know. `owner` is name and group of a uid."""
    leases: list[Lease] = []
    said: list[str] = []
    taken: set[str] = set()
    for one in found:
        uid = one.listed.owner_uid
        if uid is None or not one.listed.lease:
            continue
        name, group = owner(uid)
        has = _units_of(one.nodes, units, vendor) if one.listed.running else ()
        clash = [unit.name for unit in has if str(unit.key) in taken]
        if clash:
            said.append(f"'{one.listed.name}' of {name} has GPU {', '.join(clash)}, as another one has: look at both")
        has = tuple(unit for unit in has if unit.name not in clash)
        taken |= {str(unit.key) for unit in has}
        state = LeaseState.ACTIVE if has else LeaseState.RELEASED
        leases.append(_lease(one.listed, uid, name, group, has, state, now))
        if one.listed.running:
            said.append(f"'{one.listed.name}' of {name} holds {', '.join(unit.name for unit in has) or 'nothing'}")
    return leases, said


def _units_of(nodes: frozenset[str], units: Sequence[Unit], vendor: VendorSpec) -> tuple[Unit, ...]:
    """The units whose own nodes a container has all of; one that other units are part of is not among them."""
    own = {unit: own_nodes(unit, units, vendor) for unit in units}
    return tuple(unit for unit in units if own[unit] and own[unit] <= nodes)


def _lease(
    listed: Listed, uid: int, user: str, group: str, has: Sequence[Unit], state: LeaseState, now: float
) -> Lease:
    return Lease(
        id=listed.lease,
        request_id=f"rebuilt-{listed.lease}",
        uid=uid,
        user=user,
        group=group,
        container=listed.id,
        container_name=listed.name,
        count=max(1, len(has)),
        state=state,
        since=now,
        until=None,
        units=tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in has),
        request=listed.request,
    )


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a rebuild looks: the engine, the nodes of a process, the vendor's devices, programs in scopes, and the
    timers of what is open to logins; `end` has one of these do its work at once."""

    listed: Callable[[], Awaitable[list[Listed]]]
    inspect: Callable[[str], Awaitable[ContainerFacts | None]]
    nodes_of: Callable[[int], frozenset[str] | None]
    vendor: Callable[[], VendorSpec]
    programs: Callable[[], Awaitable[list[str]]]
    timers: Callable[[], Awaitable[list[str]]]
    end: Callable[[str], Awaitable[None]]


async def rebuild(facts: Facts, sources: Sources, path: Path) -> list[str]:
    """Put the file at `path` aside and write a new one; what was found, in sentences.

    Raises:
        PeerRefused: the ledger is well, or programs run whose GPUs would be forgotten.
        Ds01Error: the engine or the GPUs don't answer, or the new file can't be written.
    """
    if not facts.ledger_problem and not facts.book.is_broken:
        raise PeerRefused("the ledger is well; there is nothing to rebuild")
    programs = await sources.programs()
    if programs:
        raise PeerRefused(f"programs run under leases that would be forgotten: end {', '.join(programs)} first")
    inventory = await facts.stock.fresh(max_age_s=0.0)
    found = [await _look(one, sources) for one in await sources.listed() if one.lease]

    def owner(uid: int) -> tuple[str, str]:
        try:
            asker = facts.asker(uid)
        except PeerRefused:
            return f"uid {uid}", ""
        return asker.user, asker.group

    timers = await sources.timers()
    for timer in timers:  # what is open to logins would be known to nobody: it is closed as at its end
        await sources.end(timer.removesuffix(".timer") + ".service")
    leases, said = leases_of(found, inventory.units, sources.vendor(), owner, facts.now())
    try:
        aside = _put_aside(path, facts.now())
    except OSError as exc:
        raise LedgerBroken(f"the old ledger '{path}' can't be put aside: {exc.strerror}; nothing was changed") from exc
    with suppress(LedgerBroken):
        await facts.book.settled()
    ledger = Ledger.open(path)
    ledger.write([Entry(leases=tuple(leases))])
    facts.book.reopen(ledger)
    facts.ledger_problem = ""
    said += [f"{len(timers)} grant(s) to logins were closed: open them anew"] if timers else []
    await facts.book.note(Event("ledger.rebuilt", f"The ledger was made anew: {'; '.join(said) or 'nothing runs'}"))
    return [f"the old ledger is kept as '{aside}'", *said, f"{len(leases)} leases are known again"]


async def _look(listed: Listed, sources: Sources) -> Found:
    facts = await sources.inspect(listed.id) if listed.running else None
    if facts is None or not facts.pid:
        return Found(replace(listed, running=False), frozenset())
    nodes = sources.nodes_of(facts.pid)
    if nodes is None:
        raise Unavailable(f"which GPU '{listed.name}' has can't be told; stop it, or try again")
    return Found(listed, nodes)


def _put_aside(path: Path, now: float) -> Path:
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(aside.with_name(aside.name + suffix))
    return aside
