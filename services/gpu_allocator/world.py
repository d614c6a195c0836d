"""What a decision is made on: everything that exists, who holds it, and who asks. Immutable values, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from ds01.common.limits import Policy
from ds01.common.model import HOLDING, Lease, LeaseKind, Unit, UnitKey

NOBODY = -1
"""The uid of somebody whom one may not know."""


@dataclass(frozen=True, slots=True)
class World:
    """What exists and who holds it at the moment of a decision.

    `withheld`: why a GPU (by index) offers nothing at the moment. `occupied`: why a unit that no lease holds may not be
    given away either. `reserved`: units that are kept for somebody who waits; `promised`: what he will have by that,
    which counts against his quota. `links`: GPUs joined by NVLink. `ends`:
    when leases (by id) are expected to end at the latest (see facts.py), in seconds of the epoch; absent where nobody
    knows.
    """

    units: tuple[Unit, ...]
    leases: tuple[Lease, ...]
    withheld: Mapping[int, str] = field(default_factory=dict)
    occupied: Mapping[UnitKey, str] = field(default_factory=dict)
    reserved: frozenset[UnitKey] = frozenset()
    links: Mapping[int, frozenset[int]] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)
    promised: tuple[Lease, ...] = ()

    def taken(self) -> frozenset[UnitKey]:
        """What leases hold."""
        return frozenset(unit.key for lease in self.leases if lease.state in HOLDING for unit in lease.units)

    def free(self) -> tuple[Unit, ...]:
        """Units that exist, that no lease holds, and that nothing else stands on. Reserved ones are among them."""
        taken = self.taken()
        return tuple(unit for unit in self.units if unit.key not in taken and unit.key not in self.occupied)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, and what the policy lets him and his group have. None is no limit."""

    uid: int
    user: str
    group: str
    max_equivalents: Fraction | None
    max_units_per_container: int | None
    max_mig_instances: int | None
    allow_full: bool
    priority: int = 100
    group_max_equivalents: Fraction | None = None
    group_max_mig_instances: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a user, or a group, holds now."""

    units: int
    equivalents: Fraction
    mig_instances: int


def asker_of(uid: int, user: str, unix_groups: Iterable[str], policy: Policy) -> Asker:
    """The user as the policy in force sees him."""
    name = policy.group_of(user, unix_groups)
    group, limits = policy.groups[name], policy.limits_in(name, user)
    return Asker(
        uid=uid,
        user=user,
        group=name,
        max_equivalents=limits.max_gpu_equivalents,
        max_units_per_container=limits.max_gpu_units_per_container,
        max_mig_instances=limits.max_mig_instances,
        allow_full=limits.allow_full_gpu,
        priority=limits.priority,
        group_max_equivalents=group.gpu_total.max_gpu_equivalents,
        group_max_mig_instances=group.gpu_total.max_mig_instances,
    )


def unlimited(asker: Asker) -> Asker:
    """The same user without limits: an administrator's word stands above quotas, and below other people's leases."""
    return replace(
        asker,
        max_equivalents=None,
        max_units_per_container=None,
        max_mig_instances=None,
        allow_full=True,
        group_max_equivalents=None,
        group_max_mig_instances=None,
    )


def masked(world: World, uid: int) -> World:
    """The world as `uid` may know it: others without their names."""
    return replace(
        world,
        leases=tuple(
            lease
            if lease.uid == uid
            else replace(lease, uid=NOBODY, user="", container="", container_name="", request_id="")
            for lease in world.leases
        ),
    )


def usage(leases: Iterable[Lease]) -> Usage:
    """What these leases hold together, holds included. What is open to logins counts against nobody."""
    counted = (lease for lease in leases if lease.state in HOLDING and lease.kind is not LeaseKind.LOGIN)
    held = [unit for lease in counted for unit in lease.units]
    sizes = sum((unit.size for unit in held), Fraction(0))
    return Usage(len(held), sizes, sum(1 for unit in held if unit.key.placement))


def usage_of(leases: Iterable[Lease], uid: int) -> Usage:
    """What `uid` holds over all leases."""
    return usage(lease for lease in leases if lease.uid == uid)
