"""The compiled policy: who belongs to which group and which limits hold. Pure; policyfile.py reads it.

Schema 2. Sizes are bytes, times seconds, CPUs cores, quotas percent of one CPU, GPU amounts exact fractions of a GPU.
`None` is "no limit", and only where a field says so. What a user's limits are is decided when it is asked: his own
layer lies on the layer of the group that he is in then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ds01.common.errors import PolicyInvalid

SCHEMA = 2
_HIGH_PERCENT = 90
"""memory_high follows memory_max at this distance, so that the kernel slows down before it kills."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Limits of a slice. None = no limit."""

    cpu_quota_percent: int | None = None
    memory_max_bytes: int | None = None
    memory_high_bytes: int | None = None
    tasks_max: int | None = None
    cpu_weight: int | None = None


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """When a container counts as idle, and what becomes of it then."""

    gpu_idle_threshold_percent: float
    cpu_idle_threshold_percent: float
    network_idle_threshold_bytes: int
    disk_idle_threshold_bytes: int
    idle_action: str
    idle_without_gpu_signal: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have. Fields that may be None say so; None is no limit."""

    max_gpu_equivalents: Fraction | None
    max_gpu_units_per_container: int | None
    max_mig_instances: int | None
    allow_full_gpu: bool
    max_containers: int | None
    cpus: float
    memory_bytes: int
    memory_swap_bytes: int
    shm_bytes: int
    pids: int
    idle_timeout_s: float | None
    max_runtime_s: float | None
    gpu_hold_after_stop_s: float
    container_hold_after_stop_s: float | None
    priority: int
    max_connections: int
    max_streams: int
    max_networks: int
    max_volumes: int
    max_disk_bytes: int | None
    min_healthcheck_interval_s: float
    aggregate: Aggregate
    login: Aggregate
    lifecycle: Lifecycle
    binds: Mapping[str, str]
    wishes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Policies:
    """Machine-wide rules. `gpus_all_means` is how many units `--gpus all` asks for."""

    granted_timeout_s: float = 60.0
    gpus_all_means: int = 1
    sigterm_grace_s: float = 60.0
    extension_budget_s: float = 72 * 3600.0
    idle_warnings: tuple[float, ...] = (50.0, 80.0, 95.0)
    runtime_warnings: tuple[float, ...] = (75.0, 90.0)
    final_warning_lead_s: float = 600.0
    notice_grace_s: float = 3600.0
    unknown_alert_s: float = 7200.0
    runtime_window_s: float = 7 * 86400.0
    keepalive_max_duration_s: float = 86400.0
    created_container_timeout_s: float = 1800.0
    high_demand_threshold_percent: float = 80.0
    high_demand_idle_reduction_percent: float = 50.0
    fair_share_half_life_s: float = 7 * 86400.0
    shrink_grace_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Limits that are nobody's own: all containers, the engine, cron and at; and what the machine has."""

    root: Aggregate
    engine: Aggregate
    jobs: Aggregate
    has_cpus: int
    has_memory_bytes: int
    has_tasks: int


@dataclass(frozen=True, slots=True)
class GpuTotal:
    """What everybody in a group together may lease. None = no limit."""

    max_gpu_equivalents: Fraction | None = None
    max_mig_instances: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """One policy group: its limits, what it may use as a whole, and who is in it."""

    name: str
    limits: Limits
    total: Aggregate
    members: frozenset[str]
    unix_groups: frozenset[str]
    values: Mapping[str, Any]
    gpu_total: GpuTotal = GpuTotal()


@dataclass(frozen=True, slots=True)
class Exemption:
    """Who is exempt from what (`idle_timeout`, `max_runtime`) until when: ISO 8601, '' for ever."""

    user: str
    of: tuple[str, ...]
    until: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole compiled policy. `users` has what was said of single users, by field, not merged yet."""

    default_group: str
    groups: Mapping[str, Group]
    users: Mapping[str, Mapping[str, Any]]
    policies: Policies
    machine: MachineLimits
    exemptions: tuple[Exemption, ...] = ()
    _merged: dict[tuple[str, str], Limits] = field(default_factory=dict, compare=False, repr=False)

    def group_of(self, user: str, unix_groups: Iterable[str]) -> str:
        """The policy group of `user`: named as a member, else by Unix group in file order, else the default."""
        unix = frozenset(unix_groups)
        for group in self.groups.values():
            if user in group.members:
                return group.name
        for group in self.groups.values():
            if group.unix_groups & unix:
                return group.name
        return self.default_group

    def limits_for(self, user: str, unix_groups: Iterable[str]) -> Limits:
        """The limits of `user`: his group's, with what is said of him alone on top."""
        return self.limits_in(self.group_of(user, unix_groups), user)

    def limits_in(self, group: str, user: str) -> Limits:
        """The limits of `user` as a member of `group`; the default group's where there is no such group."""
        found = self.groups.get(group) or self.groups[self.default_group]
        own = self.users.get(user)
        if own is None:
            return found.limits
        key = (found.name, user)
        if key not in self._merged:
            self._merged[key] = _limits({**found.values, **own}, self.machine)
        return self._merged[key]


