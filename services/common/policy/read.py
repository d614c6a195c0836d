"""A tree of YAML into what it says: settings by layer, each with its place. Pure; collects every problem there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from ds01.common.policy import keys
from ds01.common.policy.keys import BIND_MODES, EXEMPT_FROM, STRUCTURE, UNLIMITED, Key
from ds01.common.policy.kinds import Kind, Value, parse, parse_until
from ds01.common.policy.tree import Map, Node, Pair, Place, Problem, Scalar, Seq, kind_of

MAX_NAME = 256
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_NOT_A_NAME = re.compile(r"[\s:/,\x00-\x1f\x7f]")
_AMBIGUOUS = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|~)|[-+.]?0[0-9_.xXoObB][0-9a-fA-F_.]*|[-+][0-9].*|[0-9][0-9_]*_[0-9_]*"
    r"|[0-9]+(?::[0-9]+)+|[0-9]*\.[0-9]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?i:inf|nan)"
)
"""What YAML 1.1 takes for something other than a word or a plain number."""

_SPELLINGS = {
    "max_gpu_slots": "max_gpu_equivalents", "max_gpus_per_user": "max_gpu_equivalents",
    "max_gpus_per_container": "max_gpu_slots_per_container", "max_mig_per_container": "max_gpu_slots_per_container",
    "max_tasks": "aggregate.tasks_max", "gpu_limit": "max_gpu_equivalents", "idle_timeout_h": "idle_timeout",
    "max_runtime_h": "max_runtime", "gpu_hold_after_stop_h": "gpu_hold_after_stop",
    "container_hold_after_stop_h": "container_hold_after_stop", "<<": "",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as written, and where; None is `unlimited`."""

    value: Value | None
    place: Place


Settings = dict[str, Setting]


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a list, and where it stands."""

    text: str
    place: Place


@dataclass(slots=True)
class GroupDraft:
    """One group as the file has it."""

    place: Place
    settings: Settings = field(default_factory=dict)
    members: list[Name] = field(default_factory=list)
    unix_groups: list[Name] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exemption:
    """Who is exempt from what, until when (ISO 8601, '' for ever) and why."""

    user: str
    of: tuple[str, ...]
    until: str
    why: str
    place: Place


@dataclass(slots=True)
class Draft:
    """The file's content, unmerged. Settings are by key name; a bind root is `binds.ROOT`."""

    default_group: Name | None = None
    machine: Settings = field(default_factory=dict)
    defaults: Settings = field(default_factory=dict)
    groups: dict[str, GroupDraft] = field(default_factory=dict)
    users: dict[str, tuple[Place, Settings]] = field(default_factory=dict)
    exemptions: list[Exemption] = field(default_factory=list)


def read(root: Node | None, file: str) -> tuple[Draft, list[Problem]]:
    """What the tree says. An empty file is an empty policy."""
    reader = _Reader()
    if isinstance(root, Map):
        reader.top(root)
    elif root is not None:
        reader.problem(root.place, "", f"the file is {kind_of(root)}: begin with a key like 'groups:'")
    return reader.draft, sorted(reader.problems)


def read_members(file: str, untrusted: bytes) -> tuple[list[Name], list[Problem]]:
    """The names in a `.members` file: one a line, `#` begins a comment."""
    try:
        text = untrusted.decode("utf-8")
    except UnicodeDecodeError as exc:
        place = Place(file, untrusted.count(b"\n", 0, exc.start) + 1, 1)
        return [], [Problem(place, "", "is not UTF-8: save the file as UTF-8")]
    names, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        place = Place(file, number, 1 + len(line) - len(line.lstrip()))
        wrong = _wrong_name(name)
        if wrong:
            problems.append(Problem(place, "", wrong))
        else:
            names.append(Name(name, place))
    return names, problems


