from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01.common.model import NO_SHARE, Share
from ds01.gpu_allocator.shares import advance, score

WEEK_S = 7 * 86400.0
NOW = 1_000_000.0


def numerically(value: float, rate: float, seconds: float, half_life_s: float, steps: int = 20_000) -> float:
    """The same by adding up small pieces of time, each decayed from its middle on."""
    k, step = math.log(2) / half_life_s, seconds / steps
    held = sum(rate * step * math.exp(-k * (seconds - (index + 0.5) * step)) for index in range(steps))
    return value * math.exp(-k * seconds) + held


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(2, 7), Fraction(3)])
@pytest.mark.parametrize("seconds", [1.0, 3600.0, WEEK_S, 10 * WEEK_S])
def test_the_closed_form_is_the_sum(rate: Fraction, seconds: float) -> None:
    share = advance(Share(5000.0, NOW), rate, NOW + seconds, WEEK_S)
    assert share.value == pytest.approx(numerically(5000.0, float(rate), seconds, WEEK_S), rel=1e-6)
    assert share.at == NOW + seconds


def test_after_a_half_life_it_counts_half() -> None:
    assert advance(Share(100.0, NOW), 0, NOW + WEEK_S, WEEK_S).value == pytest.approx(50.0)


def test_half_a_gpu_for_two_seconds_is_one() -> None:
    assert advance(Share(0.0, NOW), Fraction(1, 2), NOW + 2, WEEK_S).value == pytest.approx(1.0, rel=1e-4)


def test_who_was_never_seen_begins_now() -> None:
    """Else the first look would count GPU time from 1970 on."""
    assert advance(NO_SHARE, Fraction(1), NOW, WEEK_S) == Share(0.0, NOW)


@pytest.mark.parametrize("back_s", [0.0, 1.0, WEEK_S])
def test_a_clock_set_back_changes_nothing(back_s: float) -> None:
    assert advance(Share(100.0, NOW), Fraction(4), NOW - back_s, WEEK_S) == Share(100.0, NOW)


@given(st.floats(0, 1e9), st.floats(0, 16), st.floats(0, 1e7), st.floats(0, 1e7), st.floats(60.0, 1e8))
def test_it_does_not_matter_how_often_it_is_taken(
    value: float, rate: float, first_s: float, second_s: float, half_life_s: float
) -> None:
    once = advance(Share(value, NOW), rate, NOW + (first_s + second_s), half_life_s)
    between = advance(Share(value, NOW), rate, NOW + first_s, half_life_s)
    twice = advance(between, rate, NOW + (first_s + second_s), half_life_s)
    assert twice.value == pytest.approx(once.value, rel=1e-6, abs=1e-3)
    assert once.value >= 0.0


@pytest.mark.parametrize(("priority", "expected"), [(100, 300.0), (200, 150.0), (50, 600.0), (0, 30000.0)])
def test_a_weight_divides(priority: int, expected: float) -> None:
    assert score(Share(300.0, NOW), priority) == expected
