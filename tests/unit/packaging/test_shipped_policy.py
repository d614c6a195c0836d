"""The policies that are shipped: one for administrators to edit, one of every key, one for before there is a file."""

from __future__ import annotations

import re
from pathlib import Path

import policy_pages
import pytest
from ds01_installer import plan

from ds01.common.adapters.yamltree import read_tree
from ds01.common.limits import Policy, parse_policy
from ds01.common.policy.build import build, built_in
from ds01.common.policy.keys import KEYS
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files, Map, Node

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "config"
GIB, HOUR_S = 2**30, 3600
MACHINES = [
    Machine(cpus, memory_gib * GIB - 300 * 2**20, tasks)
    for cpus in (2, 3, 16, 128, 256)
    for memory_gib in (2, 4, 64, 1024, 4096)
    for tasks in (15_000, 4_194_304)
]


def load(name: str, machine: Machine = policy_pages.REFERENCE) -> Policy:
    built = build(Files(name, (CONFIG / name).read_bytes(), {}), read_tree, machine)
    assert [str(problem) for problem in built.problems] == []
    return parse_policy(built.text)


def shipped(machine: Machine = policy_pages.REFERENCE) -> Policy:
    return load("resource-limits.yaml", machine)


# --- the file that is there to be edited ------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.cpus}-{machine.memory_bytes >> 30}")
def test_it_loads_on_every_machine(machine: Machine) -> None:
    policy = shipped(machine)
    for name in ("student", "researcher"):
        limits = policy.groups[name].limits
        assert limits.cpus < machine.cpus or name == "researcher"
        assert limits.memory_bytes < machine.memory_bytes / 2
        assert limits.aggregate.memory_max_bytes is not None
        assert limits.memory_bytes <= limits.aggregate.memory_max_bytes < machine.memory_bytes
        assert limits.aggregate.memory_high_bytes is not None
        assert limits.aggregate.memory_high_bytes < limits.aggregate.memory_max_bytes
        assert limits.aggregate.tasks_max is not None


def test_whoever_is_in_no_group_is_a_student() -> None:
    assert shipped().group_of("somebody", ["users"]) == "student"


def test_students_share_two_instances_and_no_whole_gpu() -> None:
    limits = shipped().limits_for("alice", ["student"])
    assert (limits.max_mig_instances, limits.max_gpu_units_per_container, limits.allow_full_gpu) == (2, 2, False)
    assert (limits.max_gpu_equivalents, limits.max_containers, limits.max_runtime_s) == (1, 3, 48 * HOUR_S)


def test_researchers_may_have_whole_gpus_for_a_week() -> None:
    limits = shipped().limits_for("rita", ["researcher"])
    assert (limits.max_mig_instances, limits.max_gpu_units_per_container, limits.allow_full_gpu) == (4, 4, True)
    assert (limits.max_gpu_equivalents, limits.max_containers, limits.max_runtime_s) == (2, 5, 168 * HOUR_S)


def test_an_administrator_who_is_also_a_student_is_an_administrator() -> None:
    limits = shipped().limits_for("ada", ["student", "ds01-admin"])
    assert (limits.max_gpu_equivalents, limits.max_mig_instances, limits.max_containers) == (None, None, None)
    aggregate = limits.aggregate
    assert (aggregate.cpu_quota_percent, aggregate.memory_max_bytes, aggregate.tasks_max) == (None, None, None)


def test_a_stopped_container_keeps_its_gpu_for_a_while() -> None:
    policy = shipped()
    held = {name: group.limits.gpu_hold_after_stop_s for name, group in policy.groups.items()}
    assert held == {"admin": HOUR_S, "researcher": 900, "student": 900}
    assert [policy.groups[name].limits.max_connections for name in ("student", "researcher", "admin")] == [32, 64, 128]


