from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import ALICE, BOB, REFERENCE_SITE, RESEARCHER, RITA, STUDENT, instance, lease, whole

from ds01.common.limits import Limits
from ds01.common.model import Denied, Granted, Lease, LeaseState, Reason, Unit
from ds01.gpu_allocator.decide import World, decide, free_units, usage


def names(verdict: Granted | Denied) -> list[str]:
    assert isinstance(verdict, Granted)
    return [unit.name for unit in verdict.units]


def reason(verdict: Granted | Denied) -> Reason:
    assert isinstance(verdict, Denied)
    assert verdict.message
    assert verdict.hint
    return verdict.reason


@pytest.mark.parametrize(
    ("who", "limits", "count", "leases", "expected"),
    [
        (ALICE, STUDENT, 1, (), ["0:0"]),
        (ALICE, STUDENT, 2, (), ["0:0", "1:0"]),
        (ALICE, STUDENT, 1, (lease(BOB, instance(0, 0)),), ["1:0"]),
        (ALICE, STUDENT, 1, (lease(BOB, instance(0, 0)), lease(RITA, instance(1, 0))), ["0:1"]),
        (RITA, RESEARCHER, 1, (), ["0:0"]),
        (RITA, RESEARCHER, 1, tuple(lease(BOB, unit) for unit in REFERENCE_SITE[:6]), ["2"]),
    ],
)
def test_which_units(who: int, limits: Limits, count: int, leases: tuple[Lease, ...], expected: list[str]) -> None:
    assert names(decide(who, count, limits, World(REFERENCE_SITE, leases))) == expected


@pytest.mark.parametrize(
    ("count", "leases", "expected", "limit", "used"),
    [
        (3, (), Reason.OVER_UNITS_PER_CONTAINER, "2", "0"),
        (1, (lease(ALICE, instance(0, 0), instance(0, 1)),), Reason.OVER_MIG_INSTANCES, "2", "2"),
        (2, (lease(ALICE, instance(0, 0)),), Reason.OVER_MIG_INSTANCES, "2", "1"),
        (0, (), Reason.NOT_A_COUNT, "", ""),
        (-1, (), Reason.NOT_A_COUNT, "", ""),
        (1, tuple(lease(BOB, unit) for unit in REFERENCE_SITE[:6]), Reason.NONE_FREE, "6", "6"),
    ],
)
def test_denials_carry_both_numbers(
    count: int, leases: tuple[Lease, ...], expected: Reason, limit: str, used: str
) -> None:
    verdict = decide(ALICE, count, STUDENT, World(REFERENCE_SITE, leases))
    assert isinstance(verdict, Denied)
    assert (reason(verdict), verdict.limit, verdict.used) == (expected, limit, used)


def test_a_student_is_told_that_only_whole_gpus_exist() -> None:
    assert reason(decide(ALICE, 1, STUDENT, World((whole(0),), ()))) is Reason.FULL_GPU_NOT_ALLOWED


def test_a_quota_is_told_before_a_shortage() -> None:
    """Waiting would not help somebody who may have no more."""
    leases = (lease(ALICE, instance(0, 0), instance(0, 1)), *(lease(BOB, unit) for unit in REFERENCE_SITE[2:6]))
    assert reason(decide(ALICE, 1, STUDENT, World(REFERENCE_SITE, leases))) is Reason.OVER_MIG_INSTANCES


def test_equivalents_are_exact() -> None:
    limits = replace(STUDENT, max_gpu_equivalents=Fraction(4, 7), max_mig_instances=None)
    held = (lease(ALICE, instance(0, 0)),)
    assert isinstance(decide(ALICE, 1, limits, World(REFERENCE_SITE, held)), Granted)
    tight = replace(limits, max_gpu_equivalents=Fraction(3, 7))
    assert reason(decide(ALICE, 1, tight, World(REFERENCE_SITE, held))) is Reason.OVER_GPU_EQUIVALENTS


@pytest.mark.parametrize("state", [state for state in LeaseState if state is not LeaseState.RELEASED])
def test_every_state_but_released_keeps_the_unit_and_counts(state: LeaseState) -> None:
    held = (lease(ALICE, instance(0, 0), state=state),)
    assert instance(0, 0) not in free_units(World(REFERENCE_SITE, held))
    assert usage(held, ALICE).units == 1


def test_no_units_at_all_is_a_shortage_with_numbers() -> None:
    assert reason(decide(ALICE, 1, STUDENT, World((), ()))) is Reason.NONE_FREE


units = st.lists(st.sampled_from(REFERENCE_SITE), unique=True).map(tuple)
holders = st.lists(st.tuples(st.sampled_from([ALICE, BOB, RITA]), st.sampled_from(REFERENCE_SITE)), max_size=8)


@given(units, holders, st.integers(-1, 5), st.sampled_from([STUDENT, RESEARCHER]))
def test_a_grant_is_always_free_distinct_and_within_limits(
    existing: tuple[Unit, ...], held: list[tuple[int, Unit]], count: int, limits: Limits
) -> None:
    by_unit = {unit.key: lease(uid, unit, name=f"l{index}") for index, (uid, unit) in enumerate(held)}
    world = World(existing, tuple(by_unit.values()))
    verdict = decide(ALICE, count, limits, world)
    assert verdict == decide(ALICE, count, limits, world)
    if isinstance(verdict, Granted):
        keys = [unit.key for unit in verdict.units]
        assert len(set(keys)) == len(keys) == count
        assert not set(keys) & set(by_unit)
        assert set(keys) <= {unit.key for unit in existing}
        used = usage(world.leases, ALICE)
        instances = sum(1 for key in keys if key.placement)
        assert (
            limits.max_mig_instances is None
            or used.mig_instances + instances <= limits.max_mig_instances
            or (not instances)
        )
        assert limits.allow_full_gpu or instances == count
