from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import ALICE, BOB, REFERENCE_SITE, RESEARCHER, RITA, STUDENT, asker, instance, lease, whole

from ds01.common.limits import GpuTotal, Limits
from ds01.common.model import Denied, Granted, Lease, LeaseState, Reason, Unit
from ds01.gpu_allocator.choose import keys
from ds01.gpu_allocator.decide import decide, objections
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.world import World, unlimited, usage, usage_of

TAKEN = tuple(lease(BOB, unit) for unit in REFERENCE_SITE[:6])
"""Every MIG instance is somebody's."""


def wants(text: str) -> GpuRequest:
    request = parse_request(text)
    assert isinstance(request, GpuRequest), request
    return request


def names(verdict: Granted | Denied) -> list[str]:
    assert isinstance(verdict, Granted), verdict
    return [unit.name for unit in verdict.units]


def reason(verdict: Granted | Denied) -> Reason:
    assert isinstance(verdict, Denied), verdict
    assert verdict.message
    assert verdict.hint
    return verdict.reason


@pytest.mark.parametrize(
    ("limits", "gpus", "leases", "expected"),
    [
        (STUDENT, "1", (), ["0:0"]),
        (STUDENT, "2", (), ["0:0", "1:0"]),
        (STUDENT, "1", (lease(BOB, instance(0, 0)),), ["1:0"]),
        (STUDENT, "1", (lease(BOB, instance(0, 0)), lease(RITA, instance(1, 0))), ["0:1"]),
        (STUDENT, "1:2", (), ["1:2"]),
        (STUDENT, "2x10g", (), ["0:0", "1:0"]),
        (STUDENT, "2g.10gb", (), ["0:0"]),
        (RESEARCHER, "1", (), ["0:0"]),
        (RESEARCHER, "1", TAKEN, ["2"]),
        (RESEARCHER, "full", (), ["2"]),
        (RESEARCHER, "2xfull", (), ["2", "3"]),
        (RESEARCHER, "device=3", (), ["3"]),
        (RESEARCHER, "GPU-3", (), ["3"]),
        (RESEARCHER, "2,0:1", (), ["0:1", "2"]),
        (RESEARCHER, "4", TAKEN[:4], ["1:1", "1:2", "2", "3"]),
    ],
)
def test_which_units(limits: Limits, gpus: str, leases: tuple[Lease, ...], expected: list[str]) -> None:
    limits = replace(limits, max_gpu_equivalents=Fraction(4))
    assert names(decide(wants(gpus), asker(ALICE, limits), World(REFERENCE_SITE, leases))) == expected


@pytest.mark.parametrize(
    ("gpus", "leases", "expected", "limit", "used", "requested"),
    [
        ("3", (), Reason.OVER_UNITS_PER_CONTAINER, "2", "0", "3"),
        ("1", (lease(ALICE, instance(0, 0), instance(0, 1)),), Reason.OVER_MIG_INSTANCES, "2", "2", "1"),
        ("2", (lease(ALICE, instance(0, 0)),), Reason.OVER_MIG_INSTANCES, "2", "1", "2"),
        ("1", TAKEN, Reason.NONE_FREE, "6", "6", "1"),
        ("2", TAKEN[:5], Reason.NONE_FREE, "6", "5", "2"),
        ("0:0", TAKEN, Reason.NONE_FREE, "1", "1", "1"),
        ("full", (), Reason.FULL_GPU_NOT_ALLOWED, "0", "0", "1"),
        ("device=2", (), Reason.FULL_GPU_NOT_ALLOWED, "0", "0", "1"),
        ("0:7", (), Reason.NO_SUCH_UNIT, "", "", "device=0:7"),
        ("device=0", (), Reason.NO_SUCH_UNIT, "", "", "device=0"),
        ("40g", (), Reason.NO_SUCH_UNIT, "", "", "40gb"),
    ],
)
def test_denials_carry_their_numbers(
    gpus: str, leases: tuple[Lease, ...], expected: Reason, limit: str, used: str, requested: str
) -> None:
    verdict = decide(wants(gpus), asker(ALICE), World(REFERENCE_SITE, leases))
    assert isinstance(verdict, Denied)
    assert (reason(verdict), verdict.limit, verdict.used, verdict.requested) == (expected, limit, used, requested)


def test_a_student_is_told_that_only_whole_gpus_exist() -> None:
    assert reason(decide(wants("1"), asker(ALICE), World((whole(0),), ()))) is Reason.FULL_GPU_NOT_ALLOWED


