"""The compiled policy: who is in which group, what holds for whom, and that a broken one is never half believed."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ds01.common.adapters.yamltree import read_tree
from ds01.common.errors import PolicyInvalid
from ds01.common.limits import Aggregate, MachineLimits, derived, effective, high_for, parse_policy
from ds01.common.policy.build import build
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files
from ds01.common.policyfile import PolicyFile

GIB = 2**30
MACHINE = Machine(cpus=64, memory_bytes=256 * GIB, tasks=100_000)
YAML = b"""\
default_group: student
groups:
  admin: {unix_groups: [ds01-admin], max_gpu_equivalents: unlimited, aggregate: {memory_max: unlimited}}
  researcher: {unix_groups: [researcher], allow_full_gpu: true, memory: 20g}
  student: {members: [carol], max_mig_instances: 2, memory: 10g, total: {memory_max: 100g, cpu_weight: 50}}
user_overrides:
  alice: {max_gpu_equivalents: 4/7, memory: 12g}
exemptions:
  - {user: alice, from: [max_runtime], until: 2027-03-31, why: thesis}
"""


def raw() -> dict[str, Any]:
    compiled = build(Files("limits.yaml", YAML, {}), read_tree, MACHINE).compiled
    assert compiled is not None
    return compiled


def text() -> str:
    return json.dumps(raw())


@pytest.mark.parametrize(
    ("user", "unix_groups", "group"),
    [
        ("bob", ["student"], "student"),
        ("bob", [], "student"),
        ("rita", ["researcher"], "researcher"),
        ("ada", ["researcher", "ds01-admin"], "admin"),
        ("carol", ["researcher", "ds01-admin"], "student"),
    ],
)
def test_group_of(user: str, unix_groups: list[str], group: str) -> None:
    assert parse_policy(text()).group_of(user, unix_groups) == group


def test_a_users_own_limits_lie_on_his_groups() -> None:
    policy = parse_policy(text())
    student, researcher = policy.limits_for("alice", []), policy.limits_for("alice", ["researcher"])
    assert student.max_gpu_equivalents == researcher.max_gpu_equivalents == Fraction(4, 7)
    assert (student.max_mig_instances, student.allow_full_gpu) == (2, False)
    assert (researcher.max_mig_instances, researcher.allow_full_gpu) == (None, True)
    assert student.memory_bytes == 12 * GIB
    assert policy.limits_for("bob", []).memory_bytes == 10 * GIB


def test_a_group_that_is_gone_has_the_limits_of_the_default_group() -> None:
    policy = parse_policy(text())
    assert policy.limits_in("gone", "bob") == policy.limits_in("student", "bob")
    assert policy.limits_in("gone", "alice").memory_bytes == 12 * GIB


def test_what_follows_does_so_from_the_users_own_values() -> None:
    policy = parse_policy(text())
    assert policy.limits_for("bob", []).aggregate.memory_max_bytes == 30 * GIB
    assert policy.limits_for("alice", []).aggregate.memory_max_bytes == 36 * GIB
    assert policy.limits_for("alice", []).memory_swap_bytes == 12 * GIB


def test_no_limit_is_none_and_nothing_follows_from_it() -> None:
    admin = parse_policy(text()).limits_for("ada", ["ds01-admin"])
    assert admin.max_gpu_equivalents is None
    assert (admin.aggregate.memory_max_bytes, admin.aggregate.memory_high_bytes) == (None, None)


def test_the_limits_of_a_whole_group() -> None:
    groups = parse_policy(text()).groups
    assert groups["student"].total == Aggregate(memory_max_bytes=100 * GIB, cpu_weight=50)
    assert groups["researcher"].total == Aggregate(cpu_weight=100)


def test_the_limits_of_the_machine() -> None:
    machine = parse_policy(text()).machine
    assert machine.root.cpu_quota_percent == 6400 - 128
    assert machine.root.memory_max_bytes is not None
    assert machine.root.memory_max_bytes == pytest.approx(256 * GIB * 0.9, abs=4096)
    assert machine.jobs.memory_max_bytes == 32 * GIB
    assert machine.jobs.memory_high_bytes == high_for(32 * GIB)
    assert (machine.has_cpus, machine.has_memory_bytes, machine.has_tasks) == (64, 256 * GIB, 100_000)


def test_an_exemption() -> None:
    (one,) = parse_policy(text()).exemptions
    assert (one.user, one.of, one.until) == ("alice", ("max_runtime",), "2027-03-31")


NOBODY = Aggregate()
HAS = MachineLimits(NOBODY, NOBODY, NOBODY, 64, 256 * GIB, 100_000)
SAID = {"max_containers": 3, "cpus": 4.0, "memory_bytes": 10 * GIB, "pids": 100}


def test_what_is_said_is_not_derived() -> None:
    whole = effective({**SAID, "aggregate.tasks_max": 5}, HAS)
    assert (whole["aggregate.tasks_max"], whole["aggregate.cpu_quota_percent"]) == (5, 1200)


@pytest.mark.parametrize(
    ("containers", "memory_gib"), [(0, 10), (1, 10), (3, 30), (25, 250), (26, 256), (1000, 256), (None, 256)]
)
def test_all_containers_together_get_no_more_than_there_is(containers: int | None, memory_gib: int) -> None:
    found = derived({**SAID, "max_containers": containers}, HAS)
    assert found["aggregate.memory_max_bytes"] == memory_gib * GIB


@pytest.mark.parametrize(
    "wrong",
    ["", "[]", "null", "{}", '{"schema": 2}', '{"schema": 1, "groups": null}', '{"schema": 2, "groups": null}'],
)
def test_what_is_no_policy_is_refused(wrong: str) -> None:
    with pytest.raises(PolicyInvalid):
        parse_policy(wrong)


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(PolicyInvalid, match="has schema 1, this version reads 2"):
        parse_policy(json.dumps({**raw(), "schema": 1}))


def test_a_default_group_that_is_none_is_refused() -> None:
    with pytest.raises(PolicyInvalid, match="'nobody' is not a group"):
        parse_policy(json.dumps({**raw(), "default_group": "nobody"}))


@pytest.mark.parametrize("key", ["memory_bytes", "pids", "shm_bytes", "max_connections"])
@pytest.mark.parametrize("value", [None, 0, -1, "1"])
def test_a_container_limit_can_not_be_absent_or_unlimited(key: str, value: object) -> None:
    wrong = raw()
    wrong["groups"]["student"]["limits"][key] = value
    with pytest.raises(PolicyInvalid):
        parse_policy(json.dumps(wrong))


@pytest.mark.parametrize("key", ["max_gpus", "aggregate.gpus", "policies.gpus"])
def test_an_unknown_limit_is_refused_and_not_ignored(key: str) -> None:
    wrong = raw()
    wrong["groups"]["student"]["limits"][key] = 7
    with pytest.raises(PolicyInvalid, match="gpus"):
        parse_policy(json.dumps(wrong))


def test_a_missing_limit_is_refused_and_not_taken_for_none() -> None:
    for key in raw()["groups"]["student"]["limits"]:
        wrong = raw()
        del wrong["groups"]["student"]["limits"][key]
        try:
            limits = parse_policy(json.dumps(wrong)).groups["student"]
        except PolicyInvalid:
            continue
        # What may be absent is what other defaults of the program stand for.
        assert key.startswith(("total.", "aggregate.", "login.", "binds.", "wishes.")), key
        assert limits.limits.memory_bytes == 10 * GIB


def test_a_file_that_turns_bad_leaves_the_last_good_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text())
    file = PolicyFile(path)
    good = file.current()
    path.write_text("{")
    assert file.current() is good
    (tmp_path / "new").write_text(json.dumps({**raw(), "default_group": "researcher"}))
    os.replace(tmp_path / "new", path)
    assert file.current().default_group == "researcher"


def test_without_any_policy_there_are_no_limits_to_guess(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid):
        PolicyFile(tmp_path / "absent.json").current()
