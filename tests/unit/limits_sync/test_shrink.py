from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01.common.slices import UNLIMITED
from ds01.limits_sync.shrink import HIGH, MAX, Pending, decide, settle

GIB = 1 << 30
NOW, GRACE_S = 1000.0, 600.0
WANTED = {MAX: 32 * GIB, HIGH: 28 * GIB, "TasksMax": 10, "CPUWeight": 100}
HAVE = {MAX: 64 * GIB, HIGH: 57 * GIB, "TasksMax": 20, "CPUWeight": 100}


@pytest.mark.parametrize(
    ("used", "why"),
    [(31 * GIB, "less is in use"), (32 * GIB, "as much is in use"), (None, "there is no memory controller")],
)
def test_a_limit_that_kills_nobody_holds_at_once(used: int | None, why: str) -> None:
    settled = settle(WANTED, HAVE, used, None, NOW, GRACE_S)
    assert settled.properties == WANTED, why
    assert settled.pending is None


def test_below_use_everything_holds_but_memory_max() -> None:
    settled = settle(WANTED, HAVE, 40 * GIB, None, NOW, GRACE_S)
    assert settled.properties == {**WANTED, MAX: 64 * GIB}
    assert settled.pending == Pending(64 * GIB, 32 * GIB, NOW + GRACE_S)


def test_without_a_memory_high_the_kernel_slows_down_at_the_limit_to_come() -> None:
    settled = settle({MAX: 32 * GIB, HIGH: UNLIMITED}, HAVE, 40 * GIB, None, NOW, GRACE_S)
    assert settled.properties[HIGH] == 32 * GIB


def test_the_grace_does_not_begin_anew_with_every_look() -> None:
    pending = Pending(64 * GIB, 32 * GIB, NOW + 10)
    assert settle(WANTED, HAVE, 40 * GIB, pending, NOW, GRACE_S).pending == pending


def test_a_still_lower_limit_has_a_grace_of_its_own() -> None:
    pending = Pending(64 * GIB, 33 * GIB, NOW + 10)
    assert decide(32 * GIB, 64 * GIB, 40 * GIB, pending, NOW, GRACE_S) == Pending(64 * GIB, 32 * GIB, NOW + GRACE_S)


def test_a_limit_that_is_raised_again_but_still_below_use_keeps_its_clock() -> None:
    pending = Pending(64 * GIB, 30 * GIB, NOW + 10)
    assert decide(32 * GIB, 64 * GIB, 40 * GIB, pending, NOW, GRACE_S) == Pending(64 * GIB, 32 * GIB, NOW + 10)


def test_after_the_grace_it_holds_all_the_same() -> None:
    pending = Pending(64 * GIB, 32 * GIB, NOW)
    assert settle(WANTED, HAVE, 40 * GIB, pending, NOW, GRACE_S).properties == WANTED


def test_no_grace_is_no_wait() -> None:
    assert decide(32 * GIB, 64 * GIB, 40 * GIB, None, NOW, 0.0) is None


sizes = st.integers(1, 1 << 40)
limits = st.one_of(sizes, st.just(UNLIMITED))


@given(limits, limits, st.one_of(sizes, st.none()), st.floats(1, 1e6))
def test_within_the_grace_no_memory_max_is_set_below_what_is_in_use(
    target: int, holds: int, used: int | None, grace_s: float
) -> None:
    settled = settle({MAX: target, HIGH: target}, {MAX: holds}, used, None, NOW, grace_s)
    new = settled.properties[MAX]
    assert new in (target, holds)
    if used is not None and used > target and target < holds:
        assert new == holds
        assert settled.properties[HIGH] == target


@given(limits, limits, sizes)
def test_it_never_waits_for_ever(target: int, holds: int, used: int) -> None:
    first = decide(target, holds, used, None, NOW, GRACE_S)
    assert decide(target, holds, used, first, NOW + GRACE_S, GRACE_S) is None