class _Reader:
    def __init__(self) -> None:
        self.draft = Draft()
        self.problems: list[Problem] = []

    def problem(self, place: Place, path: str, text: str) -> None:
        self.problems.append(Problem(place, path, text))

    def top(self, root: Map) -> None:
        structure: dict[str, Callable[[Node], None]] = {
            "default_group": self._default_group,
            "defaults": lambda node: self._layer(node, "defaults", "user", self.draft.defaults),
            "groups": lambda node: self._each(node, "groups", self._group),
            "user_overrides": lambda node: self._each(node, "user_overrides", self._user),
            "exemptions": self._exemptions,
        }
        rest = []
        for pair in root.pairs:
            read_it = structure.get(pair.key.text)
            if read_it is None:
                rest.append(pair)
            else:
                read_it(pair.value)
        self._pairs(rest, "", "machine", self.draft.machine)

    def _default_group(self, node: Node) -> None:
        name = self._name(node, "default_group")
        if name is not None:
            self.draft.default_group = name

    def _each(self, node: Node, path: str, read_one: Callable[[Pair, str], None]) -> None:
        for pair in self._map(node, path):
            read_one(pair, f"{path}.{pair.key.text[:60]}")

    def _group(self, pair: Pair, path: str) -> None:
        name = pair.key.text
        if not _GROUP_NAME.fullmatch(name):
            self.problem(pair.key.place, path, "is no name for a group: use up to 32 letters, digits, '_', '-' and '.'")
            return
        if not self._word(pair.key, path):
            return
        draft = self.draft.groups[name] = GroupDraft(pair.key.place)
        lists = {"members": draft.members, "unix_groups": draft.unix_groups}
        rest = []
        for item in self._map(pair.value, path):
            if item.key.text in lists:
                lists[item.key.text].extend(self._names(item.value, f"{path}.{item.key.text}"))
            else:
                rest.append(item)
        self._pairs(rest, path, "group", draft.settings)

    def _user(self, pair: Pair, path: str) -> None:
        wrong = _wrong_name(pair.key.text)
        if wrong:
            self.problem(pair.key.place, path, wrong)
        elif self._word(pair.key, path):
            settings: Settings = {}
            self._layer(pair.value, path, "user", settings)
            self.draft.users[pair.key.text] = (pair.key.place, settings)

    def _layer(self, node: Node, path: str, layer: str, into: Settings) -> None:
        self._pairs(self._map(node, path), path, layer, into)

    def _pairs(self, pairs: Iterable[Pair], path: str, layer: str, into: Settings) -> None:
        known = _ALLOWED[layer]
        for pair in pairs:
            name = pair.key.text
            where = f"{path}.{name[:60]}" if path else name[:60]
            if name in known:
                self._setting(known[name], pair.value, where, into)
            elif name == "binds":
                self._binds(pair.value, where, into)
            elif name in _SECTIONS[layer]:
                self._section(name, pair.value, where, known, into)
            else:
                self.problem(pair.key.place, where, _unknown(name, layer))

    def _section(self, section: str, node: Node, path: str, known: Mapping[str, Key], into: Settings) -> None:
        for pair in self._map(node, path):
            name = f"{section}.{pair.key.text}"
            where = f"{path}.{pair.key.text[:60]}"
            if name in known:
                self._setting(known[name], pair.value, where, into)
            elif name in keys.BY_NAME:
                self.problem(pair.key.place, where, "holds for the whole machine: put it in this section at the top")
            else:
                inside = [key.rpartition(".")[2] for key in known if key.startswith(f"{section}.")]
                self.problem(pair.key.place, where, f"is not a key of '{section}'{_nearest(pair.key.text, inside)}")

    def _setting(self, key: Key, node: Node, path: str, into: Settings) -> None:
        try:
            into[key.name] = Setting(_value(key, node), node.place)
        except ValueError as exc:
            self.problem(node.place, path, str(exc))

    def _binds(self, node: Node, path: str, into: Settings) -> None:
        for pair in self._map(node, path):
            root, where = pair.key.text, f"{path}.{pair.key.text[:60]}"
            if not _valid_root(root):
                text = "is no root: write '~', '~/folder' or an absolute path without '..'"
                self.problem(pair.key.place, where, text)
            elif not isinstance(pair.value, Scalar) or pair.value.text not in BIND_MODES:
                self.problem(pair.value.place, where, f"is {kind_of(pair.value)}: write {' or '.join(BIND_MODES)}")
            else:
                into[f"binds.{root}"] = Setting(pair.value.text, pair.value.place)

    def _exemptions(self, node: Node) -> None:
        if isinstance(node, Scalar) and node.is_empty:
            return
        if not isinstance(node, Seq):
            self.problem(node.place, "exemptions", "is a list: begin each entry with '- user:'")
            return
        for number, item in enumerate(node.items):
            self._exemption(item, f"exemptions[{number}]")

    def _exemption(self, node: Node, path: str) -> None:
        said: dict[str, Node] = {pair.key.text: pair.value for pair in self._map(node, path)}
        for pair in self._map(node, path):
            if pair.key.text not in ("user", "from", "until", "why"):
                near = _nearest(pair.key.text, ("user", "from", "until", "why"))
                self.problem(pair.key.place, f"{path}.{pair.key.text[:60]}", f"is not a key of an exemption{near}")
        absent = [name for name in ("user", "from", "until", "why") if name not in said]
        if absent:
            self.problem(node.place, path, f"lacks {', '.join(absent)}: an exemption says user, from, until and why")
            return
        user = self._name(said["user"], f"{path}.user")
        of = self._words(said["from"], f"{path}.from")
        until, why = self._text(said["until"], f"{path}.until"), self._text(said["why"], f"{path}.why")
        if user is None or not of or until is None or why is None:
            return
        try:
            end = "" if until == UNLIMITED else parse_until(until)
        except ValueError as exc:
            self.problem(said["until"].place, f"{path}.until", str(exc))
            return
        self.draft.exemptions.append(Exemption(user.text, of, end, why, node.place))

    def _words(self, node: Node, path: str) -> tuple[str, ...]:
        items: tuple[Node, ...] = node.items if isinstance(node, Seq) else (node,)
        for item in items:
            if not isinstance(item, Scalar) or item.text not in EXEMPT_FROM:
                self.problem(item.place, path, f"is {kind_of(item)}: write {' or '.join(EXEMPT_FROM)}")
                return ()
        return tuple(item.text for item in items if isinstance(item, Scalar))

    def _text(self, node: Node, path: str) -> str | None:
        if isinstance(node, Scalar) and node.text.strip():
            return node.text.strip()
        self.problem(node.place, path, f"is {kind_of(node)}: write a text")
        return None

    def _names(self, node: Node, path: str) -> list[Name]:
        if isinstance(node, Scalar) and node.is_empty:
            return []
        if not isinstance(node, Seq):
            self.problem(node.place, path, f"is {kind_of(node)}: write a list like [alice, bob]")
            return []
        found = (self._name(item, path) for item in node.items)
        return [name for name in found if name is not None]

    def _name(self, node: Node, path: str) -> Name | None:
        if not isinstance(node, Scalar):
            self.problem(node.place, path, f"is {kind_of(node)}: write a name")
            return None
        wrong = _wrong_name(node.text)
        if wrong:
            self.problem(node.place, path, wrong)
            return None
        return Name(node.text, node.place) if self._word(node, path) else None

    def _word(self, node: Scalar, path: str) -> bool:
        if node.plain and _AMBIGUOUS.fullmatch(node.text):
            text = f"'{node.text}' is not a word to every YAML reader: put it in quotes, '\"{node.text}\"'"
            self.problem(node.place, path, text)
            return False
        return True

    def _map(self, node: Node, path: str) -> tuple[Pair, ...]:
        if isinstance(node, Map):
            return node.pairs
        if not (isinstance(node, Scalar) and node.is_empty):
            self.problem(node.place, path, f"is {kind_of(node)}: it is a section, with a key on each line below it")
        return ()


