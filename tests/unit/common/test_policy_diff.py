"""Two compiled policies: what holds for whom in each, and what differs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds01.common.adapters.yamltree import read_tree
from ds01.common.errors import PolicyInvalid
from ds01.common.policy.build import build
from ds01.common.policy.diff import FOLLOWS, Compiled, compare, compare_user, read_compiled, values_in
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files

MACHINE = Machine(cpus=128, memory_bytes=2**40, tasks=2**22)
GIB = 2**30
NOBODY: dict[str, frozenset[str]] = {}


def compiled(yaml: str) -> Compiled:
    built = build(Files("r.yaml", yaml.encode(), {}), read_tree, MACHINE)
    assert not built.problems
    return read_compiled(built.text)


STUDENTS = "groups: {student: {memory: 32GiB}, prof: {memory: 64GiB, unix_groups: [staff]}}\n"


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ("", "memory_bytes", 32 * GIB),
        ("user_overrides: {alice: {memory: 48GiB}}", "memory_bytes", 48 * GIB),
        ("user_overrides: {alice: {memory: 48GiB}}", "memory_swap_bytes", 48 * GIB),
        ("user_overrides: {alice: {memory: 48GiB}}", "aggregate.memory_max_bytes", 144 * GIB),
        ("user_overrides: {alice: {aggregate: {memory_max: 40GiB}}}", "aggregate.memory_high_bytes", 36 * GIB),
        ("user_overrides: {bob: {memory: 48GiB}}", "memory_bytes", 32 * GIB),
        ("user_overrides: {alice: {max_containers_per_user: unlimited}}", "aggregate.memory_max_bytes", 2**40),
    ],
)
def test_what_holds_for_a_user(more: str, field: str, value: int) -> None:
    assert values_in(compiled(STUDENTS + more), "student", "alice")[field].value == value


def test_the_values_are_those_that_the_services_read() -> None:
    policy = compiled(STUDENTS + "user_overrides: {alice: {memory: 48GiB, login: {memory_max: 8GiB}}}")
    values, limits = values_in(policy, "student", "alice"), policy.policy.limits_for("alice", [])
    assert values["memory_swap_bytes"].value == limits.memory_swap_bytes
    for section in ("aggregate", "login"):
        for name in ("cpu_quota_percent", "memory_max_bytes", "memory_high_bytes", "tasks_max", "cpu_weight"):
            assert values[f"{section}.{name}"].value == getattr(getattr(limits, section), name)


@pytest.mark.parametrize(
    ("field", "is_derived"), [("memory_swap_bytes", True), ("memory_bytes", False), ("pids", False)]
)
def test_what_nobody_says_is_known_as_such(field: str, is_derived: bool) -> None:
    assert values_in(compiled(STUDENTS), "student")[field].origin.startswith(FOLLOWS) is is_derived


def test_the_same_rules_on_other_lines_are_no_change() -> None:
    old, moved = compiled(STUDENTS), compiled("\n\n" + STUDENTS)
    assert old != moved
    assert compare(old, moved, NOBODY) == compare(old, old, NOBODY)


@pytest.mark.parametrize(
    ("yaml", "part"),
    [
        (STUDENTS + "default_group: prof", "default_group"),
        ("groups: {student: {memory: 32GiB}}", "groups_gone"),
        (STUDENTS.replace("{student", "{new: {}, student"), "groups_new"),
        (STUDENTS.replace("32", "33"), "groups"),
        (STUDENTS + "user_overrides: {alice: {memory: 1GiB}}", "users"),
        (STUDENTS.replace("memory: 64GiB", "memory: 64GiB, members: [alice]"), "users"),
        (STUDENTS + "reserve: {cpus: 9}", "machine"),
        (STUDENTS + "exemptions: [{user: a, from: max_runtime, until: unlimited, why: x}]", "exemptions_new"),
    ],
)
def test_a_change_is_found_where_it_is_and_nowhere_else(yaml: str, part: str) -> None:
    old, new = compiled(STUDENTS), compiled(yaml)
    found, same = compare(old, new, NOBODY), compare(old, old, NOBODY)
    names = ("default_group", "groups_gone", "groups_new", "groups", "users", "machine", "exemptions_new")
    assert [name for name in names if getattr(found, name) != getattr(same, name)] == [part]


EXEMPT = "exemptions: [{user: a, from: max_runtime, until: unlimited, why: x}]\n"
OWN = "user_overrides: {alice: {memory: 48GiB}}\n"


def test_what_is_taken_back_is_found_too() -> None:
    found = compare(compiled(STUDENTS + EXEMPT + OWN), compiled(STUDENTS), NOBODY)
    assert [one.user for one in found.exemptions_gone] == ["a"]
    assert [one.user for one in found.users] == ["alice"]


def test_an_exemption_that_stays_is_no_change() -> None:
    found = compare(compiled(STUDENTS + EXEMPT), compiled(STUDENTS + EXEMPT + OWN), NOBODY)
    assert (found.exemptions_gone, found.exemptions_new) == ((), ())


def test_a_change_has_both_values_with_their_origins() -> None:
    found = compare(compiled(STUDENTS), compiled(STUDENTS.replace("32", "33")), NOBODY)
    first = found.groups["student"][0]
    assert (first.field, first.old, first.new) == (
        "memory_bytes",
        values_in(compiled(STUDENTS), "student")["memory_bytes"],
        values_in(compiled(STUDENTS.replace("32", "33")), "student")["memory_bytes"],
    )


def test_whom_only_the_group_changes_for_is_told_with_the_group() -> None:
    old = STUDENTS.replace("memory: 32GiB", "memory: 32GiB, members: [alice]")
    found = compare(compiled(old), compiled(old.replace("32", "33")), {"bob": frozenset()})
    assert (list(found.groups), found.users) == (["student"], ())


def test_an_override_hides_what_changes_in_the_group() -> None:
    found = compare(compiled(STUDENTS + OWN), compiled(STUDENTS.replace("32", "33") + OWN), NOBODY)
    assert (list(found.groups), found.users) == (["student"], ())


@pytest.mark.parametrize(
    ("unix_groups", "groups", "changed"),
    [((), ("student", "student"), False), (("staff",), ("prof", "prof"), True), (("x",), ("student", "guest"), True)],
)
def test_what_changes_for_one_user(unix_groups: tuple[str, ...], groups: tuple[str, str], changed: bool) -> None:
    new = "groups: {student: {memory: 32GiB}, prof: {memory: 65GiB, unix_groups: [staff]}, guest: {unix_groups: [x]}}"
    found = compare_user(compiled(STUDENTS), compiled(new), "alice", frozenset(unix_groups))
    assert ((found.old_group, found.new_group), bool(found.changes)) == (groups, changed)


def test_who_moves_by_unix_group_is_found_where_he_is_known() -> None:
    old, new = compiled(STUDENTS), compiled(STUDENTS.replace("staff", "profs"))
    found = compare(old, new, {"rita": frozenset(["staff"]), "alice": frozenset()})
    assert [(one.user, one.old_group, one.new_group) for one in found.users] == [("rita", "prof", "student")]


def broken(**more: Any) -> str:
    raw = json.loads(build(Files("r.yaml", STUDENTS.encode(), {}), read_tree, MACHINE).text)
    return json.dumps({**raw, **more})


@pytest.mark.parametrize("text", ["", "[]", "{}", broken(groups=[]), broken(users={"alice": {"limits": {"pids": 1}}})])
def test_what_is_no_policy_with_origins_is_refused(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        read_compiled(text)
