from __future__ import annotations

from ds01.common.rates import FORGET_ABOVE, Rates


def test_a_burst_and_then_the_rate() -> None:
    rates = Rates(per_s=2, burst=5)
    assert [rates.allows(1, 0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [rates.allows(1, 1.0) for _ in range(3)] == [True, True, False]


def test_each_uid_has_its_own() -> None:
    rates = Rates(per_s=1, burst=1)
    assert rates.allows(1, 0.0)
    assert not rates.allows(1, 0.0)
    assert rates.allows(2, 0.0)


def test_rest_never_gives_more_than_the_burst() -> None:
    rates = Rates(per_s=1, burst=2)
    rates.allows(1, 0.0)
    assert sum(rates.allows(1, 1e6) for _ in range(10)) == 2


def test_those_who_rested_are_forgotten() -> None:
    rates = Rates(per_s=1, burst=1)
    for uid in range(FORGET_ABOVE + 10):
        rates.allows(uid, float(uid))
    assert len(rates._buckets) < FORGET_ABOVE