_ALLOWED = {layer: keys.allowed(layer) for layer in ("machine", "group", "user")}
_SECTIONS = {
    layer: {key.section for key in known.values() if key.section} | {"binds"} for layer, known in _ALLOWED.items()
}


def _value(key: Key, node: Node) -> Value | None:
    if key.kind is Kind.WARNINGS:
        return _warnings(key, node)
    if not isinstance(node, Scalar):
        raise ValueError(f"is {kind_of(node)}: write a {key.kind}")
    if node.is_empty:
        more = f", or '{UNLIMITED}'" if key.optional else ""
        raise ValueError(f"has no value: write a {key.kind}{more}, or remove the line")
    if node.text == UNLIMITED or (node.plain and node.text == "null"):
        if not key.optional:
            raise ValueError(f"can't be unlimited: write a {key.kind}")
        return None
    if node.plain and node.text in ("~", "Null", "NULL"):
        raise ValueError(f"'{node.text}' may mean anything: write '{UNLIMITED}', or remove the line")
    value = parse(key.kind, node.text, key.choices)
    if key.least and isinstance(value, int | float) and value < key.least:
        raise ValueError(f"'{node.text}' is too little: write {_least(key)} or more")
    return value


def _least(key: Key) -> str:
    match key.kind:
        case Kind.SIZE:
            return f"{max(1, key.least // 2**20)}MiB"
        case Kind.DURATION:
            return f"{key.least}s"
        case _:
            return str(key.least)


