"""How a policy is told: keys, values, layers. Pure: policies and drafts in, rows and JSON out.

Keys have their names in the YAML. To programs values are in base units, CPUs in CPUs, and the unit is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from ds01.cli import render
from ds01.cli.exits import CommandError, Exit
from ds01.common.limits import Exemption, Policy
from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.diff import FOLLOWS, Change, Said, Values, read_compiled
from ds01.common.policy.keys import BY_FIELD, Key, Layer
from ds01.common.policy.kinds import Kind, Machine, absolute, show, wanted
from ds01.common.policy.read import Draft, Name, Setting
from ds01.common.policy.tree import Place, Problem
from ds01.common.quantity import Share

_TITLES = {
    "": "GPUs, containers, times, connections", "aggregate": "All containers of a user together",
    "login": "Login sessions", "total": "Everybody in the group together", "wishes": "Options that ask for too much",
    "policies": "Idleness, warnings, the queue", "binds": "Folders that containers may use", "jobs": "cron and at",
    "reserve": "What containers leave to the system", "engine": "Docker itself, and what nobody placed",
}  # fmt: skip
_UNITS = {
    Kind.SIZE: "bytes", Kind.DURATION: "seconds", Kind.CPUS: "CPUs", Kind.QUOTA: "CPUs", Kind.GPUS: "GPUs",
    Kind.PERCENT: "percent", Kind.WARNINGS: "percent",
}  # fmt: skip
_MANY = 5
_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer says of a key. `written` is as the file has it where that differs."""

    layer: str
    value: Any
    written: str
    where: str


def key_of(field: str) -> Key:
    """The key behind a field of the compiled policy; a folder is told as one."""
    text = "how containers may use this folder"
    return BY_FIELD.get(field) or Key(field, field, Kind.CHOICE, "", text, "", Layer.BOTH, choices=keys.BIND_MODES)


def service_of(key: Key) -> str:
    """Who makes it hold; '' for nobody."""
    return f"ds01-{key.held_by.replace('_', '-')}" if key.held_by else ""


