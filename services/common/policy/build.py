"""The policy's files into the compiled policy, or everything that is wrong with them. Pure: same files, same answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ds01.common.policy.compile import compile_policy
from ds01.common.policy.kinds import Machine
from ds01.common.policy.read import Draft, Name, read, read_members
from ds01.common.policy.tree import Files, Node, Place, Problem, Unread

MAX_TOLD = 100
"""Problems told at once; nobody reads more, and a file can be made to have a million."""

ReadTree = Callable[[str, bytes], tuple[Node | None, list[Problem]]]
"""adapters/yamltree.read_tree: (file name, bytes) → tree and what is wrong with it as YAML."""


@dataclass(frozen=True, slots=True)
class Built:
    """`compiled` is None where there are problems; `text` is its JSON, the same for the same files."""

    compiled: dict[str, Any] | None
    problems: tuple[Problem, ...]

    @property
    def text(self) -> str:
        """What is published."""
        return json.dumps(self.compiled) + "\n"


def build(files: Files, read_tree: ReadTree, machine: Machine) -> Built:
    """Compiles the files for `machine`; every problem at once, in the order of the files."""
    members, problems = _members(files)
    if isinstance(files.yaml, Unread):
        problems.append(Problem(Place(files.path), "", files.yaml.why))
        return Built(None, _sorted(problems))
    root, wrong = read_tree(files.path, files.yaml)
    if root is None and not wrong:
        # More often an editor that was killed or a disk that was full than somebody's will.
        wrong = [Problem(Place(files.path), "", "says nothing: write 'groups:', or {} for the built-in limits alone")]
    if root is None:
        return Built(None, _sorted([*problems, *wrong]))
    draft, misread = read(root, files.path)
    compiled, contradictions = compile_policy(draft, members, machine, files.path)
    problems += [*wrong, *misread, *contradictions]
    return Built(None, _sorted(problems)) if problems else Built(compiled, ())


def built_in(machine: Machine) -> Built:
    """What holds where there is no file: the strict defaults."""
    compiled, _ = compile_policy(Draft(), {}, machine, "built-in")
    return Built(compiled, ())


def _members(files: Files) -> tuple[dict[str, list[Name]], list[Problem]]:
    members: dict[str, list[Name]] = {}
    problems: list[Problem] = []
    for group, (path, content) in files.members.items():
        if isinstance(content, Unread):
            problems.append(Problem(Place(path), "", content.why))
            continue
        members[group], wrong = read_members(path, content)
        problems += wrong
    return members, problems


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    ordered = sorted(set(problems))
    told = ordered[:MAX_TOLD]
    if len(ordered) > MAX_TOLD:
        told.append(Problem(told[-1].place, "", f"and {len(ordered) - MAX_TOLD} more, not told here"))
    return tuple(told)