def test_more_than_there_are_is_told_at_once_and_waits_for_nothing() -> None:
    limits = replace(RESEARCHER, max_gpu_units_per_container=None, max_gpu_equivalents=None, max_mig_instances=None)
    verdict = decide(wants("9"), asker(ALICE, limits), World(REFERENCE_SITE, ()))
    assert reason(verdict) is Reason.NO_SUCH_UNIT


def test_one_unit_under_two_names_is_one_unit() -> None:
    """Else whoever asks like this waits for ever, and the unit is kept for him all the time."""
    verdict = decide(wants("0:0,MIG-0-0"), asker(ALICE), World(REFERENCE_SITE, ()))
    assert reason(verdict) is Reason.NO_SUCH_UNIT


def test_a_quota_is_told_before_a_shortage() -> None:
    """Waiting would not help somebody who may have no more."""
    leases = (lease(ALICE, instance(0, 0), instance(0, 1)), *(lease(BOB, unit) for unit in REFERENCE_SITE[2:6]))
    assert reason(decide(wants("1"), asker(ALICE), World(REFERENCE_SITE, leases))) is Reason.OVER_MIG_INSTANCES


def test_equivalents_are_exact() -> None:
    limits = replace(STUDENT, max_gpu_equivalents=Fraction(4, 7), max_mig_instances=None)
    world = World(REFERENCE_SITE, (lease(ALICE, instance(0, 0)),))
    assert isinstance(decide(wants("1"), asker(ALICE, limits), world), Granted)
    tight = replace(limits, max_gpu_equivalents=Fraction(3, 7))
    assert reason(decide(wants("1"), asker(ALICE, tight), world)) is Reason.OVER_GPU_EQUIVALENTS


@pytest.mark.parametrize(
    ("total", "used", "limit"),
    [(GpuTotal(max_mig_instances=1), "1", "1"), (GpuTotal(max_gpu_equivalents=Fraction(3, 7)), "2/7", "3/7")],
)
def test_a_groups_total_binds_each_of_it(total: GpuTotal, used: str, limit: str) -> None:
    world = World(REFERENCE_SITE, (lease(BOB, instance(0, 0)),))
    verdict = decide(wants("1"), asker(ALICE, gpu_total=total), world)
    assert isinstance(verdict, Denied)
    assert (verdict.reason, verdict.used, verdict.limit) == (Reason.OVER_GROUP_TOTAL, used, limit)


def test_what_a_group_holds_is_its_own() -> None:
    others = replace(lease(BOB, instance(0, 0)), group="researcher")
    world = World(REFERENCE_SITE, (others,))
    assert isinstance(decide(wants("1"), asker(ALICE, gpu_total=GpuTotal(max_mig_instances=1)), world), Granted)


def test_an_administrators_word_stands_above_quotas_and_below_other_leases() -> None:
    world = World(REFERENCE_SITE, (lease(ALICE, *REFERENCE_SITE[:6]), lease(BOB, whole(2))))
    assert names(decide(wants("full"), unlimited(asker(ALICE)), world)) == ["3"]
    assert reason(decide(wants("2xfull"), unlimited(asker(ALICE)), world)) is Reason.NONE_FREE


@pytest.mark.parametrize("state", [state for state in LeaseState if state is not LeaseState.RELEASED])
def test_every_state_but_released_keeps_the_unit_and_counts(state: LeaseState) -> None:
    world = World(REFERENCE_SITE, (lease(ALICE, instance(0, 0), state=state),))
    assert instance(0, 0) not in world.free()
    assert usage_of(world.leases, ALICE).units == 1


def test_what_is_kept_for_who_waits_is_not_given_and_is_said() -> None:
    world = World(REFERENCE_SITE, (), reserved=keys(REFERENCE_SITE[:6]))
    verdict = decide(wants("1"), asker(ALICE), world)
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.NONE_FREE
    assert "6 more are kept for who waits longer" in verdict.message


def test_a_unit_that_somebody_has_without_a_lease_is_not_given_and_is_said() -> None:
    occupied = {unit.key: "container 'x' was started past the shim and has it" for unit in REFERENCE_SITE[:6]}
    verdict = decide(wants("0:0"), asker(ALICE), World(REFERENCE_SITE, (), occupied=occupied))
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.NONE_FREE
    assert "past the shim" in verdict.message


@pytest.mark.parametrize("gpus", ["0:0", "device=0", "9"])
def test_what_a_withheld_gpu_may_offer_again_is_waited_for(gpus: str) -> None:
    limits = replace(RESEARCHER, max_gpu_units_per_container=None, max_gpu_equivalents=None, max_mig_instances=None)
    world = World(REFERENCE_SITE[3:], (), withheld={0: "Xid 79"})
    verdict = decide(wants(gpus), asker(ALICE, limits), world)
    assert isinstance(verdict, Denied)
    assert verdict.reason is Reason.NONE_FREE
    assert "Xid 79" in verdict.message


