from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import ALICE, STUDENT

from ds01.common.errors import Malformed
from ds01.common.limits import Aggregate
from ds01.common.slices import UNLIMITED, SliceOwner, cgroup_of, plan_user, properties
from ds01.common.slicestate import read_owners, write_owners


def test_the_parent_comes_first_and_carries_only_what_its_group_may_use_as_a_whole() -> None:
    parent, own = plan_user("alice", ALICE, "student", STUDENT.aggregate)
    assert (parent.name, own.name) == ("ds01-student.slice", "ds01-student-alice.slice")
    assert {parent.properties[name] for name in ("MemoryMax", "TasksMax", "CPUQuotaPerSecUSec")} == {UNLIMITED}
    capped, _ = plan_user("alice", ALICE, "student", STUDENT.aggregate, Aggregate(memory_max_bytes=1 << 40))
    assert capped.properties["MemoryMax"] == 1 << 40
    assert own.properties["MemoryMax"] == 64 << 30
    assert own.properties["TasksMax"] == 12288


def test_cpu_quota_is_microseconds_per_second() -> None:
    assert properties(Aggregate(cpu_quota_percent=150))["CPUQuotaPerSecUSec"] == 1_500_000


def test_an_absent_limit_is_set_to_none_and_not_left_over() -> None:
    assert set(properties(Aggregate()).values()) == {UNLIMITED}


def test_the_name_of_a_person_is_not_in_the_description() -> None:
    assert "alice" not in str(plan_user("alice", ALICE, "student", STUDENT.aggregate)[1].properties)


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("ds01.slice", "ds01.slice"),
        ("ds01-student-alice.slice", "ds01.slice/ds01-student.slice/ds01-student-alice.slice"),
        ("user-1001.slice", "user.slice/user-1001.slice"),
        ("cron.service", "system.slice/cron.service"),
    ],
)
def test_where_a_units_cgroup_is(unit: str, path: str) -> None:
    assert cgroup_of(unit) == path


def test_owners_come_back(tmp_path: Path) -> None:
    owners = {SliceOwner(1, "a-b", "student"), SliceOwner(1, "a-b", "researcher"), SliceOwner(2, "c", "student")}
    write_owners(owners, tmp_path / "slices.json")
    assert read_owners(tmp_path / "slices.json") == owners
    assert [item.name for item in tmp_path.iterdir()] == ["slices.json"]


def test_no_file_is_nobody_and_a_broken_one_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "slices.json"
    assert read_owners(path) == frozenset()
    for broken in ("{", '[{"uid": 1}]', json.dumps({"a": 1})):
        path.write_text(broken)
        with pytest.raises(Malformed):
            read_owners(path)
