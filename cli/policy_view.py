"""How a policy is told to people: keys, values, layers, changes. Pure: compiled policies and drafts in, rows out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ds01.cli.exits import CommandError, Exit
from ds01.common.limits import Limits, Policy
from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.diff import Change, Compiled, Difference, Said, UserChange, Values, read_compiled
from ds01.common.policy.keys import BY_FIELD, BY_NAME, Key, Layer
from ds01.common.policy.kinds import EXAMPLES, Kind, Machine, absolute, show
from ds01.common.policy.read import Draft, Setting, Settings
from ds01.common.quantity import Share
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
_SIZES = {
    "cpus": "cpus_nano", "memory_bytes": "memory_bytes", "memory_swap_bytes": "memory_swap_bytes", "pids": "pids",
}  # fmt: skip
_MANY = 6

Part = tuple[str, list[list[str]]]
"""A title and the rows below it, for render.sections."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one layer says of a key. `value` is in base units, `written` as the file has it where that differs."""

    layer: str
    value: Any
    written: str
    where: str


def name_of(field: str) -> str:
    """The key behind a field of the compiled policy; a folder is its own."""
    return BY_FIELD[field].name if field in BY_FIELD else field


def field_of(name: str) -> str:
    """The field of a key."""
    return BY_NAME[name].field if name in BY_NAME else name


def shown(field: str, value: Any) -> str:
    """A value for people."""
    kind = BY_FIELD[field].kind if field in BY_FIELD else Kind.CHOICE
    return show(kind, list(value) if isinstance(value, tuple) else value)


def why_in(policy: Policy, user: str, unix_groups: frozenset[str]) -> tuple[str, str]:
    """The group of `user`, and why he is in it."""
    group = policy.groups[policy.group_of(user, unix_groups)]
    if user in group.members:
        return group.name, "listed as a member"
    by_unix = sorted(group.unix_groups & unix_groups)
    return group.name, f"by Unix group '{by_unix[0]}'" if by_unix else "in no group's list: this is the default one"


def value_parts(values: Values) -> list[Part]:
    """All values by section. A star marks what nothing makes hold."""
    parts: dict[str, list[list[str]]] = {}
    for field, said in values.items():
        star = "" if _is_held(field) else " *"
        row = [name_of(field) + star, shown(field, said.value), said.origin]
        parts.setdefault(_TITLES.get(field, _FOLDERS), []).append(row)
    return list(parts.items())


def values_json(values: Values) -> dict[str, Any]:
    """The same for programs, by key."""
    return {
        name_of(field): {
            "value": said.value, "shown": shown(field, said.value), "origin": said.origin, "held": _is_held(field)
        }
        for field, said in values.items()
    }  # fmt: skip


def _is_held(field: str) -> bool:
    return field not in BY_FIELD or bool(BY_FIELD[field].held_by)


def not_held(draft: Draft) -> list[str]:
    """The keys that a file sets and that nothing makes hold, in the order of the list of keys."""
    layers = [draft.machine, draft.defaults, *(group.settings for group in draft.groups.values())]
    said = {name for layer in [*layers, *(own for _, own in draft.users.values())] for name in layer}
    return [key.name for key in keys.KEYS if key.name in said and not key.held_by]


