"""Which slices a user needs, with which properties. Pure; limits_sync and boot apply it.

A slice is made with its properties before anything runs in it, parents first, since systemd makes missing parents
implicitly and without limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.limits import Aggregate, MachineLimits
from ds01.common.unitnames import ROOT_SLICE, group_slice, user_slice

ENGINE_SLICE = "docker.slice"
JOB_SERVICES = ("cron.service", "atd.service")
NO_TOTAL = Aggregate()

UNLIMITED = 2**64 - 1
"""systemd's "infinity" for sizes and counts (UINT64_MAX on D-Bus)."""

PropertyValue = int | str | bool


@dataclass(frozen=True, slots=True, order=True)
class SliceOwner:
    """A user and the policy group under which his slice was made."""

    uid: int
    user: str
    group: str


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """One slice that must exist: its name and its systemd properties (D-Bus names and units)."""

    name: str
    properties: Mapping[str, PropertyValue]


Devices = tuple[tuple[str, str], ...]
"""What may be opened: (path of a node or `char-NAME`, mode such as `rw`)."""


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """A scope for one process, given by its descriptor: its slice, its systemd properties, and what it may open."""

    name: str
    slice: str
    pidfd: int
    devices: Devices
    properties: Mapping[str, PropertyValue]


@dataclass(frozen=True, slots=True)
class TimerPlan:
    """A command that systemd runs at a time (`calendar`, see systemd.time(7)), whoever of us is dead then."""

    name: str
    calendar: str
    argv: tuple[str, ...]
    description: str


def plan_user(
    user: str, uid: int, group: str, aggregate: Aggregate, total: Aggregate = NO_TOTAL
) -> tuple[SlicePlan, SlicePlan]:
    """The slices of `user`, parent first: his group's with the limits of the whole group, his own with his limits."""
    parent = SlicePlan(group_slice(group), {"Description": "DS01 group", **_accounting(), **properties(total)})
    own = SlicePlan(
        user_slice(group, user, uid), {"Description": f"DS01 user {uid}", **_accounting(), **properties(aggregate)}
    )
    return parent, own


def plan_machine(machine: MachineLimits) -> tuple[SlicePlan, SlicePlan]:
    """The limits of all containers together, and of the engine. Both slices are unit files of ours."""
    return SlicePlan(ROOT_SLICE, properties(machine.root)), SlicePlan(ENGINE_SLICE, properties(machine.engine))


def plan_jobs(machine: MachineLimits) -> tuple[SlicePlan, ...]:
    """The services in which everybody's cron and at jobs run."""
    return tuple(SlicePlan(name, properties(machine.jobs)) for name in JOB_SERVICES)


def plan_login(uid: int, login: Aggregate) -> SlicePlan:
    """The slice in which logind puts the sessions of `uid`."""
    return SlicePlan(f"user-{uid}.slice", properties(login))


def cgroup_of(unit: str) -> str:
    """The path of a slice, or of a service in system.slice, below the root of the cgroup hierarchy."""
    if not unit.endswith(".slice"):
        return f"system.slice/{unit}"
    parts = unit.removesuffix(".slice").split("-")
    return "/".join(f"{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def properties(aggregate: Aggregate) -> dict[str, PropertyValue]:
    """The limits of a slice as systemd's properties; a limit that is absent is set to "none", never left over."""
    quota = aggregate.cpu_quota_percent
    return {
        "CPUQuotaPerSecUSec": UNLIMITED if quota is None else quota * 10_000,
        "MemoryMax": _or_unlimited(aggregate.memory_max_bytes),
        "MemoryHigh": _or_unlimited(aggregate.memory_high_bytes),
        "TasksMax": _or_unlimited(aggregate.tasks_max),
        "CPUWeight": _or_unlimited(aggregate.cpu_weight),
    }


def _or_unlimited(value: int | None) -> int:
    return UNLIMITED if value is None else value


def _accounting() -> dict[str, PropertyValue]:
    return {"CPUAccounting": True, "MemoryAccounting": True, "TasksAccounting": True, "IOAccounting": True}
