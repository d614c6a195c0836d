"""The events of limits_sync, and limits as people read them. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ds01.common import quantity
from ds01.common.events import Event
from ds01.common.limits import Limits
from ds01.common.policy.keys import BY_FIELD
from ds01.common.policy.kinds import show
from ds01.common.policy.tree import Problem
from ds01.common.slices import UNLIMITED, PropertyValue
from ds01.limits_sync.shrink import Pending
from ds01.limits_sync.wanted import Wanted

LIMITS = ("CPUQuotaPerSecUSec", "MemoryMax", "MemoryHigh", "TasksMax", "CPUWeight")
"""The properties that carry limits, in the order in which they are told."""

_TOLD_PROBLEMS = _TOLD_CHANGES = 5
_ABSENT = object()


def shown(name: str, value: PropertyValue | None) -> str:
    """`MemoryMax 64 GiB`: systemd's name of the property and a value for people."""
    if not isinstance(value, int) or value == UNLIMITED:
        return f"{name.removesuffix('PerSecUSec')} none"
    match name:
        case "MemoryMax" | "MemoryHigh":
            return f"{name} {quantity.size_text(value)}"
        case "CPUQuotaPerSecUSec":
            return f"CPUQuota {quantity.number(value / 10_000)}%"
        case _:
            return f"{name} {value}"


def limits_text(properties: Mapping[str, PropertyValue], names: Sequence[str] = LIMITS) -> str:
    """Several limits, those that are there."""
    return ", ".join(shown(name, properties[name]) for name in names if name in properties)


def applied(wanted: Wanted, old: Mapping[str, PropertyValue], new: Mapping[str, PropertyValue]) -> Event:
    """Limits of a unit that runs changed."""
    before, after = limits_text({name: old.get(name, UNLIMITED) for name in new}), limits_text(new)
    text = f"{wanted.what} ({wanted.plan.name}): {after}; before: {before}"
    return _of(wanted, "limits.applied", text[0].upper() + text[1:], old=before, new=after)


def ensured(wanted: Wanted) -> Event:
    """A user's slice was made."""
    new = limits_text(wanted.plan.properties)
    return _of(wanted, "slice.ensured", f"Made {wanted.plan.name} for {wanted.user}: {new}", new=wanted.plan.name)


def restored(wanted: Wanted, found: Mapping[str, PropertyValue] | None, drop_ins: Sequence[str]) -> Event:
    """A unit was not as the policy has it: stopped (`found` None), or changed by hand."""
    unit = wanted.plan.name
    if found is None:
        return _of(
            wanted, "limits.restored", f"{unit} was stopped by hand; it is there again with its limits", new=unit
        )
    old = limits_text(found)
    more = f"; {', '.join(drop_ins)} says otherwise: 'systemctl revert {unit}' removes it" if drop_ins else ""
    text = f"{unit} was changed by hand to {old}; the policy holds again{more}"
    return _of(wanted, "limits.restored", text, old=old, reason=", ".join(drop_ins))


def contested(wanted: Wanted) -> Event:
    """A unit is changed by somebody again and again."""
    unit = wanted.plan.name
    text = f"{unit} is changed again and again by somebody else: it is put back only now and then; find out who does it"
    return _of(wanted, "limits.failed", text, reason="changed again and again")


def published(old: Mapping[str, Any] | None, new: Mapping[str, Any], digests: tuple[str, str]) -> Event:
    """A new policy holds; the first of what is different."""
    said = changed_values(old, new) if old is not None else []
    more = f", and {len(said) - _TOLD_CHANGES} more" if len(said) > _TOLD_CHANGES else ""
    text = "; ".join(said[:_TOLD_CHANGES]) + more if said else counted(new)
    return Event("policy.published", f"A new policy holds: {text}", old=digests[0], new=digests[1])