def _warnings(key: Key, node: Node) -> tuple[float, ...]:
    if not isinstance(node, Seq) or not node.items:
        raise ValueError(f"is {kind_of(node)}: write a list like {key.default}")
    found = []
    for item in node.items:
        if not isinstance(item, Scalar):
            raise ValueError(f"has {kind_of(item)} in it: write a list like {key.default}")
        found.append(parse(Kind.PERCENT, item.text))
    parts = tuple(part for part in found if isinstance(part, float))
    if list(parts) != sorted(set(parts)) or parts[-1] >= 100 or parts[0] <= 0:
        raise ValueError(f"must rise from above 0% to below 100%: write a list like {key.default}")
    return parts


def _wrong_name(text: str) -> str:
    if not text:
        return "is empty: write a name"
    if len(text) > MAX_NAME:
        return f"has {len(text)} characters, and {MAX_NAME} is the most: is it a name?"
    if _NOT_A_NAME.search(text):
        return (
            f"'{''.join(char if char.isprintable() else '?' for char in text[:40])}' is no name: it has a space, a"
            " colon, a comma or a slash in it"
        )
    return ""


def _valid_root(text: str) -> bool:
    parts = text.split("/")
    return (
        (text == "~" or text.startswith(("~/", "/")))
        and text != "/"
        and not {"..", "."} & set(parts)
        and "" not in parts[1:]
        and text.isprintable()
    )


def _unknown(name: str, layer: str) -> str:
    if name in _SPELLINGS:
        better = _SPELLINGS[name]
        return f"is not a key here: write '{better}'" if better else "is not a key here: write the keys out"
    elsewhere = keys.BY_NAME.get(name)
    if elsewhere is not None or name in SECTION_NAMES:
        place = elsewhere.place if elsewhere is not None else SECTION_NAMES[name]
        return f"does not stand here: it belongs in {place}"
    if name in STRUCTURE:
        return "does not stand here: it belongs at the top level"
    inside = [key for key in _ALLOWED[layer].values() if key.name.rpartition(".")[2] == name]
    if inside:
        return f"stands in a section: write it below '{inside[0].section}:'"
    words = [*(key for key in _ALLOWED[layer] if "." not in key), *_SECTIONS[layer]]
    if layer == "machine":
        words += STRUCTURE
    if layer == "group":
        words += ["members", "unix_groups"]
    return f"is not a key here{_nearest(name, words)}"


SECTION_NAMES = {key.section: key.place for key in keys.KEYS if key.section}


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), 1, 0.6)
    return f": did you mean '{near[0]}'?" if near else ": remove it, or see resource-limits.reference.yaml"
