"""How a policy is told to people: keys, values, layers, changes. Pure: compiled policies and drafts in, rows out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ds01.cli import render
from ds01.cli.exits import CommandError, Exit
from ds01.common.limits import Limits, Policy
from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.diff import Change, Compiled, Difference, Said, UserChange, Values, read_compiled
from ds01.common.policy.keys import BY_FIELD, BY_NAME, Key, Layer
from ds01.common.policy.kinds import Kind, Machine, absolute, show, wanted
from ds01.common.policy.read import Draft, Misread, Setting, Settings
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


def exemption_texts(policy: Policy, user: str) -> list[str]:
    """What `user` is exempt from. Nothing heeds it yet, and that is said."""
    ends = ((one, f"until {one.until}" if one.until else "for ever") for one in policy.exemptions if one.user == user)
    return [f"exempt from {' and '.join(one.of)} {end} *" for one, end in ends]


def value_lines(values: Values) -> list[str]:
    """All values by section. A star marks what nothing makes hold."""
    parts: dict[str, list[list[str]]] = {}
    for field, said in values.items():
        row = [name_of(field) + ("" if _is_held(field) else " *"), shown(field, said.value), said.origin]
        parts.setdefault(_TITLES.get(field, _FOLDERS), []).append(row)
    has_star = not all(map(_is_held, values))
    return [
        render.sections(list(parts.items())),
        *(["", "* nothing in this version makes it hold"] if has_star else []),
    ]


def values_json(values: Values) -> dict[str, Any]:
    """The same for programs, by key."""
    return {
        name_of(field): {
            "value": said.value, "shown": shown(field, said.value), "origin": said.origin, "held": _is_held(field)
        }
        for field, said in values.items()
    }  # fmt: skip


def _is_held(field: str) -> bool:
    return field in BY_FIELD and bool(BY_FIELD[field].held_by)


def not_held(draft: Draft) -> list[str]:
    """What a file sets and nothing makes hold, in the order of the list of keys; folders and exemptions too."""
    layers = [draft.machine, draft.defaults, *(group.settings for group in draft.groups.values())]
    said = {name for layer in [*layers, *(own for _, own in draft.users.values())] for name in layer}
    found = [key.name for key in keys.KEYS if key.name in said and not key.held_by]
    found += ["binds"] if any(name.startswith("binds.") for name in said) else []
    return found + (["exemptions"] if draft.exemptions else [])


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


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a key has its value for a user. `steps` are the layers that say something, the last one holds."""

    user: str
    group: str
    why: str
    name: str
    said: Said
    steps: Sequence[Step]

    @property
    def key(self) -> Key | None:
        """None for a folder."""
        return BY_NAME.get(self.name)

    @property
    def held_by(self) -> str:
        """The service that makes it hold; '' for none."""
        return self.key.held_by if self.key else ""


def steps_of(
    name: str, said: Said, draft: Draft | None, group: str, user: str, machine: Machine
) -> tuple[list[Step], str]:
    """What each layer says of a key, weakest first, and what is wrong with the file that `draft` was read from.

    Where the file is not what is in force, the winner alone is told.
    """
    if said.is_derived:
        return [Step("worked out", said.value, "", said.origin)], ""
    winner = [Step(said.origin.partition(" (")[0], said.value, "", said.origin.partition(" (")[2].rstrip(")"))]
    if draft is None:
        return winner, "can't be read: what the other layers say is not told"
    steps = _chain(name, draft, group, user, machine)
    if not steps or steps[-1].value != said.value:
        return winner, "says otherwise, and is not in force: 'ds01 policy check' tells why"
    return steps, ""


def _chain(name: str, draft: Draft, group: str, user: str, machine: Machine) -> list[Step]:
    layers: list[tuple[str, Settings]] = [("top level", draft.machine), ("defaults", draft.defaults)]
    if group in draft.groups:
        layers.append((f"group '{group}'", draft.groups[group].settings))
    if user in draft.users:
        layers.append((f"user '{user}'", draft.users[user][1]))
    said = [(layer, settings[name]) for layer, settings in layers if name in settings]
    readable = [(layer, setting) for layer, setting in said if not isinstance(setting.value, Misread)]
    return [*_built_in_step(name, machine), *(_step(name, layer, setting, machine) for layer, setting in readable)]


def _built_in_step(name: str, machine: Machine) -> list[Step]:
    shipped, field = read_compiled(built_in(machine).text), field_of(name)
    said = {**shipped.machine, **shipped.groups[shipped.policy.default_group]}.get(field)
    default = BY_NAME[name].default if name in BY_NAME else ""
    return [Step("built in", said.value, default if "machine" in default else "", "")] if said else []


def _step(name: str, layer: str, setting: Setting, machine: Machine) -> Step:
    key, value = BY_NAME.get(name), setting.value
    assert not isinstance(value, Misread)
    whole = value if key is None or value is None else absolute(key.kind, value, machine)
    whole = tuple(whole) if isinstance(whole, list) else whole
    return Step(layer, whole, str(value) if isinstance(value, Share) else "", str(setting.place))


