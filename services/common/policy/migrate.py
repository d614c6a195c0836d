"""The predecessor's YAML into ours, with a comment beside each line that reads differently now. Pure.

What can't be carried is told with its place and the reason. The old names and units live here and nowhere else. What is
ours already, in a file that was changed by half, stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from ds01.common.policy import keys
from ds01.common.policy.keys import UNLIMITED, Key
from ds01.common.policy.kinds import Kind, parse_until
from ds01.common.policy.read import Name
from ds01.common.policy.tree import Map, Node, Pair, Place, Problem, Scalar, Seq, kind_of, shown
from ds01.common.policy.values import read_value
from ds01.common.quantity import number, parse_size, size_text

HEADER = "# Made by 'ds01 policy migrate' from the predecessor's files."

_NAMES = {
    "max_gpu_slots": "max_gpu_equivalents", "max_gpus_per_user": "max_gpu_equivalents",
    "aggregate.gpu_limit": "max_gpu_equivalents", "max_gpus_per_container": "max_gpu_slots_per_container",
    "max_mig_per_container": "max_gpu_slots_per_container", "max_tasks": "aggregate.tasks_max",
}  # fmt: skip
_UNIT = re.compile(r"(.+)_(h|m|s|seconds)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DOCKER_SIZE = re.compile(r"([0-9.]+)\s*([kmgt])b", re.IGNORECASE)
_NULLS = ("null", "Null", "NULL", "~", "unlimited", "")
_FLAGS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
_SAFE = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)$)[A-Za-z][A-Za-z0-9._@+-]*")
"""What every YAML reader takes for a word."""

_STORAGE = "homes and data have no quota here; max_disk limits what containers, images and volumes use"
_OWNERS = "a container has its owner's limits here, whatever started it"
_ADMINS = "administrators are whoever is in the Unix group ds01-admin: add them there"
_INERT = "nothing had this effect in the old system either"
_DROPPED = {
    "storage_workspace": _STORAGE, "storage_data": _STORAGE, "storage_tmp": _STORAGE,
    "io_read_bps": "disk bandwidth has no limit here", "io_write_bps": "disk bandwidth has no limit here",
    "ulimit_nofile": "open files have no limit here", "gpu_memory": "a MIG instance limits its memory itself",
    "reservation_start": "there are no reservations", "reservation_end": "there are no reservations",
    "reserved_gpus": "there are no reservations", "reason": "keep it as a comment",
    "policies.idle_detection_window": "idle time is measured, not counted in checks: idle_timeout says it all",
    "policies.grace_period": "idle_timeout is the only grace, after a start too",
    "policies.gpu_hold_after_manual_stop": "gpu_hold_after_stop holds for every stop",
    "enforcement": "limits always hold, and by systemd",
    "container_types": _OWNERS,
    "monitoring": "containers that an administrator starts as unmanaged are left alone",
    "bare_metal_access": _ADMINS, "access_control": _ADMINS,
    "gpu_allocation": "GPUs and MIG instances are found as they are", "advanced": _INERT, "wizard": _INERT,
}  # fmt: skip
_STRUCTURE = {
    "machine": ("default_group", "defaults", "groups", "user_overrides"), "user": (),
    "group": ("members", "unix_groups"),
}  # fmt: skip
"""Keys by layer that are no settings."""
_OUR_TIMES = "user_overrides with 96h"
_OURS = {_OUR_TIMES, "unix_groups", "binds", "exemptions", *keys.SECTIONS, *(key.name for key in keys.BUDGETS)}
_OURS -= {"aggregate", "policies"}
"""Words that the predecessor did not have."""


@dataclass(frozen=True, slots=True)
class Old:
    """The predecessor's files: resource-limits.yaml and what lies beside it."""

    root: Node | None
    overrides: Node | None = None
    exemptions: Node | None = None
    members: Mapping[str, tuple[Name, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Migrated:
    """Our YAML, and what could not be carried or means something else now.

    `is_ours`: the file, right or not, has what only ours has, and nothing that only the predecessor's had.
    """

    text: str
    notes: tuple[Problem, ...]
    is_ours: bool


@dataclass(slots=True)
class _Line:
    text: str
    comment: str
    said_by: str
    place: Place


_Layer = dict[str, _Line]
"""By the name of our key."""


def migrate(old: Old) -> Migrated:
    """The same rules in our words."""
    migrator = _Migrator(old)
    text = "\n".join([HEADER, *(migrator.run() or ["{}"])]) + "\n"
    is_ours = bool(migrator.words & _OURS) and not any(map(_is_theirs, migrator.words))
    return Migrated(text, tuple(sorted(migrator.notes)), is_ours)


class _Migrator:
    def __init__(self, old: Old) -> None:
        self.old = old
        self.notes: list[Problem] = []
        self.words: set[str] = set()

    def run(self) -> list[str]:
        root, default = self.old.root, _value_of(self.old.root, "default_group")
        lines = ["", f"default_group: {_word(default.text)}"] if isinstance(default, Scalar) else []
        defaults = self._layer(_value_of(root, "defaults"), "defaults", "user")
        lines += ["", "defaults:", *_written(defaults, "  ")] if defaults else []
        lines += self._groups(_value_of(root, "groups"))
        lines += self._users(_value_of(root, "user_overrides"))
        lines += self._exemptions()
        machine = self._layer(root, "", "machine")
        return [*lines, "", *_written(machine, "")] if machine else lines

    def _groups(self, groups: Node | None) -> list[str]:
        lines = ["", "groups:"] if _pairs(groups) else []
        taken: dict[str, str] = {}
        for pair in self._map(groups, "groups"):
            name, path = pair.key.text, f"groups.{pair.key.text}"
            lines.append(f"  {_word(name)}:")
            lines += self._members(name, pair.value, taken)
            lines += _listed("unix_groups", (one.text for one in self._names(pair.value, path, "unix_groups")))
            lines += _written(self._layer(pair.value, path, "group"), "    ")
            if _value_of(pair.value, "aggregate") is None:
                text = "had no limits of all containers together; here they follow from max_containers_per_user, unless"
                self._note(pair.key.place, path, f"{text} 'aggregate' says otherwise")
        for name, listed in self.old.members.items():
            if _value_of(groups, name) is None:
                place = Place(listed[0].place.file if listed else f"groups/{name}.members")
                self._not_carried(place, "", f"there is no group '{name}': do not copy the file to /etc/ds01/groups")
        return lines

    def _members(self, group: str, node: Node, taken: dict[str, str]) -> list[str]:
        path, kept = f"groups.{group}", []
        for name in (*self._names(node, path, "members"), *self.old.members.get(group, ())):
            first = taken.setdefault(name.text, group)
            if first == group:
                kept.append(name.text)
            else:
                self._not_carried(name.place, f"{path}.members", f"'{name.text}' is in '{first}', which decided")
        return _listed("members", dict.fromkeys(kept))

    def _users(self, inline: Node | None) -> list[str]:
        layers: dict[str, _Layer] = {}
        for node in (inline, self.old.overrides):
            for pair in self._map(node, "user_overrides"):
                found = self._layer(pair.value, f"user_overrides.{pair.key.text}", "user")
                times = (line for name, line in found.items() if keys.BY_NAME[name].kind is Kind.DURATION)
                self.words |= {_OUR_TIMES for line in times if node is inline and not line.comment}
                layers[pair.key.text] = {**layers.get(pair.key.text, {}), **found}
        lines = ["", "user_overrides:  # lie on the group's values now; they used to take their place"]
        for user, layer in layers.items():
            lines += [f"  {_word(user)}:", *_written(layer, "    ")]
        return lines if layers else []

    def _exemptions(self) -> list[str]:
        lines: list[str] = []
        for node in _items(_value_of(self.old.exemptions, "exemptions")):
            said = {pair.key.text: pair.value.text for pair in _pairs(node) if isinstance(pair.value, Scalar)}
            of = [name.text.removesuffix("_h") for name in self._names(node, "exemptions", "exempt_from")]
            try:
                lines += _exemption(said, of)
            except ValueError as exc:
                self._not_carried(node.place, "exemptions", str(exc))
        return ["", "exemptions:", *lines] if lines else []

    def _layer(self, node: Node | None, path: str, layer: str, section: str = "", into: _Layer | None = None) -> _Layer:
        found: _Layer = {} if into is None else into
        for pair in self._map(node, _joined(path, section)):
            name = _joined(section, pair.key.text)
            self.words.add(name)
            if name in keys.SECTIONS:
                self._layer(pair.value, path, layer, name, found)
            elif name not in _STRUCTURE[layer]:
                self._carry(pair, name, _joined(path, name), layer, found)
        if "max_mig_instances" in found and not section:
            self._tell_migs(found["max_mig_instances"], path, found)
        return found

    def _carry(self, pair: Pair, old_name: str, where: str, layer: str, found: _Layer) -> None:
        stem, unit = _parted(old_name)
        key = keys.BY_NAME.get(_NAMES.get(stem, stem))
        try:
            if key is None or stem in _DROPPED:
                here = "is in today's format: copy it by hand" if stem in _OURS else "nothing here has this key"
                raise ValueError(_DROPPED.get(stem, here))
            if key.name not in keys.allowed(layer):
                raise ValueError(f"{key.name} does not stand here: it belongs in {key.place}")
            text, was = _converted(key, pair.value, unit)
        except ValueError as exc:
            self._not_carried(pair.key.place, where, str(exc))
            return
        is_same = (key.name, text) == (old_name, was)
        renamed = "" if key.name == stem == old_name else f"{old_name.removeprefix(f'{key.section}.')}: "
        line = _Line(text, "" if is_same else f"was {renamed}{shown(was)}", where, pair.key.place)
        self._settle(key, line, found, is_exact=stem == key.name)

    def _settle(self, key: Key, line: _Line, found: _Layer, *, is_exact: bool) -> None:
        """One line where the old file said the same thing twice: the lower of two GPU limits, else the plain name."""
        other = found.get(key.name)
        wins = other is None or (_lower(line.text, other.text) if key.kind is Kind.GPUS else is_exact)
        loser = other if wins else line
        if wins:
            found[key.name] = line
        if loser is not None:
            self._not_carried(loser.place, loser.said_by, f"{key.name} is {found[key.name].text} already")

    def _tell_migs(self, line: _Line, path: str, found: _Layer) -> None:
        """There it was another word for max_gpu_equivalents; as such, 2 would be seven instances of two sevenths."""
        if line.text == UNLIMITED:
            found.setdefault("max_gpu_equivalents", _Line(UNLIMITED, "was max_mig_instances: null", path, line.place))
        line.comment = "counts MIG instances only; max_gpu_equivalents holds beside it"
        whole = found.get("max_gpu_equivalents")
        beside = f"is {whole.text}" if whole else "is not said here, so what is inherited holds (built in: 1)"
        text = "was another word for max_gpu_equivalents, and counts MIG instances alone now; max_gpu_equivalents"
        self._note(line.place, line.said_by, f"{text} {beside}")

    def _map(self, node: Node | None, path: str) -> tuple[Pair, ...]:
        if not (node is None or isinstance(node, Map) or (isinstance(node, Scalar) and node.text in _NULLS)):
            self._not_carried(node.place, path, f"is {kind_of(node)}, where a section was expected")
        return _pairs(node)

    def _names(self, node: Node, path: str, key: str) -> list[Name]:
        items = _items(_value_of(node, key))
        for item in items:
            if not isinstance(item, Scalar):
                self._not_carried(item.place, f"{path}.{key}", f"is {kind_of(item)}, where a word was expected")
        return [Name(item.text, item.place) for item in items if isinstance(item, Scalar)]

    def _not_carried(self, place: Place, path: str, why: str) -> None:
        self._note(place, path, f"not carried: {why}")

    def _note(self, place: Place, path: str, text: str) -> None:
        self.notes.append(Problem(place, path, text))


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _parted(name: str) -> tuple[str, str]:
    """`idle_timeout`, `h` of `idle_timeout_h`; no unit where the name has none."""
    suffix = _UNIT.fullmatch(name)
    return (suffix[1], suffix[2][0]) if suffix else (name, "")


def _is_theirs(word: str) -> bool:
    stem, unit = _parted(word)
    return stem in _DROPPED or stem in _NAMES or (unit != "" and stem in keys.BY_NAME)


def _converted(key: Key, node: Node, unit: str) -> tuple[str, str]:
    """The value as we write it, and as it was. Raises ValueError with the reason why it can't be."""
    if not isinstance(node, Scalar):
        raise ValueError(f"is {kind_of(node)}: a {key.kind} is written here")
    if node.plain and node.text in _NULLS:
        if not key.optional:
            raise ValueError(f"{key.name} can't be unlimited here: what is inherited holds (built in: {key.default})")
        return UNLIMITED, node.text or "null"
    text = _with_unit(key, node.text, unit)
    read_value(key, Scalar(node.place, text, node.plain))
    return text, node.text


def _with_unit(key: Key, text: str, unit: str) -> str:
    bare = _NUMBER.fullmatch(text)
    match key.kind:
        case Kind.DURATION if bare:
            return f"{text}{unit or 'h'}"
        case Kind.SIZE if bare:
            size = int(Fraction(text))
            short = size_text(size).replace(" ", "")
            return short if parse_size(short) == size else f"{size}b"
        case Kind.SIZE:
            return _DOCKER_SIZE.sub(r"\1\2", text)
        case Kind.PERCENT if bare:
            is_part = key.name.startswith("policies.high_demand_")
            return f"{number(float(text) * (100 if is_part else 1))}%"
        case Kind.QUOTA if bare:
            return f"{text}%"
        case Kind.COUNT | Kind.TASKS | Kind.WEIGHT if bare:
            return number(float(text))
        case Kind.FLAG:
            return _FLAGS.get(text.lower(), text)
    return text


def _written(layer: _Layer, indent: str) -> list[str]:
    """The lines of a layer: plain keys first, then its sections."""
    lines, section = [], ""
    for name, line in sorted(layer.items(), key=lambda item: item[0].rpartition(".")[0]):
        inside, _, last = name.rpartition(".")
        if inside != section:
            section = inside
            lines.append(f"{indent}{section}:")
        text = f"{indent}{'  ' if section else ''}{last}: {line.text}"
        lines.append(f"{text:<44}  # {line.comment}" if line.comment else text)
    return lines


def _listed(word: str, names: Iterable[str]) -> list[str]:
    lines = [f"      - {_word(name)}" for name in names]
    return [f"    {word}:", *lines] if lines else []


def _exemption(said: Mapping[str, str], of: list[str]) -> list[str]:
    """The lines of one. Raises ValueError with the reason why it can't be."""
    until = said.get("expires_on", "")
    end = UNLIMITED if until in _NULLS else _quoted(parse_until(until))
    if not said.get("username") or not of or not set(of) <= set(keys.EXEMPT_FROM):
        raise ValueError("it needs a username and what he is exempt from")
    by = [f"{word} {said[name]}" for word, name in (("by", "approved_by"), ("on", "approved_on")) if name in said]
    why = (said.get("reason") or "as in the old system") + (f" (approved {' '.join(by)})" if by else "")
    return [
        f"  - user: {_word(said['username'])}",
        f"    from: [{', '.join(of)}]",
        f"    until: {end}",
        f"    why: {_quoted(why)}",
    ]


def _lower(one: str, other: str) -> bool:
    return one != UNLIMITED and (other == UNLIMITED or Fraction(one) < Fraction(other))


def _pairs(node: Node | None) -> tuple[Pair, ...]:
    return node.pairs if isinstance(node, Map) else ()


def _items(node: Node | None) -> tuple[Node, ...]:
    return node.items if isinstance(node, Seq) else ()


def _value_of(node: Node | None, name: str) -> Node | None:
    return next((pair.value for pair in _pairs(node) if pair.key.text == name), None)


def _word(text: str) -> str:
    """A name as every YAML reader takes it for a name."""
    return text if _SAFE.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps("".join(char if char.isprintable() else " " for char in text), ensure_ascii=False)