def test_what_is_commented_out_is_right_too() -> None:
    text = (CONFIG / "resource-limits.yaml").read_text()
    end = "\n".join(line.removeprefix("# ") for line in text.partition("# user_overrides:")[2].splitlines())
    examples = "user_overrides:" + end.replace("Who is spared", "# Who is spared")
    built = build(Files("f", f"{text}\n{examples}".encode(), {}), read_tree, policy_pages.REFERENCE)
    assert [str(problem) for problem in built.problems] == []
    assert built.compiled is not None
    assert list(built.compiled["users"]) == ["alice"]
    assert len(built.compiled["exemptions"]) == 1


# --- the file of every key --------------------------------------------------------------------------------------------


SECTIONS = {key.section for key in KEYS if key.section}


def names(node: Node | None) -> set[str]:
    """The keys in a layer of a file, those of a section with its name before the dot."""
    found: set[str] = set()
    for pair in node.pairs if isinstance(node, Map) else ():
        inside = pair.value.pairs if isinstance(pair.value, Map) and pair.key.text in SECTIONS else ()
        found |= {f"{pair.key.text}.{inner.key.text}" for inner in inside} or {pair.key.text}
    return found


def test_every_key_is_in_the_reference_file() -> None:
    root, _ = read_tree("f", (CONFIG / "resource-limits.reference.yaml").read_bytes())
    assert isinstance(root, Map)
    top = {pair.key.text: pair.value for pair in root.pairs}
    groups = top["groups"]
    assert isinstance(groups, Map)
    assert {key.name for key in KEYS} <= names(root) | names(groups.pairs[0].value)


def test_the_reference_file_changes_nothing() -> None:
    """Its values are those that hold where nobody says them, those that follow from others included."""
    reference = load("resource-limits.reference.yaml")
    nobody = parse_policy(built_in(policy_pages.REFERENCE).text)
    student, default = reference.groups["student"], nobody.groups["default"]
    assert student.limits == default.limits
    assert student.total == default.total
    assert reference.policies == nobody.policies
    assert reference.machine == nobody.machine


def test_the_reference_file_says_what_nothing_holds() -> None:
    text = re.sub(r"\n *#   +", " ", (CONFIG / "resource-limits.reference.yaml").read_text())
    for key in KEYS:
        said = re.search(rf"; (\S.*)\n *{key.name.rpartition('.')[2]}: {re.escape(key.default)}", text)
        assert said is not None, key.name
        assert ("nothing holds this yet" in said[1]) is (not key.held_by), key.name


# --- before there is a file -------------------------------------------------------------------------------------------


def test_the_built_in_policy_is_strict() -> None:
    policy = parse_policy((CONFIG / "policy.json").read_text())
    limits = policy.limits_for("ada", ["ds01-admin"])
    assert not limits.allow_full_gpu
    assert (limits.max_gpu_equivalents, limits.max_gpu_units_per_container, limits.max_containers) == (1, 1, 3)
    assert limits.memory_bytes == 512 * 2**20


# --- where they go ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("config/policy.json", "/usr/share/ds01/policy.json"),
        ("config/resource-limits.yaml", "/usr/share/ds01/resource-limits.yaml"),
        ("config/resource-limits.reference.yaml", "/usr/share/doc/ds01/resource-limits.reference.yaml"),
        ("docs/POLICY.md", "/usr/share/doc/ds01/POLICY.md"),
        ("docs/man/ds01-resource-limits.5", "/usr/share/man/man5/ds01-resource-limits.5"),
    ],
)
def test_each_file_has_its_place(source: str, target: str) -> None:
    assert (ROOT / source).is_file()
    assert plan.target_of(source) == target


def test_the_shipped_files_are_put_where_there_is_none() -> None:
    lines = (ROOT / "units" / "tmpfiles.d" / "ds01.conf").read_text().splitlines()
    assert "C /etc/ds01/resource-limits.yaml 0644 root root - /usr/share/ds01/resource-limits.yaml" in lines
    assert "C /run/ds01/policy.json 0644 root root - /usr/share/ds01/policy.json" in lines
    assert "d /etc/ds01/groups 0755 root root -" in lines