def explained_lines(found: Explained, file: str) -> list[str]:
    """The whole answer."""
    key, field = found.key, field_of(found.name)
    rows = [
        [step.layer, shown(field, step.value) + (f" ({step.written})" if step.written else ""), step.where, "holds"]
        for step in found.steps
    ]
    rows = [[*row[:3], ""] for row in rows[:-1]] + rows[-1:]
    unit = f"ds01-{found.held_by.replace('_', '-')}"
    held = f"{unit} makes it hold" if found.held_by else "nothing in this version makes it hold"
    return [
        f"{found.name} is {shown(field, found.said.value)} for '{found.user}': "
        + (key.text if key else "how containers may use this folder"),
        "",
        render.table(["LAYER", "VALUE", "WHERE", ""], rows),
        "",
        "What a later layer says wins: built in, top level, defaults, group, user.",
        f"'{found.user}' is in group '{found.group}', {found.why}.",
        f"Kind of value: {key.kind if key else Kind.CHOICE}; {held}.",
        *_how_to_change(found, file),
    ]


def _how_to_change(found: Explained, file: str) -> list[str]:
    key = found.key
    if key is not None and key.place in (Layer.MACHINE, Layer.GROUP):
        whose = "the whole machine" if key.place is Layer.MACHINE else "the whole group"
        return [f"It holds for {whose}: it can't be changed for one user."]
    section, _, last = found.name.rpartition(".") if key else ("binds", "", found.name.removeprefix("binds."))
    like = wanted(key.kind, key.choices) if key else wanted(Kind.CHOICE, keys.BIND_MODES)
    optional = f", or {keys.UNLIMITED}" if key and key.optional else ""
    lines = [f"To change it for '{found.user}' alone, write in {file}:", "", "  user_overrides:", f"    {found.user}:"]
    lines += [f"      {section}:"] if section else []
    return [*lines, f"      {'  ' if section else ''}{last}: VALUE    # {like}{optional}"]


def change_rows(changes: Iterable[Change]) -> list[list[str]]:
    """Key, old -> new, and who says the new one."""
    return [[name_of(one.field), change_text(one), one.new.origin if one.new else ""] for one in changes]


def change_text(change: Change) -> str:
    """`32 GiB -> 64 GiB`."""
    return " -> ".join(shown(change.field, said.value) if said else "nothing" for said in (change.old, change.new))


def difference_lines(found: Difference, policy: Policy, accounts: Mapping[str, frozenset[str]]) -> list[str]:
    """Everything that differs, for whom; `policy` is the new one."""
    lines = _plain_lines(found, policy, accounts)
    parts = [
        (f"group '{name}' ({_who(policy, name, accounts)})", change_rows(changes))
        for name, changes in found.groups.items()
    ]
    parts += _user_parts(found.users)
    parts += [("the machine as a whole", change_rows(found.machine))] if found.machine else []
    return [*lines, *([""] if lines and parts else []), *([render.sections(parts)] if parts else [])]


def _plain_lines(found: Difference, policy: Policy, accounts: Mapping[str, frozenset[str]]) -> list[str]:
    """What is no value: groups that come and go, exemptions."""
    old, new = found.default_group
    lines = [f"the default group: {old} -> {new}"] if old != new else []
    lines += [f"group '{name}' is gone" for name in found.groups_gone]
    lines += [f"group '{name}' is new ({_who(policy, name, accounts)})" for name in found.groups_new]
    for word, exemptions in (("is gone", found.exemptions_gone), ("is new", found.exemptions_new)):
        for one in exemptions:
            until = f"until {one.until}" if one.until else "for ever"
            lines.append(f"exemption of '{one.user}' from {' and '.join(one.of)} {until} {word}")
    return lines


def _user_parts(users: Iterable[UserChange]) -> list[Part]:
    """Users for whom the same changes, told together."""
    alike: dict[tuple[str, str, tuple[Change, ...]], list[str]] = {}
    for one in users:
        alike.setdefault((one.old_group, one.new_group, one.changes), []).append(one.user)
    return [
        (_names(names) + (f" (from '{old}' to '{new}')" if old != new else f" (in '{old}')"), change_rows(changes))
        for (old, new, changes), names in alike.items()
    ]


def _who(policy: Policy, group: str, accounts: Mapping[str, frozenset[str]]) -> str:
    found = policy.groups[group]
    listed = sorted(found.members)
    parts = [f"{len(listed)} listed: {_names(listed)}"] if listed else []
    if found.unix_groups:
        there = {user: unix for user, unix in accounts.items() if policy.group_of(user, unix) == group}
        by_unix = [user for user, unix in there.items() if user not in found.members and found.unix_groups & unix]
        parts.append(f"{len(by_unix)} by Unix group {' or '.join(sorted(found.unix_groups))}")
    parts += ["everybody who is in no other"] if group == policy.default_group else []
    return "; ".join(parts) or "nobody"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


def running_changes(change: UserChange, old: Limits, new: Limits, asked: Asked | None) -> list[Change]:
    """What of a user's changes reaches a container that runs; `asked` None: its own sizes are not the policy's."""
    was, becomes = (sizes_for(asked or Asked(), limits, 0) for limits in (old, new))
    resized = {field for field, size in _SIZES.items() if asked and getattr(was, size) != getattr(becomes, size)}
    return [one for one in change.changes if one.field in resized or one.field.startswith(("aggregate.", "total."))]


def counts(compiled: Compiled) -> dict[str, int]:
    """How much a policy has in it."""
    listed = {name for group in compiled.policy.groups.values() for name in group.members}
    return {"groups": len(compiled.groups), "members": len(listed), "overrides": len(compiled.users)}


def counted(count: int, word: str) -> str:
    """`1 group`, `2 groups`."""
    return f"{count} {word}{'' if count == 1 else 's'}"
