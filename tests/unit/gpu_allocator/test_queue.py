from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from worlds import ALICE, BOB, REFERENCE_SITE, RESEARCHER, RITA, STUDENT, asker, instance, lease, waiter, whole

from ds01.common.limits import Limits
from ds01.common.model import Granted, Lease, LeaseState, Reason, Unit, UnitKey, Waiter
from ds01.gpu_allocator.queue import InLine, Plan, ordered, plan
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.world import World

FREE_FOR_ALL = replace(RESEARCHER, max_gpu_equivalents=None, max_mig_instances=None, max_gpu_units_per_container=None)
TWO = REFERENCE_SITE[:2]
FULL = (whole(2), whole(3))


def line(
    uid: int,
    gpus: str = "1",
    score: float = 0.0,
    since: float = 1000.0,
    limits: Limits = FREE_FOR_ALL,
    *,
    present: bool = True,
) -> InLine:
    request = parse_request(gpus)
    assert isinstance(request, GpuRequest)
    return InLine(waiter(uid, gpus, since), request, asker(uid, limits), score, present)


def who(lines: tuple[InLine, ...]) -> list[int]:
    return [one.waiter.uid for one in lines]


def turns(found: Plan) -> list[tuple[int, int]]:
    return [(turn.place, turn.line.waiter.uid) for turn in found.turns]


def next_up(found: Plan) -> tuple[int, list[str]] | None:
    if found.next is None:
        return None
    one, granted = found.next
    return one.waiter.uid, [unit.name for unit in granted.units]


def reserved(found: Plan, units: tuple[Unit, ...] = REFERENCE_SITE) -> list[str]:
    return [unit.name for unit in units if unit.key in found.reserved]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (line(ALICE, score=1.0, since=9.0), line(BOB, score=2.0, since=1.0)),
        (line(ALICE, score=1.0, since=1.0), line(BOB, score=1.0, since=9.0)),
        (line(ALICE, score=1.0, since=1.0), line(BOB, score=1.0, since=1.0)),
        (line(BOB, score=0.0, since=1.0), line(ALICE, score=0.1, since=1.0)),
    ],
)
def test_the_order_of_turns(first: InLine, second: InLine) -> None:
    assert ordered([first, second]) == ordered([second, first]) == (first, second)


def test_two_requests_of_one_moment_have_an_order() -> None:
    one, other = (replace(line(ALICE), waiter=waiter(ALICE, name=name)) for name in ("a", "b"))
    assert ordered([other, one]) == (one, other)


def test_the_first_who_can_be_served_is_next() -> None:
    found = plan([line(ALICE, score=0.0), line(BOB, score=1.0)], World(TWO[:1], ()))
    assert next_up(found) == (ALICE, ["0:0"])
    assert turns(found) == [(1, BOB)]


def test_who_can_not_be_served_lets_others_by_on_units_that_he_does_not_want() -> None:
    world = World((*TWO, *FULL), (lease(RITA, *FULL),))
    found = plan([line(ALICE, "full", score=0.0), line(BOB, "2g.10gb", score=1.0)], world)
    assert next_up(found) == (BOB, ["0:0"])
    assert turns(found) == [(1, ALICE)]


def test_the_first_in_line_keeps_what_is_free_of_what_he_wants() -> None:
    world = World((*TWO, *FULL), (lease(RITA, TWO[1]),))
    found = plan([line(ALICE, "2x2g.10gb", score=0.0), line(BOB, "2g.10gb", score=1.0)], world)
    assert found.next is None
    assert reserved(found) == ["0:0"]
    assert turns(found) == [(1, ALICE), (2, BOB)]


def test_only_the_first_in_line_for_some_units_keeps_any() -> None:
    """Else one idle GPU after another would be kept for nobody."""
    units = (*TWO, instance(0, 2), *FULL)
    world = World(units, (lease(RITA, TWO[1], instance(0, 2), whole(2)),))
    first, second = line(ALICE, "2x2g.10gb", score=0.0), line(BOB, "4", score=1.0)
    assert reserved(plan([first, second], world), units) == ["0:0"]
    assert reserved(plan([second], world), units) == ["0:0", "3"]


def test_first_in_line_for_other_units_keeps_those() -> None:
    world = World((*TWO, *FULL), (lease(RITA, TWO[1], whole(2)),))
    found = plan([line(ALICE, "2x2g.10gb", score=0.0), line(BOB, "2xfull", score=1.0)], world)
    assert reserved(found) == ["0:0", "3"]


def test_who_is_not_there_keeps_his_place_and_gets_no_turn() -> None:
    found = plan([line(ALICE, score=0.0, present=False), line(BOB, score=1.0)], World(TWO[:1], ()))
    assert found.next is None
    assert reserved(found) == ["0:0"]
    assert turns(found) == [(1, BOB)]


def test_who_is_not_there_does_not_keep_more_than_he_asks_for() -> None:
    found = plan([line(ALICE, score=0.0, present=False), line(BOB, score=1.0)], World(TWO, ()))
    assert next_up(found) == (BOB, ["0:1"])


@pytest.mark.parametrize("limits", [replace(STUDENT, max_mig_instances=1)])
def test_who_is_over_his_quota_keeps_nobody_waiting(limits: Limits) -> None:
    world = World(TWO, (lease(ALICE, TWO[0]),))
    found = plan([line(ALICE, score=0.0, limits=limits), line(BOB, score=1.0)], world)
    assert next_up(found) == (BOB, ["0:1"])
    assert [turn.denied.reason for turn in found.turns] == [Reason.OVER_MIG_INSTANCES]