def test_no_units_at_all_is_a_shortage_with_numbers() -> None:
    assert reason(decide(wants("1"), asker(ALICE), World((), ()))) is Reason.NONE_FREE


def test_who_would_have_to_end_is_told_the_first_end_first() -> None:
    leases = (
        lease(BOB, instance(0, 0), name="running"),
        lease(RITA, instance(0, 1), state=LeaseState.HELD, name="held"),
        lease(BOB, instance(0, 2), name="known"),
        lease(BOB, whole(2), name="other"),
    )
    world = World((*REFERENCE_SITE[:3], whole(2)), leases, ends={"held": 500.0, "known": 300.0})
    verdict = decide(wants("2g.10gb"), asker(ALICE), world)
    assert isinstance(verdict, Denied)
    assert [(one.units, one.until) for one in verdict.to_end] == [("0:2", 300.0), ("0:1", 500.0), ("0:0", None)]


def test_two_instances_come_with_a_word_of_warning() -> None:
    verdict = decide(wants("2"), asker(ALICE), World(REFERENCE_SITE, ()))
    assert isinstance(verdict, Granted)
    assert "one CUDA process can use one MIG instance only" in verdict.warnings[0]


def test_all_is_warned_of() -> None:
    verdict = decide(wants("all"), asker(ALICE), World(REFERENCE_SITE, ()))
    assert isinstance(verdict, Granted)
    assert "shared machine" in verdict.warnings[0]


def test_everything_that_speaks_against_a_request_is_told_the_most_final_first() -> None:
    limits = replace(STUDENT, max_gpu_equivalents=Fraction(2, 7))
    leases = (lease(ALICE, *REFERENCE_SITE[:2]), *(lease(BOB, unit) for unit in REFERENCE_SITE[2:6]))
    found = [one.reason for one in objections(wants("3"), asker(ALICE, limits), World(REFERENCE_SITE, leases))]
    assert found == [
        Reason.OVER_UNITS_PER_CONTAINER,
        Reason.OVER_MIG_INSTANCES,
        Reason.OVER_GPU_EQUIVALENTS,
        Reason.NONE_FREE,
    ]


def test_any_unit_means_any_that_the_quota_allows() -> None:
    """A whole GPU that is free and too much does not keep anybody from waiting for an instance."""
    limits = replace(RESEARCHER, max_gpu_equivalents=Fraction(4, 7))
    assert reason(decide(wants("1"), asker(ALICE, limits), World(REFERENCE_SITE, TAKEN))) is Reason.NONE_FREE


units = st.lists(st.sampled_from(REFERENCE_SITE), unique=True).map(tuple)
holders = st.lists(st.tuples(st.sampled_from([ALICE, BOB, RITA]), st.sampled_from(REFERENCE_SITE)), max_size=8)
requests = st.sampled_from(["1", "2", "3", "full", "2xfull", "2g.10gb", "2x10g", "0:0", "0:1,1:1", "2,3", "GPU-3"])


@given(units, holders, requests, st.sampled_from([STUDENT, RESEARCHER]), units)
def test_a_grant_is_always_free_distinct_and_within_limits(
    existing: tuple[Unit, ...], held: list[tuple[int, Unit]], gpus: str, limits: Limits, reserved: tuple[Unit, ...]
) -> None:
    by_unit = {unit.key: lease(uid, unit, name=f"l{index}") for index, (uid, unit) in enumerate(held)}
    world = World(existing, tuple(by_unit.values()), reserved=keys(reserved))
    request, who = wants(gpus), asker(ALICE, limits)
    verdict = decide(request, who, world)
    assert verdict == decide(request, who, world)
    if isinstance(verdict, Denied):
        assert next(objections(request, who, world)) == verdict
        return
    got = [unit.key for unit in verdict.units]
    assert len(set(got)) == len(got) == request.count
    assert not set(got) & set(by_unit)
    assert not set(got) & world.reserved
    assert set(got) <= keys(existing)
    after = usage((*world.leases, lease(ALICE, *verdict.units)))
    mine = usage_of((*world.leases, lease(ALICE, *verdict.units)), ALICE)
    assert after.units == len(by_unit) + len(got)
    assert limits.max_gpu_equivalents is not None
    assert mine.equivalents <= limits.max_gpu_equivalents
    instances = sum(1 for key in got if key.placement)
    assert limits.max_mig_instances is not None
    assert mine.mig_instances <= limits.max_mig_instances or not instances
    assert limits.allow_full_gpu or instances == len(got)