def find_key(word: str, values: Iterable[str]) -> str:
    """The key that `word` means: its name, or the end of it where that is clear. Raises `CommandError`."""
    known = list(dict.fromkeys([*BY_NAME, *(name_of(field) for field in values)]))
    found = [word] if word in known else [name for name in known if name.rpartition(".")[2] == word]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(Exit.USAGE, f"'{word}' may be any of {len(found)} keys", f"write {' or '.join(found)}")
    near = get_close_matches(word, known, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else "'ds01 policy show' lists them"
    raise CommandError(Exit.NO_SUCH, f"there is no key '{word}'", hint)


def chain(name: str, draft: Draft, group: str, user: str, machine: Machine) -> list[Step]:
    """What each layer says of a key, from the weakest to the strongest."""
    steps = _built_in_step(name, machine)
    layers: list[tuple[str, Settings]] = [("top level", draft.machine), ("defaults", draft.defaults)]
    if group in draft.groups:
        layers.append((f"group '{group}'", draft.groups[group].settings))
    layers.append((f"user '{user}'", draft.users[user][1] if user in draft.users else {}))
    return [*steps, *(_step(name, layer, said[name], machine) for layer, said in layers if name in said)]


def _built_in_step(name: str, machine: Machine) -> list[Step]:
    shipped, field = read_compiled(built_in(machine).text), field_of(name)
    said = {**shipped.machine, **shipped.groups[shipped.policy.default_group]}.get(field)
    default = BY_NAME[name].default if name in BY_NAME else ""
    return [Step("built in", said.value, default if "machine" in default else "", "")] if said else []


def _step(name: str, layer: str, setting: Setting, machine: Machine) -> Step:
    key, value = BY_NAME.get(name), setting.value
    whole = value if key is None or value is None else absolute(key.kind, value, machine)
    return Step(layer, whole, str(value) if isinstance(value, Share) else "", str(setting.place))


def step_rows(field: str, steps: Sequence[Step]) -> list[list[str]]:
    """One row a layer; the last one holds."""
    rows = []
    for step in steps:
        value = shown(field, step.value) + (f" ({step.written})" if step.written else "")
        rows.append([step.layer, value, step.where, "holds" if step is steps[-1] else ""])
    return rows


def how_to_change(key: Key | None, name: str, user: str, file: str) -> list[str]:
    """The lines that change a key for one user alone."""
    if key is not None and key.place in (Layer.MACHINE, Layer.GROUP):
        whose = "the whole machine" if key.place is Layer.MACHINE else "the whole group"
        return [f"It holds for {whose}: it can't be changed for one user."]
    section, _, last = name.rpartition(".") if key else ("binds", "", name.removeprefix("binds."))
    choices = key.choices if key else keys.BIND_MODES
    like = " or ".join(choices) or EXAMPLES[key.kind if key else Kind.CHOICE].replace("`", "")
    optional = f", or {keys.UNLIMITED}" if key and key.optional else ""
    lines = [f"To change it for '{user}' alone, write in {file}:", "  user_overrides:", f"    {user}:"]
    lines += [f"      {section}:"] if section else []
    return [*lines, f"      {'  ' if section else ''}{last}: VALUE   # such as {like}{optional}"]


def change_rows(changes: Iterable[Change]) -> list[list[str]]:
    """Key, old -> new, and who says the new one."""
    return [[name_of(one.field), change_text(one), one.new.origin if one.new else ""] for one in changes]


def change_text(change: Change) -> str:
    """`32 GiB -> 64 GiB`."""
    return " -> ".join(shown(change.field, said.value) if said else "nothing" for said in (change.old, change.new))


def changes_json(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The same for programs."""

    def side(said: Said | None, field: str) -> dict[str, Any] | None:
        return {"value": said.value, "shown": shown(field, said.value), "origin": said.origin} if said else None

    return [
        {"key": name_of(one.field), "old": side(one.old, one.field), "new": side(one.new, one.field)} for one in changes
    ]


def user_parts(users: Iterable[UserChange]) -> list[Part]:
    """Users for whom the same changes, told together."""
    alike: dict[tuple[str, str, tuple[Change, ...]], list[str]] = {}
    for one in users:
        alike.setdefault((one.old_group, one.new_group, one.changes), []).append(one.user)
    return [
        (names_text(names) + (f": {old} -> {new}" if old != new else " (in '" + old + "')"), change_rows(changes))
        for (old, new, changes), names in alike.items()
    ]


def names_text(names: Sequence[str]) -> str:
    """`alice, bob and 3 more`."""
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


def who_text(policy: Policy, group: str, by_unix: int) -> str:
    """Who is in a group. `by_unix` is how many of the known accounts are in it by their Unix groups."""
    found = policy.groups[group]
    listed = sorted(found.members)
    parts = [f"{len(listed)} listed: {names_text(listed)}"] if listed else []
    if found.unix_groups:
        parts.append(f"{by_unix} by Unix group {' or '.join(sorted(found.unix_groups))}")
    parts += ["and everybody who is in no other"] if group == policy.default_group else []
    return "; ".join(parts) or "nobody"


def plain_lines(found: Difference) -> list[str]:
    """What is no value: groups that come and go, exemptions."""
    lines = []
    if found.default_group[0] != found.default_group[1]:
        lines.append(f"the default group: {' -> '.join(found.default_group)}")
    lines += [f"group '{name}' is gone" for name in found.groups_gone]
    lines += [f"group '{name}' is new" for name in found.groups_new]
    for word, exemptions in (("is gone", found.exemptions_gone), ("is new", found.exemptions_new)):
        for one in exemptions:
            until = f"until {one.until}" if one.until else "for ever"
            lines.append(f"exemption of '{one.user}' from {', '.join(one.of)} {until} {word}")
    return lines


def running_changes(change: UserChange, old: Limits, new: Limits, asked: Asked | None) -> list[Change]:
    """What of a user's changes reaches a container that runs; `asked` None: its own sizes are not the policy's."""
    was, becomes = (sizes_for(asked or Asked(), limits, 0) for limits in (old, new))
    resized = {field for field, size in _SIZES.items() if asked and getattr(was, size) != getattr(becomes, size)}
    return [one for one in change.changes if one.field in resized or one.field.startswith(("aggregate.", "total."))]


def counts(compiled: Compiled) -> dict[str, int]:
    """How much a policy has in it."""
    listed = {name for group in compiled.policy.groups.values() for name in group.members}
    return {"groups": len(compiled.groups), "members": len(listed), "overrides": len(compiled.users)}
