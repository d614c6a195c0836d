"""YAML text into a tree with places. The only importer of yaml for files that people write.

Read from the parser's events, one after the other, so that neither deep nesting nor aliases of aliases cost more than
the text is long: an alias counts as all that it stands for.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ds01.common.policy.tree import Map, Node, Pair, Place, Problem, Scalar, Seq, decode, shown

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 12
MAX_NODES = 100_000
MAX_PROBLEMS = 100

_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML allows nowhere; libyaml would not say where it stands."""

_Loader: Any = getattr(yaml, "CLoader", yaml.Loader)


class _TooMuch(Exception):
    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(place, "", text)


def read_tree(file: str, untrusted: bytes) -> tuple[Node | None, list[Problem]]:
    """The tree of a file's only document, None for an empty file; and what is wrong with it as YAML.

    Never raises, whatever the bytes are.
    """
    if len(untrusted) > MAX_BYTES:
        size = f"{len(untrusted) / 2**20:.0f} MiB, and {MAX_BYTES // 2**20} MiB is the most"
        return None, [Problem(Place(file), "", f"has {size}: remove what is not policy")]
    text = decode(file, untrusted)
    if isinstance(text, Problem):
        return None, [text]
    odd = _CONTROL.search(text)
    if odd is not None:
        place = Place(file, text.count("\n", 0, odd.start()) + 1, odd.start() - text.rfind("\n", 0, odd.start()))
        return None, [Problem(place, "", f"the character U+{ord(odd[0]):04X} is not allowed in YAML: remove it")]
    builder = _Builder(file)
    try:
        return builder.build(text), builder.problems
    except _TooMuch as exc:
        return None, [exc.problem]
    except yaml.MarkedYAMLError as exc:
        return None, [*builder.problems, _syntax(file, text, exc)]
    except (yaml.YAMLError, ValueError) as exc:
        said = str(exc).splitlines()[0] if str(exc) else "not YAML"
        return None, [*builder.problems, Problem(Place(file), "", f"is not YAML: {said}")]


def _syntax(file: str, text: str, exc: Any) -> Problem:
    # What is found at the end of a quoted text or of a key went wrong where it began.
    scanning = str(exc.context or "").startswith("while scanning") and exc.context_mark is not None
    mark = exc.context_mark if scanning else exc.problem_mark or exc.context_mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
    said = ", ".join(part for part in (exc.problem, exc.context) if part)
    lines = text.splitlines()
    before = lines[mark.line][: mark.column + 1] if mark and mark.line < len(lines) else ""
    hint = "indent with spaces, not tabs" if "\t" in before else "look at the indentation, colons and quotes here"
    return Problem(place, "", f"is not YAML: {said}: {hint}")


class _Builder:
    """Builds one document."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, tuple[Node, int]] = {}
        self.problems: list[Problem] = []

    def build(self, text: str) -> Node | None:
        root: Node | None = None
        open_: list[_Open] = []
        total = 0
        events: Any = yaml.parse(text, Loader=_Loader)
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                node: Node = Scalar(self._place(event), event.value, not event.style)
                weight = 1
                self._anchor(event, node, weight)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                open_.append(_Open(event, kind is yaml.MappingStartEvent))
                if len(open_) > MAX_DEPTH:
                    raise _TooMuch(self._place(event), f"is nested more than {MAX_DEPTH} deep: no key needs that")
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                done = open_.pop()
                node, weight = self._closed(done), done.weight
                self._anchor(done.event, node, weight)
            elif kind is yaml.AliasEvent:
                node, weight = self._alias(event)
            elif kind is yaml.DocumentStartEvent and root is not None:
                raise _TooMuch(self._place(event), "a second document begins: keep one, without '---' in between")
            else:
                continue
            total += 1
            if total > MAX_NODES or weight > MAX_NODES:
                place = self._place(event) if kind is yaml.AliasEvent else node.place
                raise _TooMuch(place, f"more than {MAX_NODES} values, aliases in full: remove some")
            if open_:
                open_[-1].items.append(node)
                open_[-1].weight += weight
            else:
                root = node
        return None if isinstance(root, Scalar) and root.is_empty else root

    def _anchor(self, event: Any, node: Node, weight: int) -> None:
        if event.tag is not None and event.tag != "!":
            self._problem(self._place(event), f"'{shown(event.tag)}' is a tag, and no value here needs one: remove it")
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, weight)

    def _alias(self, event: Any) -> tuple[Node, int]:
        known = self._anchors.get(event.anchor)
        if known is None:
            raise _TooMuch(self._place(event), f"'*{shown(event.anchor)}' stands for nothing: there is no such anchor")
        return known

    def _closed(self, done: _Open) -> Node:
        place = self._place(done.event)
        if not done.is_map:
            return Seq(place, tuple(done.items))
        pairs: list[Pair] = []
        seen: dict[str, int] = {}
        for key, value in zip(done.items[::2], done.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._problem(key.place, "a key must be a word")
            elif key.text in seen:
                self._problem(
                    key.place, f"'{shown(key.text, 60)}' stands twice, first in line {seen[key.text]}: keep one"
                )
            else:
                seen[key.text] = key.place.line
                pairs.append(Pair(key, value))
        return Map(place, tuple(pairs))

    def _problem(self, place: Place, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(place, "", text))

    def _place(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self._file, mark.line + 1, mark.column + 1)


class _Open:
    """A mapping or list whose end has not come yet; `weight` counts what it stands for."""

    __slots__ = ("event", "is_map", "items", "weight")

    def __init__(self, event: Any, is_map: bool) -> None:
        self.event = event
        self.is_map = is_map
        self.items: list[Node] = []
        self.weight = 1
