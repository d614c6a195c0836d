"""The compiled policy: who belongs to which group and which limits hold. Pure; policyfile.py reads it.

Schema 1. Sizes are bytes, times seconds, CPUs cores, GPU amounts exact fractions of a GPU.
`None` is "no limit", and only where a field says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ds01.common.errors import PolicyInvalid

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Limits of a user's slice: everything he runs together. None = no limit."""

    cpu_quota_percent: int | None = None
    memory_max_bytes: int | None = None
    memory_high_bytes: int | None = None
    tasks_max: int | None = None
    cpu_weight: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have. GPU limits and container count may be None (no limit); container sizes may not."""

    max_gpu_equivalents: Fraction | None
    max_gpu_units_per_container: int | None
    max_mig_instances: int | None
    allow_full_gpu: bool
    max_containers: int | None
    cpus: float
    memory_bytes: int
    shm_bytes: int
    pids: int
    gpu_hold_after_stop_s: float
    max_runtime_s: float
    max_connections: int
    aggregate: Aggregate = field(default_factory=Aggregate)


@dataclass(frozen=True, slots=True)
class Policies:
    """Machine-wide rules. `gpus_all_means` is how many units `--gpus all` asks for."""

    granted_timeout_s: float = 60.0
    gpus_all_means: int = 1
    sigterm_grace_s: float = 60.0
    extension_budget_s: float = 72 * 3600.0


@dataclass(frozen=True, slots=True)
class Group:
    """One policy group: its limits, and who is in it."""

    name: str
    limits: Limits
    members: frozenset[str]
    unix_groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole compiled policy."""

    default_group: str
    groups: Mapping[str, Group]
    users: Mapping[str, Limits]
    policies: Policies

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
        """The limits of `user`: his own where the policy has some, else his group's."""
        own = self.users.get(user)
        return own if own is not None else self.groups[self.group_of(user, unix_groups)].limits


def parse_policy(untrusted_text: str) -> Policy:
    """A policy from its JSON text.

    Raises:
        PolicyInvalid: not JSON, another schema, or a field of the wrong kind.
    """
    try:
        raw = json.loads(untrusted_text)
        if raw["schema"] != SCHEMA:
            raise PolicyInvalid(f"the compiled policy has schema {raw['schema']}, this version reads {SCHEMA}")
        groups = {name: _group(name, value) for name, value in raw["groups"].items()}
        users = {name: _limits(_merged(raw, value)) for name, value in raw.get("users", {}).items()}
        policy = Policy(raw["default_group"], groups, users, Policies(**raw.get("policies", {})))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise PolicyInvalid(f"the compiled policy can't be used: {type(exc).__name__}: {exc}") from exc
    if policy.default_group not in policy.groups:
        raise PolicyInvalid(f"the default group '{policy.default_group}' is not a group of the policy")
    return policy


def _group(name: str, raw: Mapping[str, Any]) -> Group:
    return Group(name, _limits(raw["limits"]), frozenset(raw.get("members", ())), frozenset(raw.get("unix_groups", ())))


def _merged(raw: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    return {**raw["groups"][user["group"]]["limits"], **user["limits"]}


def _limits(raw: Mapping[str, Any]) -> Limits:
    values = dict(raw)
    equivalents = values.pop("max_gpu_equivalents")
    aggregate = Aggregate(**values.pop("aggregate", {}))
    for name in ("memory_bytes", "shm_bytes", "pids", "max_connections"):
        if not isinstance(values[name], int) or values[name] <= 0:
            raise ValueError(f"'{name}' must be a whole number above 0, not {values[name]!r}")
    return Limits(
        max_gpu_equivalents=None if equivalents is None else Fraction(equivalents), aggregate=aggregate, **values
    )