def test_who_wants_what_is_not_here_keeps_nobody_waiting() -> None:
    found = plan([line(ALICE, "0:7", score=0.0), line(BOB, score=1.0)], World(TWO[:1], ()))
    assert next_up(found) == (BOB, ["0:0"])
    assert [turn.denied.reason for turn in found.turns] == [Reason.NO_SUCH_UNIT]


def test_one_turn_at_a_time_and_the_next_is_kept() -> None:
    found = plan([line(ALICE, score=0.0), line(BOB, score=1.0)], World(TWO, ()))
    assert next_up(found) == (ALICE, ["0:0"])
    assert reserved(found) == ["0:0", "0:1"]


def test_a_start_is_waited_for_as_if_the_lease_that_it_is_for_did_not_count() -> None:
    """Its unit is gone and another one is waited for: it takes the place of the old one in the quota."""
    old = replace(lease(ALICE, instance(1, 0), state=LeaseState.WAITING), request_id="w")
    start = replace(line(ALICE, limits=replace(STUDENT, max_mig_instances=1)), waiter=waiter(ALICE, name="w"))
    found = plan([start], World(TWO[:1], (old,)))
    assert next_up(found) == (ALICE, ["0:0"])


@pytest.mark.parametrize(
    ("leases", "ends", "expected"),
    [
        ((lease(RITA, TWO[0], name="a"), lease(RITA, TWO[1], name="b")), {}, [None, None]),
        ((lease(RITA, TWO[0], name="a"), lease(RITA, TWO[1], name="b")), {"a": 500.0}, [500.0, None]),
        ((lease(RITA, TWO[0], name="a"), lease(RITA, TWO[1], name="b")), {"a": 900.0, "b": 500.0}, [500.0, 900.0]),
        ((lease(RITA, *TWO, name="a"),), {"a": 700.0}, [700.0, 700.0]),
        (
            (lease(RITA, TWO[0], state=LeaseState.HELD, name="a"), lease(RITA, TWO[1], name="b")),
            {"a": 300.0, "b": 900.0},
            [300.0, 900.0],
        ),
    ],
)
def test_estimates_take_the_first_ends_one_after_the_other(
    leases: tuple[Lease, ...], ends: dict[str, float], expected: list[float | None]
) -> None:
    found = plan([line(ALICE, score=0.0), line(BOB, score=1.0)], World(TWO, leases, ends=ends))
    assert [turn.estimate for turn in found.turns] == expected


def test_the_estimate_of_a_large_request_is_the_last_end_that_it_needs() -> None:
    world = World(TWO, (lease(RITA, TWO[0], name="a"),), ends={"a": 600.0})
    found = plan([line(ALICE, "2", score=0.0)], world)
    assert [turn.estimate for turn in found.turns] == [600.0]


def test_nobody_who_is_over_his_quota_is_told_when() -> None:
    limits = replace(STUDENT, max_mig_instances=1)
    world = World(TWO, (lease(ALICE, *TWO, name="a"),), ends={"a": 600.0})
    assert [turn.estimate for turn in plan([line(ALICE, limits=limits)], world).turns] == [None]


def test_no_estimate_is_in_the_past() -> None:
    """What is free but kept for somebody who is not there at the moment is no 'now' for who comes after him."""
    found = plan([line(ALICE, score=0.0, present=False), line(BOB, score=1.0)], World(TWO[:1], ()))
    assert [turn.estimate for turn in found.turns] == [None]


def simulate(large: str, minutes: int) -> tuple[int | None, int]:
    """One large request among a stream of small ones that never ends, each for five minutes: when the large one has
    its turn, and how many small ones had theirs by then. Everybody's share is the same."""
    units = REFERENCE_SITE[:4]
    ends: dict[UnitKey, int] = {}
    waiting = [line(ALICE, large, since=3.0)]
    served = 0
    for minute in range(minutes):
        waiting += [line(2000 + minute * 2 + extra, "1", since=float(minute)) for extra in range(2)]
        ends = {key: end for key, end in ends.items() if end > minute}
        while True:
            leases = tuple(lease(BOB, unit, name=unit.name) for unit in units if unit.key in ends)
            found = plan(waiting, World(units, leases)).next
            if found is None:
                break
            one, granted = found
            if one.waiter.uid == ALICE:
                return minute, served
            served += 1
            waiting.remove(one)
            ends |= {unit.key: minute + 5 for unit in granted.units}
    return None, served


def test_a_large_request_is_never_starved_by_small_ones() -> None:
    minute, served = simulate("4", 200)
    assert minute is not None
    assert minute < 25
    assert served < 40


def test_a_waiter_is_served_with_what_decides_for_newcomers_too() -> None:
    found = plan([line(ALICE, "full")], World(REFERENCE_SITE, ()))
    assert found.next is not None
    assert isinstance(found.next[0].waiter, Waiter)
    assert found.next[1] == Granted((whole(2),))
    assert found.next[1].units[0].size == Fraction(1)


def test_nobody_has_more_kept_for_him_than_his_quota() -> None:
    """Places by pairs of a unit that is held and one that is free would keep every free unit for somebody with two."""
    busy = tuple(lease(RITA, unit) for unit in REFERENCE_SITE[:3])
    pairs = [
        replace(line(BOB, f"{held.name},{free.name}", limits=STUDENT), waiter=waiter(BOB, name=f"w{free.name}"))
        for held, free in zip(REFERENCE_SITE[:3], REFERENCE_SITE[3:6], strict=True)
    ]
    found = plan(pairs, World(REFERENCE_SITE, busy))
    assert len(reserved(found)) == 1
    assert Reason.OVER_MIG_INSTANCES in {turn.denied.reason for turn in found.turns}
