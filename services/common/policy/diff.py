"""What a compiled policy says for whom, each value with its origin, and what differs between two of them. Pure.

Values are by field name and in base units, as in limits.py. Who is in which Unix groups is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds01.common.errors import PolicyInvalid
from ds01.common.limits import Exemption, Policy, derived, parse_policy
from ds01.common.policy.keys import KEYS
from ds01.common.policy.kinds import JsonValue

_ORDER = {key.field: place for place, key in enumerate(KEYS)}
FOLLOWS = "follows from "
"""How the origin of a value begins that nobody says."""
_SOURCES = {
    "memory_swap_bytes": "memory",
    "aggregate.cpu_quota_percent": "max_cpus x max_containers_per_user",
    "aggregate.memory_max_bytes": "memory x max_containers_per_user",
    "aggregate.tasks_max": "pids_limit x max_containers_per_user",
    "aggregate.memory_high_bytes": "aggregate.memory_max: 90% of it",
    "login.memory_high_bytes": "login.memory_max: 90% of it",
    "jobs.memory_high_bytes": "jobs.memory_max: 90% of it",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A value and who says it."""

    value: JsonValue | tuple[float, ...]
    origin: str


Values = Mapping[str, Said]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled policy with its origins. `users` has what is said of single users, not merged."""

    policy: Policy
    machine: Values
    groups: Mapping[str, Values]
    users: Mapping[str, Values]

    @property
    def names(self) -> set[str]:
        """Everybody whom it calls by name."""
        return {*self.users, *(name for group in self.policy.groups.values() for name in group.members)}


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; None is absent."""

    field: str
    old: Said | None
    new: Said | None


Changes = tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class UserChange:
    """What changes for one user. The groups differ where he moves."""

    user: str
    old_group: str
    new_group: str
    changes: Changes


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that differs. `groups` are those in both; `users` those who move or have overrides."""

    default_group: tuple[str, str]
    groups_gone: tuple[str, ...]
    groups_new: tuple[str, ...]
    groups: Mapping[str, Changes]
    users: tuple[UserChange, ...]
    machine: Changes
    exemptions_gone: tuple[Exemption, ...]
    exemptions_new: tuple[Exemption, ...]


def read_compiled(untrusted_text: str) -> Compiled:
    """A compiled policy from its JSON text. Raises `PolicyInvalid`."""
    policy = parse_policy(untrusted_text)
    raw = json.loads(untrusted_text)
    high = _following({"jobs.memory_high_bytes": policy.machine.jobs.memory_high_bytes})
    try:
        groups, users = ({name: _values(layer) for name, layer in raw[part].items()} for part in ("groups", "users"))
        return Compiled(policy, _sorted({**high, **_values(raw["machine"])}), groups, users)
    except (KeyError, TypeError, AttributeError) as exc:
        raise PolicyInvalid(f"the compiled policy has no origins: {type(exc).__name__}: {exc}") from exc


def values_in(compiled: Compiled, group: str, user: str = "") -> dict[str, Said]:
    """What holds for `user` as a member of `group`, with what follows from other values; '' for the group itself."""
    said = {**compiled.groups[group], **compiled.users.get(user, {})}
    follow = derived({field: one.value for field, one in said.items()}, compiled.policy.machine)
    return _sorted({**_following(follow), **said})


def compare(old: Compiled, new: Compiled, unix_groups: Mapping[str, frozenset[str]]) -> Difference:
    """What differs for the machine, each group, and each user who moves or has a layer of his own.

    Users whom neither policy names are looked at where `unix_groups` has them.
    """
    both = [name for name in old.groups if name in new.groups]
    differing = {name: changes(values_in(old, name), values_in(new, name)) for name in both}
    was, becomes = set(old.policy.exemptions), set(new.policy.exemptions)
    everybody = sorted({*old.names, *new.names, *unix_groups})
    users = (compare_user(old, new, user, unix_groups.get(user, frozenset())) for user in everybody)
    own = {*old.users, *new.users}
    return Difference(
        default_group=(old.policy.default_group, new.policy.default_group),
        groups_gone=tuple(name for name in old.groups if name not in new.groups),
        groups_new=tuple(name for name in new.groups if name not in old.groups),
        groups={name: found for name, found in differing.items() if found},
        users=tuple(one for one in users if one.old_group != one.new_group or (one.changes and one.user in own)),
        machine=changes(old.machine, new.machine),
        exemptions_gone=tuple(one for one in old.policy.exemptions if one not in becomes),
        exemptions_new=tuple(one for one in new.policy.exemptions if one not in was),
    )


def compare_user(old: Compiled, new: Compiled, user: str, unix_groups: frozenset[str]) -> UserChange:
    """What changes for one user, whatever the reason."""
    was, becomes = (compiled.policy.group_of(user, unix_groups) for compiled in (old, new))
    return UserChange(user, was, becomes, changes(values_in(old, was, user), values_in(new, becomes, user)))


def changes(old: Values, new: Values) -> Changes:
    """The values that differ, in the order of the keys. An origin that moved is no change."""
    found = (Change(field, old.get(field), new.get(field)) for field in _sorted({**old, **new}))
    return tuple(one for one in found if one.old is None or one.new is None or one.old.value != one.new.value)


def _values(layer: Mapping[str, Any]) -> dict[str, Said]:
    frozen = {field: tuple(value) if isinstance(value, list) else value for field, value in layer["limits"].items()}
    return _sorted({field: Said(value, str(layer["origins"][field])) for field, value in frozen.items()})


def _following(values: Mapping[str, Any]) -> dict[str, Said]:
    return {field: Said(value, FOLLOWS + _SOURCES[field]) for field, value in values.items()}


def _sorted(said: Values) -> dict[str, Said]:
    """In the order of the list of keys; folders, which are no keys, last."""
    return dict(sorted(said.items(), key=lambda item: (_ORDER.get(item[0], len(_ORDER)), item[0])))
