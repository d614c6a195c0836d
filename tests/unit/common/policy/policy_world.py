"""Policies from text, and what is wrong with them, as `limits.yaml:LINE:COLUMN: path: what`."""

from __future__ import annotations

from collections.abc import Mapping

from ds01.common.adapters.yamltree import read_tree
from ds01.common.limits import Policy, parse_policy
from ds01.common.policy.build import Built, build
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files

GIB = 2**30
REFERENCE = Machine(cpus=128, memory_bytes=1024 * GIB, tasks=4_194_304)
FILE = "limits.yaml"


def built(text: str | bytes, members: Mapping[str, str] | None = None, machine: Machine = REFERENCE) -> Built:
    """`members` are the lists of `groups/GROUP.members`."""
    lists = {group: (f"groups/{group}.members", names.encode()) for group, names in (members or {}).items()}
    return build(Files(FILE, text.encode() if isinstance(text, str) else text, lists), read_tree, machine)


def told(text: str | bytes, members: Mapping[str, str] | None = None, machine: Machine = REFERENCE) -> list[str]:
    """The problems, without the name of the YAML file."""
    return [str(problem).removeprefix(f"{FILE}:") for problem in built(text, members, machine).problems]


def policy(text: str, members: Mapping[str, str] | None = None, machine: Machine = REFERENCE) -> Policy:
    """The policy that `text` says."""
    found = built(text, members, machine)
    assert [str(problem) for problem in found.problems] == []
    return parse_policy(found.text)