def counted(count: int, word: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def measured(key: Key, value: Any) -> dict[str, Any]:
    """A value and its unit, for programs."""
    is_quota = key.kind is Kind.QUOTA and value is not None
    return {"value": value / 100 if is_quota else value, "unit": _UNITS.get(key.kind, "")}


def values_json(values: Values) -> dict[str, Any]:
    """Values by key, each with who says it and who makes it hold."""
    keyed = [(key_of(field), said) for field, said in values.items()]
    return {
        key.name: {**measured(key, said.value), "origin": said.origin, "held_by": service_of(key)}
        for key, said in keyed
    }


def plain(thing: Any) -> Any:
    """What json.dumps does not know, by the names that people write."""
    match thing:
        case Change():
            key, sides = key_of(thing.field), {"old": thing.old, "new": thing.new}
            told = {side: said and {**measured(key, said.value), "origin": said.origin} for side, said in sides.items()}
            return {"key": key.name, **told}
        case Exemption():
            return {"user": thing.user, "from": thing.of, "until": thing.until or None}
        case Name():
            return {"name": thing.text, "place": thing.place}
        case _:
            return {one.name: getattr(thing, one.name) for one in fields(thing)}


def shown(key: Key, value: Any) -> str:
    """A value for people."""
    return show(key.kind, list(value) if isinstance(value, tuple) else value)


def value_lines(values: Values, *, everything: bool) -> list[str]:
    """Values by section: what something makes hold, or everything, with a star where nothing does."""
    parts: dict[str, list[list[str]]] = {}
    for field, said in values.items():
        key = key_of(field)
        if everything or key.held_by:
            section, last = _parted(key.name)
            row = [last + ("" if key.held_by else " *"), shown(key, said.value), _short(said.origin, f"{section}.")]
            parts.setdefault(_TITLES[section] + (f" ({section})" if section else ""), []).append(row)
    columns = zip(*(row for rows in parts.values() for row in rows), strict=True)
    room = _WIDTH - 6 - sum(max(map(len, column)) for column in list(columns)[:2])
    fitting = [(title, [[*row[:2], _clipped(row[2], room)] for row in rows]) for title, rows in parts.items()]
    idle = sum(not key_of(field).held_by for field in values)
    last = "* nothing in this version makes it hold"
    last = last if everything else f"{counted(idle, 'more value')} that nothing holds yet: --all"
    return [render.sections(fitting), *(["", last] if idle else [])]


def _parted(name: str) -> tuple[str, str]:
    """`aggregate` and `memory_max`; of a key of no section '' and the key."""
    section, dot, last = name.partition(".")
    return (section, last) if dot else ("", section)


def _short(origin: str, section: str) -> str:
    """`student, resource-limits.yaml:61`, `= pids_limit x max_containers_per_user`, `= 90% of memory_max`."""
    if origin.startswith(FOLLOWS):
        of, part, _ = origin.removeprefix(FOLLOWS).removeprefix(section).partition(": 90% of it")
        return f"= {'90% of ' if part else ''}{of}"
    return origin.removeprefix("groups.").removeprefix("user_overrides.").replace(" (", ", ").removesuffix(")")


def _clipped(origin: str, room: int) -> str:
    """In so many columns, the place whole; as it is where that is not possible."""
    who, comma, where = origin.partition(", ")
    keep = room - len(comma + where) - 1
    return f"{who[:keep]}…{comma}{where}" if len(origin) > room and keep > 0 else origin


def why_in(policy: Policy, user: str, unix_groups: frozenset[str]) -> tuple[str, str]:
    """The group of `user`, and why he is in it."""
    group = policy.groups[policy.group_of(user, unix_groups)]
    if user in group.members:
        return group.name, "listed as a member"
    by_unix = sorted(group.unix_groups & unix_groups)
    return group.name, f"by Unix group '{by_unix[0]}'" if by_unix else "in no group's list: this is the default one"


def exempt_text(one: Exemption) -> str:
    """What from, and until when."""
    return f"from {' and '.join(one.of)} {f'until {one.until}' if one.until else 'for ever'}"


def over(draft: Draft, now: datetime) -> list[Name]:
    """Whose exemptions have ended. A day counts to its end; `now` has the zone of an end that has none."""

    def is_over(until: str) -> bool:
        if "T" not in until:
            return "" < until < now.date().isoformat()
        end = datetime.fromisoformat(until)
        return (end if end.tzinfo else end.replace(tzinfo=now.tzinfo)) < now

    return [Name(one.user, one.place) for one in draft.exemptions if is_over(one.until)]


def not_held(draft: Draft) -> list[str]:
    """What a file sets and nothing makes hold, in the order of the list of keys; folders and exemptions too."""
    layers = [draft.machine, draft.defaults, *(group.settings for group in draft.groups.values())]
    said = {name for layer in [*layers, *(own for _, own in draft.users.values())] for name in layer}
    found = [key.name for key in keys.KEYS if key.name in said and not key.held_by]
    found += ["binds"] if any(name.startswith("binds.") for name in said) else []
    return found + (["exemptions"] if draft.exemptions else [])


def check_notes(not_held: Sequence[str], no_account: Sequence[Name], over: Sequence[Name]) -> list[str]:
    """What is no mistake, and worth a look."""
    notes = [f"read, but nothing in this version makes it hold: {', '.join(not_held)}"] if not_held else []
    for what, found in (("no account on this machine", no_account), ("exemptions that are over", over)):
        places = [f"'{one.text}' ({one.place})" for one in found]
        notes += [f"{what}: {some(places)}"] if found else []
    return notes


def mistakes(problems: Sequence[Problem]) -> list[str]:
    """That the files of this machine do not hold, where they have any."""
    files = dict.fromkeys(str(Place(one.place.file)) for one in problems)
    have, do = ("have", "do") if len(files) > 1 else ("has", "does")
    what = f"{' and '.join(files)} {have} {counted(len(problems), 'mistake')} and {do} not hold"
    return [f"{what}; this is the last good policy: see 'ds01 policy check'"] if problems else []


def counts(compiled: Mapping[str, Any]) -> dict[str, int]:
    """How much a policy has in it."""
    listed = {name for group in compiled["groups"].values() for name in group["members"]}
    return {"groups": len(compiled["groups"]), "members": len(listed), "overrides": len(compiled["users"])}


def some(texts: Sequence[str]) -> str:
    """The first ones, and how many more."""
    more = f" and {len(texts) - _MANY} more" if len(texts) > _MANY else ""
    return ", ".join(texts[:_MANY]) + more


def find_key(word: str, values: Values) -> Key:
    """The key that `word` means: its name, or the end of it where that is clear. Raises `CommandError`."""
    known = {key.name: key for key in map(key_of, values)}
    found = [word] if word in known else [name for name in known if _parted(name)[1] == word]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise CommandError(Exit.USAGE, f"'{word}' may be any of {len(found)} keys", f"write {' or '.join(found)}")
    near = get_close_matches(word, known, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else "'ds01 policy show --all' lists them"
    raise CommandError(Exit.NO_SUCH, f"there is no key '{word}'", hint)


def steps_of(
    key: Key, said: Said, draft: Draft | None, group: str, user: str, machine: Machine
) -> tuple[list[Step], bool]:
    """What each layer says of a key, weakest first; the winner alone and False where `draft` is not what holds."""
    if said.origin.startswith(FOLLOWS):
        return [Step("worked out", said.value, "", said.origin)], True
    steps = _chain(key, draft, group, user, machine) if draft else []
    if steps and steps[-1].value == said.value:
        return steps, True
    layer, _, where = said.origin.partition(" (")
    return [Step(layer, said.value, "", where.rstrip(")"))], False


def _chain(key: Key, draft: Draft, group: str, user: str, machine: Machine) -> list[Step]:
    layers = [("top level", draft.machine), ("defaults", draft.defaults)]
    layers += [(f"group '{group}'", draft.groups[group].settings)] if group in draft.groups else []
    layers += [(f"user '{user}'", draft.users[user][1])] if user in draft.users else []
    shipped = read_compiled(built_in(machine).text)
    said = {**shipped.machine, **shipped.groups[shipped.policy.default_group]}.get(key.field)
    steps = [Step("built in", said.value, key.default if "machine" in key.default else "", "")] if said else []
    return steps + [_step(key, layer, found[key.name], machine) for layer, found in layers if key.name in found]


def _step(key: Key, layer: str, setting: Setting, machine: Machine) -> Step:
    value: Any = setting.value
    whole: Any = value if value is None else absolute(key.kind, value, machine)
    whole = tuple(whole) if isinstance(whole, list) else whole
    return Step(layer, whole, str(value) if isinstance(value, Share) else "", str(setting.place))


def explained_lines(key: Key, said: Said, steps: Sequence[Step], user: str, why: str, file: str) -> list[str]:
    """Why a key has its value for a user, the last of `steps`, and how to change it."""
    texts = [shown(key, step.value) + (f" ({step.written})" if step.written else "") for step in steps]
    rows = [[step.layer, text, step.where, ""] for step, text in zip(steps, texts, strict=True)]
    rows[-1][3] = "holds"
    held = f"{service_of(key) or 'nothing in this version'} makes it hold"
    return [
        f"{key.name} is {shown(key, said.value)} for '{user}': {key.text}",
        "",
        render.table(["LAYER", "VALUE", "WHERE", ""], rows),
        "",
        "What a later layer says wins: built in, top level, defaults, group, user.",
        f"{why}.",
        f"Kind of value: {key.kind}; {held}.",
        *_how_to_change(key, user, file),
    ]


def _how_to_change(key: Key, user: str, file: str) -> list[str]:
    if key.place in (Layer.MACHINE, Layer.GROUP):
        whose = "the whole machine" if key.place is Layer.MACHINE else "the whole group"
        return [f"It holds for {whose}: it can't be changed for one user."]
    section, last = _parted(key.name)
    like = wanted(key.kind, key.choices) + (f", or {keys.UNLIMITED}" if key.optional else "")
    lines = [f"To change it for '{user}' alone, write in {file}:", "", "  user_overrides:", f"    {user}:"]
    lines += [f"      {section}:"] if section else []
    return [*lines, f"      {'  ' if section else ''}{last}: VALUE    # {like}"]
