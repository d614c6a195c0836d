"""The policy that is shipped says what the handbook says of students, researchers and administrators."""

from __future__ import annotations

from pathlib import Path

from ds01.common.limits import Policy, parse_policy

SHIPPED = Path(__file__).parents[3] / "config" / "policy.json"
HOUR_S = 3600


def policy() -> Policy:
    return parse_policy(SHIPPED.read_text())


def test_whoever_is_in_no_group_is_a_student() -> None:
    assert policy().group_of("somebody", ["users"]) == "student"


def test_students_share_two_instances_and_no_whole_gpu() -> None:
    limits = policy().limits_for("alice", ["student"])
    assert (limits.max_mig_instances, limits.max_gpu_units_per_container, limits.allow_full_gpu) == (2, 2, False)
    assert (limits.max_containers, limits.max_runtime_s) == (3, 48 * HOUR_S)


def test_researchers_may_have_whole_gpus_for_a_week() -> None:
    limits = policy().limits_for("rita", ["researcher"])
    assert (limits.max_mig_instances, limits.allow_full_gpu, limits.max_runtime_s) == (4, True, 168 * HOUR_S)


def test_an_administrator_who_is_also_a_student_is_an_administrator() -> None:
    limits = policy().limits_for("ada", ["student", "ds01-admin"])
    assert (limits.max_gpu_equivalents, limits.max_mig_instances, limits.max_containers) == (None, None, None)


def test_memory_is_squeezed_before_it_is_refused() -> None:
    for name in ("student", "researcher"):
        aggregate = policy().groups[name].limits.aggregate
        assert aggregate.memory_high_bytes is not None
        assert aggregate.memory_max_bytes is not None
        assert aggregate.memory_high_bytes < aggregate.memory_max_bytes
