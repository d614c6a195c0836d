"""How a policy is told to people and programs: keys, values, layers, changes. Pure: policies and drafts in, rows out.

Keys are told by their names in the YAML. To programs values are in base units, and the unit is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from ds01.cli import render
from ds01.cli.exits import CommandError, Exit
from ds01.common.limits import Exemption, Limits, Policy
from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.diff import Change, Changes, Compiled, Difference, Said, UserChange, Values, read_compiled
from ds01.common.policy.keys import BY_FIELD, BY_NAME, Key, Layer
from ds01.common.policy.kinds import Kind, Machine, absolute, show, wanted
from ds01.common.policy.read import Draft, Misread, Name, Setting
from ds01.common.policy.tree import Place, Problem
from ds01.common.quantity import Share, sizes_apart
from ds01.common.sizes import Asked, sizes_for

_FOLDERS = "Folders that containers may use"
_SECTIONS = (
    ("GPUs, containers, times", keys.PER_USER), ("Budgets", keys.BUDGETS),
    ("All containers of a user together", keys.AGGREGATE), ("Login sessions", keys.LOGIN),
    ("Everybody in the group together", keys.TOTAL), ("Options that ask for too much", keys.WISHES),
    ("Idleness, warnings, the queue", keys.POLICIES), ("What containers leave to the system", keys.RESERVE),
    ("Docker itself, and what nobody placed", keys.ENGINE), ("cron and at", keys.JOBS),
)  # fmt: skip
_TITLES = {key.field: title for title, group in _SECTIONS for key in group}
_UNITS = {
    Kind.SIZE: "bytes", Kind.DURATION: "seconds", Kind.CPUS: "CPUs", Kind.QUOTA: "CPUs", Kind.GPUS: "GPUs",
    Kind.PERCENT: "percent", Kind.WARNINGS: "percent",
}  # fmt: skip
_SIZES = {
    "cpus": "cpus_nano", "memory_bytes": "memory_bytes", "memory_swap_bytes": "memory_swap_bytes", "pids": "pids",
}  # fmt: skip
_LAST_RESORT = "systemd's last resort for max_runtime"
_AS_MADE = {
    "shm_bytes": "shm_size", "max_runtime_s": _LAST_RESORT, "policies.extension_budget_s": _LAST_RESORT,
    "policies.sigterm_grace_s": _LAST_RESORT,
}  # fmt: skip
"""What a container that exists keeps, whatever becomes of the key."""
_MANY = 5
_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer says of a key. `written` is as the file has it where that differs."""

    layer: str
    value: Any
    written: str
    where: str


@dataclass(frozen=True, slots=True)
class Running:
    """A running container, and what of the changes reaches it."""

    name: str
    id: str
    user: str
    changes: Changes


def name_of(field: str) -> str:
    """The key behind a field of the compiled policy; a folder is its own."""
    return BY_FIELD[field].name if field in BY_FIELD else field


def field_of(name: str) -> str:
    """The field of a key."""
    return BY_NAME[name].field if name in BY_NAME else name


def held_by(field: str) -> str:
    """The service that makes it hold; '' for none."""
    service = BY_FIELD[field].held_by if field in BY_FIELD else ""
    return f"ds01-{service.replace('_', '-')}" if service else ""


def shown(field: str, value: Any) -> str:
    """A value for people."""
    return show(_kind(field), list(value) if isinstance(value, tuple) else value)


def measured(field: str, value: Any) -> dict[str, Any]:
    """A value for programs."""
    is_quota = _kind(field) is Kind.QUOTA and value is not None
    return {"value": value / 100 if is_quota else value, "unit": _UNITS.get(_kind(field), "")}


def plain(thing: object) -> Any:
    """For programs: whatever is no JSON value, by the names that people write."""
    match thing:
        case Change():
            old, new = (said and said_json(thing.field, said) for said in (thing.old, thing.new))
            return {"key": name_of(thing.field), "old": old, "new": new}
        case Exemption():
            return {"user": thing.user, "from": thing.of, "until": thing.until or None}
    return {one.name: getattr(thing, one.name) for one in fields(thing)}  # type: ignore[arg-type]


def said_json(field: str, said: Said) -> dict[str, Any]:
    """A value and who says it."""
    return {**measured(field, said.value), "origin": said.origin}