def parse_policy(untrusted_text: str) -> Policy:
    """A policy from its JSON text.

    Raises:
        PolicyInvalid: not JSON, another schema, or a field of the wrong kind.
    """
    try:
        raw = json.loads(untrusted_text)
        if raw["schema"] != SCHEMA:
            raise PolicyInvalid(f"the compiled policy has schema {raw['schema']}, this version reads {SCHEMA}")
        machine = _machine(raw["machine"])
        groups = {name: _group(name, value, machine) for name, value in raw["groups"].items()}
        policy = Policy(
            default_group=raw["default_group"],
            groups=groups,
            users={name: dict(value["limits"]) for name, value in raw["users"].items()},
            policies=_policies(raw["machine"]["limits"]),
            machine=machine,
            exemptions=tuple(
                Exemption(one["user"], tuple(one["of"]), one["until"]) for one in raw.get("exemptions", ())
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise PolicyInvalid(f"the compiled policy can't be used: {type(exc).__name__}: {exc}") from exc
    if policy.default_group not in policy.groups:
        raise PolicyInvalid(f"the default group '{policy.default_group}' is not a group of the policy")
    return policy


def effective(values: Mapping[str, Any], has: MachineLimits) -> dict[str, Any]:
    """A merged layer with the fields that follow from others where nobody said them."""
    return {**derived(values, has), **values}


def derived(values: Mapping[str, Any], has: MachineLimits) -> dict[str, Any]:
    """What absent fields follow from: as many containers as one may have, each at its limit, and no more than there is.

    Memory at which the kernel slows down is 90 % of the most.
    """
    most = values["max_containers"]

    def together(one: float, all_there_is: int) -> int:
        return all_there_is if most is None else max(1, min(all_there_is, int(max(1, most) * one)))

    found = {
        "memory_swap_bytes": values["memory_bytes"],
        "aggregate.cpu_quota_percent": together(values["cpus"] * 100, has.has_cpus * 100),
        "aggregate.memory_max_bytes": together(values["memory_bytes"], has.has_memory_bytes),
        "aggregate.tasks_max": together(values["pids"], has.has_tasks),
    }
    for section in ("aggregate", "login"):
        name = f"{section}.memory_max_bytes"
        found[f"{section}.memory_high_bytes"] = high_for(values[name] if name in values else found.get(name))
    return found


def high_for(memory_max_bytes: int | None) -> int | None:
    """memory_high where only memory_max is said; whole pages."""
    return None if memory_max_bytes is None else memory_max_bytes * _HIGH_PERCENT // 100 // 4096 * 4096


def _group(name: str, raw: Mapping[str, Any], machine: MachineLimits) -> Group:
    values = raw["limits"]
    total = _section(values, "total")
    equivalents = total.pop("max_gpu_equivalents", None)
    gpus = GpuTotal(None if equivalents is None else Fraction(equivalents), total.pop("max_mig_instances", None))
    own = {key: value for key, value in values.items() if not key.startswith("total.")}
    return Group(
        name=name,
        limits=_limits(own, machine),
        total=Aggregate(**total),
        members=frozenset(raw["members"]),
        unix_groups=frozenset(raw["unix_groups"]),
        values=own,
        gpu_total=gpus,
    )


def _limits(values: Mapping[str, Any], machine: MachineLimits) -> Limits:
    whole = effective(values, machine)
    for name in ("memory_bytes", "memory_swap_bytes", "shm_bytes", "pids", "max_connections"):
        if not isinstance(whole[name], int) or whole[name] <= 0:
            raise ValueError(f"'{name}' must be a whole number above 0, not {whole[name]!r}")
    equivalents = whole.pop("max_gpu_equivalents")
    return Limits(
        max_gpu_equivalents=None if equivalents is None else Fraction(equivalents),
        aggregate=Aggregate(**_section(whole, "aggregate")),
        login=Aggregate(**_section(whole, "login")),
        lifecycle=Lifecycle(**_section(whole, "policies")),
        binds=_section(whole, "binds"),
        wishes=_section(whole, "wishes"),
        **{name: value for name, value in whole.items() if "." not in name},
    )


def _machine(raw: Mapping[str, Any]) -> MachineLimits:
    values, has = raw["limits"], raw["has"]
    jobs = _section(values, "jobs")
    jobs.setdefault("memory_high_bytes", high_for(jobs["memory_max_bytes"]))
    root = Aggregate(
        cpu_quota_percent=max(100, round((has["cpus"] - values["reserve.cpus"]) * 100)),
        memory_max_bytes=max(2**26, has["memory_bytes"] - values["reserve.memory_bytes"]),
        tasks_max=max(1, has["tasks"] * 4 // 5),
        cpu_weight=80,
    )
    return MachineLimits(
        root, Aggregate(**_section(values, "engine")), Aggregate(**jobs),
        has["cpus"], has["memory_bytes"], has["tasks"],
    )  # fmt: skip


def _policies(values: Mapping[str, Any]) -> Policies:
    told: dict[str, Any] = _section(values, "policies")
    for name in ("idle_warnings", "runtime_warnings"):
        told[name] = tuple(told[name])
    return Policies(**told)


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    start = f"{section}."
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}
