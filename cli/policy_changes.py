"""How what differs between two policies is told. Pure: differences in, rows and JSON out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ds01.cli import render
from ds01.cli.policy_view import exempt_text, key_of, measured, plain, shown, some
from ds01.common.limits import Limits, Policy
from ds01.common.policy.diff import Change, Changes, Difference, UserChange
from ds01.common.policy.kinds import Kind
from ds01.common.quantity import sizes_apart
from ds01.common.sizes import Asked, sizes_for

_LAST_RESORT = "systemd's last resort for max_runtime"
_AS_MADE = {
    "shm_bytes": "shm_size", "max_runtime_s": _LAST_RESORT, "policies.extension_budget_s": _LAST_RESORT,
    "policies.sigterm_grace_s": _LAST_RESORT,
}  # fmt: skip
"""What a container that exists keeps, whatever becomes of these."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running container, and what of the changes reaches it."""

    name: str
    id: str
    user: str
    changes: Changes


def change_text(change: Change) -> str:
    """`32 GiB -> 64 GiB`; two values that differ never in the same words."""
    key, old, new = key_of(change.field), change.old, change.new
    texts = [shown(key, said.value) if said else "nothing" for said in (old, new)]
    if old and new and len({text.rstrip("s") for text in texts}) == 1:  # 1 CPU, 1 CPUs
        values: list[Any] = [old.value, new.value]
        if key.kind is Kind.SIZE:
            apart = dict(zip(sorted(values, reverse=True), sizes_apart(max(values), min(values)), strict=True))
            texts = [apart[value] for value in values]
        else:
            texts = ["{value} {unit}".format(**measured(key, value)) for value in values]
    return " -> ".join(texts)


def difference_lines(found: Difference, policy: Policy, accounts: Mapping[str, frozenset[str]]) -> list[str]:
    """Everything that differs, for whom; `policy` is the new one."""
    lines = _plain_lines(found, policy, accounts)
    parts = [(f"group '{name}' ({_who(policy, name, accounts)})", changes) for name, changes in found.groups.items()]
    parts += [*_user_parts(found.users), *([("the machine as a whole", found.machine)] if found.machine else [])]
    rows = [(title, list(map(_row, changes))) for title, changes in parts]
    kept = dict.fromkeys(_AS_MADE[field] for field in _kept(found))
    lines += [*([""] if lines and rows else []), *([render.sections(rows)] if rows else [])]
    return lines + (["", f"Of containers that exist these stay as they were made: {', '.join(kept)}"] if kept else [])


def difference_json(found: Difference, running: Sequence[Running]) -> dict[str, Any]:
    """The same for programs, with what reaches which container."""
    return {**plain(found), "containers": running, "kept_as_made": [key_of(field).name for field in _kept(found)]}


def running_lines(running: Sequence[Running]) -> list[str]:
    """A table of what reaches which container."""
    rows = [[one.name, one.user, " ".join(_row(change)[:2])] for one in running for change in one.changes]
    return ["", "Containers that run now:", render.table(["NAME", "USER", "WHAT CHANGES"], rows)] if rows else []


def running_changes(change: UserChange, old: Limits, new: Limits, asked: Asked | None) -> Changes:
    """What of a user's changes reaches a container that runs; `asked` None: its own sizes are not the policy's."""
    was, becomes = (sizes_for(asked or Asked(), limits, 0) for limits in (old, new))
    names = {"cpus": "cpus_nano", **{name: name for name in ("memory_bytes", "memory_swap_bytes", "pids")}}
    reached = {field for field, name in names.items() if asked and getattr(was, name) != getattr(becomes, name)}
    slices = ("aggregate.", "total.")
    return tuple(one for one in change.changes if one.field in reached or one.field.startswith(slices))


def _kept(found: Difference) -> list[str]:
    """The fields among those that differ which containers that exist do not follow."""
    differing = [*found.groups.values(), *(one.changes for one in found.users), found.machine]
    fields = {one.field for changes in differing for one in changes}
    return [field for field in _AS_MADE if field in fields]


def _row(one: Change) -> list[str]:
    return [key_of(one.field).name, change_text(one), one.new.origin if one.new else ""]


def _plain_lines(found: Difference, policy: Policy, accounts: Mapping[str, frozenset[str]]) -> list[str]:
    """What is no value: groups that come and go, exemptions."""
    old, new = found.default_group
    lines = [f"the default group: {old} -> {new}"] if old != new else []
    lines += [f"group '{name}' is gone" for name in found.groups_gone]
    lines += [f"group '{name}' is new ({_who(policy, name, accounts)})" for name in found.groups_new]
    lines += [f"exemption of '{one.user}' {exempt_text(one)} is gone" for one in found.exemptions_gone]
    return lines + [f"exemption of '{one.user}' {exempt_text(one)} is new" for one in found.exemptions_new]


def _user_parts(users: Iterable[UserChange]) -> list[tuple[str, Changes]]:
    """Users for whom the same changes, told together."""
    alike: dict[tuple[str, str, Changes], list[str]] = {}
    for one in users:
        alike.setdefault((one.old_group, one.new_group, one.changes), []).append(one.user)
    return [
        (some(names) + (f" (from '{old}' to '{new}')" if old != new else f" (in '{old}')"), changes)
        for (old, new, changes), names in alike.items()
    ]


def _who(policy: Policy, group: str, accounts: Mapping[str, frozenset[str]]) -> str:
    found = policy.groups[group]
    parts = [f"{len(found.members)} listed: {some(sorted(found.members))}"] if found.members else []
    if found.unix_groups:
        there = {user: unix for user, unix in accounts.items() if policy.group_of(user, unix) == group}
        by_unix = [user for user, unix in there.items() if user not in found.members and found.unix_groups & unix]
        parts.append(f"{len(by_unix)} by Unix group {' or '.join(sorted(found.unix_groups))}")
    parts += ["everybody who is in no other"] if group == policy.default_group else []
    return "; ".join(parts) or "nobody"