def values_json(values: Values) -> dict[str, Any]:
    """All values, by key."""
    return {name_of(field): {**said_json(field, said), "held_by": held_by(field)} for field, said in values.items()}


def value_lines(values: Values, *, everything: bool) -> list[str]:
    """Values by section, what something makes hold, or everything: then a star marks what nothing does."""
    told = {field: said for field, said in values.items() if everything or held_by(field)}
    parts: dict[str, list[list[str]]] = {}
    for field, said in told.items():
        section = f"{name_of(field).rpartition('.')[0]}." if field in BY_FIELD else "binds."
        row = [name_of(field).removeprefix(section) + ("" if held_by(field) else " *"), shown(field, said.value)]
        parts.setdefault(_TITLES.get(field, _FOLDERS), []).append([*row, said.origin.replace(section, "")])
    room = _WIDTH - 6 - sum(max(len(row[column]) for rows in parts.values() for row in rows) for column in (0, 1))
    rows = [(title, [[*row[:2], _short(row[2], room)] for row in rows]) for title, rows in parts.items()]
    left = len(values) - len(told)
    last = f"{counted(left, 'more value')} that nothing holds yet: --all" if left else ""
    last = "* nothing in this version makes it hold" if everything and not all(map(held_by, values)) else last
    return [render.sections(rows), *(["", last] if last else [])]


def _short(origin: str, room: int) -> str:
    """`student, resource-limits.yaml:61`, in so many columns."""
    who, _, where = origin.removeprefix("follows from ").removesuffix(")").partition(" (")
    who = who.removeprefix("groups.").removeprefix("user_overrides.")
    end = f", {where}" if where else ""
    return who + end if len(who + end) <= room else f"{who[: room - len(end) - 1]}…{end}"


def why_in(policy: Policy, user: str, unix_groups: frozenset[str]) -> tuple[str, str]:
    """The group of `user`, and why he is in it."""
    group = policy.groups[policy.group_of(user, unix_groups)]
    if user in group.members:
        return group.name, "listed as a member"
    by_unix = sorted(group.unix_groups & unix_groups)
    return group.name, f"by Unix group '{by_unix[0]}'" if by_unix else "in no group's list: this is the default one"


def exemption_text(one: Exemption) -> str:
    """What from and until when."""
    return f"from {' and '.join(one.of)} {f'until {one.until}' if one.until else 'for ever'}"


def is_over(until: str, now: datetime) -> bool:
    """Whether an exemption's end is past. A day counts to its end; `now` has the zone of an end that has none."""
    if "T" not in until:
        return bool(until) and until < now.date().isoformat()
    end = datetime.fromisoformat(until)
    return (end if end.tzinfo else end.replace(tzinfo=now.tzinfo)) < now


def places(found: Sequence[Name]) -> str:
    """`'alic' (resource-limits.yaml:12), 'bbo' (student.members:3)`; the first ones."""
    return _some([f"'{one.text}' ({one.place})" for one in found])


def mistakes(problems: Sequence[Problem]) -> str:
    """Of files that do not hold."""
    files = dict.fromkeys(str(Place(one.place.file)) for one in problems)
    have, do = ("have", "do") if len(files) > 1 else ("has", "does")
    what = f"{' and '.join(files)} {have} {counted(len(problems), 'mistake')} and {do} not hold"
    return f"{what}; this is the last good policy: see 'ds01 policy check'"


def not_held(draft: Draft) -> list[str]:
    """What a file sets and nothing makes hold, in the order of the list of keys; folders and exemptions too."""
    layers = [draft.machine, draft.defaults, *(group.settings for group in draft.groups.values())]
    said = {name for layer in [*layers, *(own for _, own in draft.users.values())] for name in layer}
    found = [key.name for key in keys.KEYS if key.name in said and not key.held_by]
    found += ["binds"] if any(name.startswith("binds.") for name in said) else []
    return found + (["exemptions"] if draft.exemptions else [])


