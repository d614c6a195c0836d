"""A YAML file as a tree that knows where each part stands, and what is wrong with it. Pure: adapters/yamltree.py reads.

Scalars stay text: what `no` or `012` would mean to YAML 1.1 is nobody's guess here, each key says what it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; lines and columns count from 1, 0 is the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """As an origin is told: `resource-limits.yaml:12`."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}" if self.line else self.file.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong; `path` is the key as one would say it, `groups.student.memory`."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        place = self.place
        where = f"{place.file}:{place.line}:{place.column}" if place.line else place.file
        return f"{where}: {self.path}: {self.text}" if self.path else f"{where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value; `plain` means that it was written without quotes."""

    place: Place
    text: str
    plain: bool

    @property
    def is_empty(self) -> bool:
        """Nothing was written behind the key."""
        return self.plain and not self.text


@dataclass(frozen=True, slots=True)
class Pair:
    """A key with its value."""

    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Map:
    """A mapping in the order of the file; no key twice."""

    place: Place
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Seq:
    """A list."""

    place: Place
    items: tuple[Node, ...]


Node = Scalar | Map | Seq


def shown(untrusted: str, most: int = 40) -> str:
    """A text of a file as it is told: short, and with nothing in it that moves a terminal's cursor."""
    if len(untrusted) <= most and untrusted.isprintable():
        return untrusted
    told = "".join(char if char.isprintable() else "?" for char in untrusted[:most])
    return told + "…" if len(untrusted) > most else told


def decode(file: str, untrusted: bytes) -> str | Problem:
    """A file's text, or where it is not UTF-8."""
    try:
        return untrusted.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start].decode("utf-8", "replace")
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        text = f"the byte 0x{exc.object[exc.start]:02x} is not UTF-8: save the file as UTF-8"
        return Problem(place, "", text)


def kind_of(node: Node) -> str:
    """What a node is, in words."""
    match node:
        case Map():
            return "a section"
        case Seq():
            return "a list"
        case Scalar():
            return "nothing" if node.is_empty else f"'{shown(node.text)}'"


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that could not be read, and why."""

    why: str


Content = bytes | Unread


@dataclass(frozen=True, slots=True)
class Files:
    """What was found: the YAML, and by group the lists of members. `path` is the YAML's."""

    path: str
    yaml: Content
    members: Mapping[str, tuple[str, Content]]
