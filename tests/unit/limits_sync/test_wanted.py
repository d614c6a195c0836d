from __future__ import annotations

from sync_world import GIB, policy

from ds01.common.slices import UNLIMITED, SliceOwner
from ds01.limits_sync.wanted import Account, wanted_units

ALICE = SliceOwner(1001, "alice", "student")
RITA = SliceOwner(1004, "rita", "researcher")
ACCOUNTS = {1001: Account("alice", frozenset({"student"})), 1004: Account("rita", frozenset({"researcher"}))}


def test_every_unit_that_carries_a_limit_is_there_parents_first() -> None:
    found = wanted_units(policy(), [RITA, ALICE], ACCOUNTS, [1001, 0])
    assert list(found) == [
        *("ds01.slice", "docker.slice", "cron.service", "atd.service", "ds01-student.slice", "ds01-researcher.slice"),
        *("ds01-student-alice.slice", "ds01-researcher-rita.slice", "user-1001.slice"),
    ]


def test_only_slices_of_groups_and_users_are_ours_to_make() -> None:
    found = wanted_units(policy(), [ALICE], ACCOUNTS, [1001])
    assert {name for name, one in found.items() if one.transient} == {"ds01-student.slice", "ds01-student-alice.slice"}


def test_each_has_its_limits() -> None:
    found = wanted_units(policy(), [ALICE, RITA], ACCOUNTS, [1001])
    memory = {name: one.plan.properties["MemoryMax"] for name, one in found.items()}
    assert memory["ds01-student-alice.slice"] == 64 * GIB
    assert memory["user-1001.slice"] == 8 * GIB
    assert memory["ds01-student.slice"] == UNLIMITED
    assert memory["ds01-researcher.slice"] == 200 * GIB
    assert memory["docker.slice"] == 128 * GIB
    assert memory["ds01.slice"] < 256 * GIB


def test_root_is_not_limited_at_his_console() -> None:
    assert "user-0.slice" not in wanted_units(policy(), [], {0: Account("root", frozenset())}, [0])


def test_who_moved_has_the_new_limits_in_the_old_slice() -> None:
    moved = {1001: Account("alice", frozenset({"researcher"}))}
    found = wanted_units(policy(), [ALICE], moved, [])
    assert found["ds01-student-alice.slice"].plan.properties["MemoryMax"] == 128 * GIB


def test_an_account_that_is_gone_keeps_the_limits_of_its_group() -> None:
    found = wanted_units(policy(), [RITA], {}, [])
    assert found["ds01-researcher-rita.slice"].plan.properties["MemoryMax"] == 128 * GIB


def test_a_group_that_is_gone_from_the_policy_leaves_the_default_groups_limits() -> None:
    found = wanted_units(policy(), [SliceOwner(7, "x", "phd")], {}, [])
    assert found["ds01-phd-x.slice"].plan.properties["MemoryMax"] == 64 * GIB
    assert found["ds01-phd.slice"].plan.properties["MemoryMax"] == UNLIMITED
