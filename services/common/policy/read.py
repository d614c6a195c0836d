"""A tree of YAML into what it says: settings by layer, each with its place. Pure; collects every problem there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from ds01.common.policy.keys import BIND_MODES, EXEMPT_FROM, UNLIMITED, Key
from ds01.common.policy.kinds import Value, parse_until
from ds01.common.policy.tree import Map, Node, Pair, Place, Problem, Scalar, Seq, decode, kind_of, shown
from ds01.common.policy.unknown import ALLOWED, NO_MERGES, SECTIONS, unknown, unknown_in_section
from ds01.common.policy.values import read_value

MAX_WRONG_NAMES = 100
MAX_NAME = 256
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_NOT_A_NAME = re.compile(r"[\s:/,]")
_AMBIGUOUS = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|~|=)|[-+]?(?:0[0-9_]+|0o[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+)"
    r"|[-+][0-9]+|[-+]?[0-9][0-9_]*_[0-9_]*|[-+]?[0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?i:inf|nan)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
)
"""What YAML 1.1 or 1.2 takes for something other than a word or a plain number."""

_EXEMPTION = ("user", "from", "until", "why")
_MOST_ADVICE = 200
"""A file that is something else altogether has a wrong key in each line, and finding what each may mean is slow."""


class Misread(Enum):
    """Stands where a value could not be read: nothing can be said of what depends on it."""

    MISREAD = auto()


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as written, and where; None is `unlimited`."""

    value: Value | Misread | None
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
    """The file's content, unmerged. Settings are by key name; a bind root is `binds.ROOT`.

    A default group that was misread has the name ''.
    """

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
    text = decode(file, untrusted)
    if isinstance(text, Problem):
        return [], [text]
    names, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        place = Place(file, number, 1 + len(line) - len(line.lstrip()))
        wrong = _wrong_name(name)
        if not wrong:
            names.append(Name(name, place))
            continue
        problems.append(Problem(place, "", wrong))
        if len(problems) == MAX_WRONG_NAMES:
            break  # it is no list of names
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
        self.draft.default_group = self._name(node, "default_group") or Name("", node.place)

    def _each(self, node: Node, path: str, read_one: Callable[[Pair, str], None]) -> None:
        for pair in self._map(node, path):
            if pair.key.plain and pair.key.text == "<<":
                self.problem(pair.key.place, path, NO_MERGES)
            else:
                read_one(pair, f"{path}.{shown(pair.key.text, 60)}")

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
        known = ALLOWED[layer]
        for pair in pairs:
            name = pair.key.text
            where = f"{path}.{shown(name, 60)}" if path else shown(name, 60)
            if name in known and "." not in name:
                self._setting(known[name], pair.value, where, into)
            elif name == "binds":
                self._binds(pair.value, where, into)
            elif name in SECTIONS[layer]:
                self._section(name, pair.value, where, layer, into)
            else:
                self._unknown(pair.key, where, layer)

    def _section(self, section: str, node: Node, path: str, layer: str, into: Settings) -> None:
        known = ALLOWED[layer]
        for pair in self._map(node, path):
            last = pair.key.text
            where = f"{path}.{shown(last, 60)}"
            if f"{section}.{last}" in known:
                self._setting(known[f"{section}.{last}"], pair.value, where, into)
            else:
                self._unknown(pair.key, where, layer, section)

    def _unknown(self, key: Scalar, path: str, layer: str, section: str = "") -> None:
        if len(self.problems) >= _MOST_ADVICE:
            text = "is not a key"
        else:
            text = unknown_in_section(key.text, section, layer) if section else unknown(key.text, layer)
        self.problem(key.place, path, text)

    def _setting(self, key: Key, node: Node, path: str, into: Settings) -> None:
        try:
            into[key.name] = Setting(read_value(key, node), node.place)
        except ValueError as exc:
            self.problem(node.place, path, str(exc))
            into[key.name] = Setting(Misread.MISREAD, node.place)

    def _binds(self, node: Node, path: str, into: Settings) -> None:
        for pair in self._map(node, path):
            root, where = pair.key.text, f"{path}.{shown(pair.key.text, 60)}"
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
        if not isinstance(node, Map):
            self.problem(node.place, path, f"is {kind_of(node)}: an exemption says user, from, until and why")
            return
        said: dict[str, Node] = {pair.key.text: pair.value for pair in node.pairs}
        for pair in node.pairs:
            if pair.key.text not in _EXEMPTION:
                text = "is not a key of an exemption: it says user, from, until and why"
                self.problem(pair.key.place, f"{path}.{shown(pair.key.text, 60)}", text)
        absent = [name for name in _EXEMPTION if name not in said]
        if absent:
            self.problem(node.place, path, f"lacks {', '.join(absent)}: an exemption says user, from, until and why")
            return
        user = self._name(said["user"], f"{path}.user")
        of = self._words(said["from"], f"{path}.from")
        until, why = self._until(said["until"], f"{path}.until"), self._text(said["why"], f"{path}.why")
        if user is not None and of and until is not None and why is not None:
            self.draft.exemptions.append(Exemption(user.text, of, until, why, node.place))

    def _until(self, node: Node, path: str) -> str | None:
        text = self._text(node, path)
        try:
            return text if text is None else "" if text == UNLIMITED else parse_until(text)
        except ValueError as exc:
            self.problem(node.place, path, str(exc))
            return None

    def _words(self, node: Node, path: str) -> tuple[str, ...]:
        items: tuple[Node, ...] = node.items if isinstance(node, Seq) else (node,)
        if not items:
            self.problem(node.place, path, f"is an empty list: write {' or '.join(EXEMPT_FROM)}")
        for item in items:
            if not isinstance(item, Scalar) or item.text not in EXEMPT_FROM:
                self.problem(item.place, path, f"is {kind_of(item)}: write {' or '.join(EXEMPT_FROM)}")
                return ()
        return tuple(item.text for item in items if isinstance(item, Scalar))

    def _text(self, node: Node, path: str) -> str | None:
        if isinstance(node, Scalar) and node.text.strip():
            return node.text.strip()
        self.problem(node.place, path, f"is {kind_of(node)}: write a word or a sentence")
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
            text = f"'{node.text}' is not a word to every YAML reader: write \"{node.text}\", with the quotes"
            self.problem(node.place, path, text)
            return False
        return True

    def _map(self, node: Node, path: str) -> tuple[Pair, ...]:
        if isinstance(node, Map):
            return node.pairs
        if not (isinstance(node, Scalar) and node.is_empty):
            self.problem(node.place, path, f"is {kind_of(node)}: it is a section, with a key on each line below it")
        return ()


def _wrong_name(text: str) -> str:
    if not text:
        return "is empty: write a name"
    if len(text) > MAX_NAME:
        return f"has {len(text)} characters, and {MAX_NAME} is the most: is it a name?"
    if _NOT_A_NAME.search(text):
        return f"'{shown(text)}' is no name: it has a space, a colon, a comma or a slash in it"
    if not text.isprintable():
        return f"'{shown(text)}' is no name: it has a character in it that can't be seen"
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