def find_key(word: str, values: Values) -> str:
    """The field of the key that `word` means: its name, or the end of it where that is clear. Raises `CommandError`."""
    known = {name_of(field): field for field in values}
    found = [word] if word in known else [name for name in known if name.rpartition(".")[2] == word]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise CommandError(Exit.USAGE, f"'{word}' may be any of {len(found)} keys", f"write {' or '.join(found)}")
    near = get_close_matches(word, known, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else "'ds01 policy show --all' lists them"
    raise CommandError(Exit.NO_SUCH, f"there is no key '{word}'", hint)


def steps_of(
    field: str, said: Said, draft: Draft | None, group: str, user: str, machine: Machine
) -> tuple[list[Step], bool]:
    """What each layer says of a key, weakest first; the winner alone, and False, where `draft` is not what holds."""
    origin, _, where = said.origin.partition(" (")
    if said.is_derived:
        return [Step("worked out", said.value, "", said.origin)], True
    steps = _chain(name_of(field), draft, group, user, machine) if draft else []
    is_whole = bool(steps) and steps[-1].value == said.value
    return (steps if is_whole else [Step(origin, said.value, "", where.rstrip(")"))]), is_whole


def _chain(name: str, draft: Draft, group: str, user: str, machine: Machine) -> list[Step]:
    layers = [("top level", draft.machine), ("defaults", draft.defaults)]
    layers += [(f"group '{group}'", draft.groups[group].settings)] if group in draft.groups else []
    layers += [(f"user '{user}'", draft.users[user][1])] if user in draft.users else []
    shipped, default = read_compiled(built_in(machine).text), BY_NAME[name].default if name in BY_NAME else ""
    said = {**shipped.machine, **shipped.groups[shipped.policy.default_group]}.get(field_of(name))
    steps = [Step("built in", said.value, default if "machine" in default else "", "")] if said else []
    return steps + [_step(name, layer, found[name], machine) for layer, found in layers if name in found]


def _step(name: str, layer: str, setting: Setting, machine: Machine) -> Step:
    key, value = BY_NAME.get(name), setting.value
    whole: Any = value if key is None or value is None or isinstance(value, Misread) else absolute(key.kind, value, machine)
    whole = tuple(whole) if isinstance(whole, list) else whole
    return Step(layer, whole, str(value) if isinstance(value, Share) else "", str(setting.place))


def explained_lines(field: str, said: Said, steps: Sequence[Step], user: str, group: str, why: str, file: str) -> list[str]:
    """Why a key has its value for a user; the last of `steps` holds."""
    key = BY_FIELD.get(field)
    texts = [shown(field, step.value) + (f" ({step.written})" if step.written else "") for step in steps]
    rows = [[step.layer, text, step.where, ""] for step, text in zip(steps, texts, strict=True)]
    rows[-1][3] = "holds"
    held = f"{held_by(field)} makes it hold" if held_by(field) else "nothing in this version makes it hold"
    return [
        f"{name_of(field)} is {shown(field, said.value)} for '{user}': "
        + (key.text if key else "how containers may use this folder"),
        "",
        render.table(["LAYER", "VALUE", "WHERE", ""], rows),
        "",
        "What a later layer says wins: built in, top level, defaults, group, user.",
        f"'{user}' is in group '{group}', {why}.",
        f"Kind of value: {_kind(field)}; {held}.",
        *_how_to_change(name_of(field), key, user, file),
    ]


def _how_to_change(name: str, key: Key | None, user: str, file: str) -> list[str]:
    if key is not None and key.place in (Layer.MACHINE, Layer.GROUP):
        whose = "the whole machine" if key.place is Layer.MACHINE else "the whole group"
        return [f"It holds for {whose}: it can't be changed for one user."]
    section, _, last = name.rpartition(".") if key else ("binds", "", name.removeprefix("binds."))
    like = wanted(key.kind, key.choices) if key else wanted(Kind.CHOICE, keys.BIND_MODES)
    optional = f", or {keys.UNLIMITED}" if key and key.optional else ""
    lines = [f"To change it for '{user}' alone, write in {file}:", "", "  user_overrides:", f"    {user}:"]
    lines += [f"      {section}:"] if section else []
    return [*lines, f"      {'  ' if section else ''}{last}: VALUE    # {like}{optional}"]


def change_text(change: Change) -> str:
    """`32 GiB -> 64 GiB`; never the same text twice."""
    sides = (change.old, change.new)
    texts = [shown(change.field, said.value) if said else "nothing" for said in sides]
    if texts[0] == texts[1]:
        values = [said.value for said in sides if said]
        if _kind(change.field) is Kind.SIZE:
            texts = ...
    return " -> ".join(texts)


def difference_lines(found: Difference, policy: Policy, accounts: Mapping[str, frozenset[str]]) -> list[str]:
    """Everything that differs, for whom; `policy` is the new one."""