def changed_values(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What is said otherwise: values of the machine and of groups, groups, members, users with values of their own."""
    said = _differing("", old["machine"]["limits"], new["machine"]["limits"])
    for name in {**old["groups"], **new["groups"]}:
        was, becomes = old["groups"].get(name), new["groups"].get(name)
        if was is None or becomes is None:
            said.append(f"group {name} is {'new' if was is None else 'gone'}")
            continue
        said += _differing(f"{name} ", was["limits"], becomes["limits"])
        moved = set(was["members"]) ^ set(becomes["members"])
        said += [f"members of {name}: {_names(moved)}"] if moved else []
    users = {**old["users"], **new["users"]}
    own = {user for user in users if _own(old, user) != _own(new, user)}
    return [*said, f"limits of their own: {_names(own)}"] if own else said


def counted(compiled: Mapping[str, Any]) -> str:
    """How much a policy says."""
    members = sum(len(group["members"]) for group in compiled["groups"].values())
    groups, users = len(compiled["groups"]), len(compiled["users"])
    return f"{groups} groups, {members} listed members, {users} users with limits of their own"


def _own(compiled: Mapping[str, Any], user: str) -> object:
    return (compiled["users"].get(user) or {}).get("limits")


def _differing(whose: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    fields = [field for field in {**old, **new} if old.get(field, _ABSENT) != new.get(field, _ABSENT)]
    return [f"{whose}{_key(field)} {_shown(field, old)} -> {_shown(field, new)}" for field in fields]


def _key(field: str) -> str:
    return BY_FIELD[field].name if field in BY_FIELD else field


def _shown(field: str, values: Mapping[str, Any]) -> str:
    if field not in values:
        return "not said"
    return show(BY_FIELD[field].kind, values[field]) if field in BY_FIELD else str(values[field])


def _names(names: set[str]) -> str:
    told = sorted(names)[:_TOLD_CHANGES]
    return ", ".join(told) + (f" and {len(names) - len(told)} more" if len(names) > len(told) else "")


def shrinking(wanted: Wanted, pending: Pending, used_bytes: int) -> Event:
    """A lowered memory limit waits."""
    return shrinking_of(
        wanted.what, wanted.user, wanted.uid, wanted.group, pending, used_bytes, container="", container_name=""
    )


def shrinking_of(
    what: str,
    user: str,
    uid: int | None,
    group: str,
    pending: Pending,
    used_bytes: int,
    container: str,
    container_name: str,
) -> Event:
    """The same for any holder of memory."""
    size = quantity.size_text
    at = time.strftime("%H:%M", time.localtime(pending.until))
    text = (
        f"The memory of {what} goes down from {_size(pending.from_bytes)} to {size(pending.to_bytes)} at {at};"
        f" {size(used_bytes)} are in use: end or shrink what is not needed before then"
    )
    return Event(
        "limits.postponed", text, user=user, uid=uid, group=group, container=container, container_name=container_name,
        limit=size(pending.to_bytes), used=size(used_bytes), old=_size(pending.from_bytes), new=size(pending.to_bytes),
    )  # fmt: skip


def rejected(problems: Sequence[Problem], kept: str) -> Event:
    """The policy's files can't be used."""
    first = "; ".join(str(problem) for problem in problems[:_TOLD_PROBLEMS])
    more = f" (and {len(problems) - _TOLD_PROBLEMS} more)" if len(problems) > _TOLD_PROBLEMS else ""
    text = f"The policy was not changed, {kept}: {first}{more}; 'ds01 policy check' tells all"
    return Event("limits.rejected", text, reason=str(problems[0]), count=len(problems))


def _size(size_bytes: int) -> str:
    return "no limit" if size_bytes == UNLIMITED else quantity.size_text(size_bytes)


def _of(wanted: Wanted, name: str, text: str, old: str = "", new: str = "", reason: str = "") -> Event:
    return Event(name, text, user=wanted.user, uid=wanted.uid, group=wanted.group, old=old, new=new, reason=reason)


def memory_limits(limits: Limits) -> str:
    """What a container may have, and all of a user's together."""
    together = limits.aggregate.memory_max_bytes
    all_of = "no limit" if together is None else quantity.size_text(together)
    return f"one container may have {quantity.size_text(limits.memory_bytes)}, all of a user's together {all_of}"
