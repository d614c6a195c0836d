"""Amounts as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01.common import quantity
from ds01.common.quantity import Share

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
HOUR_S = 3600


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1b", 1),
        ("512k", 512 * KIB),
        ("512m", 512 * MIB),
        ("128g", 128 * GIB),
        ("128G", 128 * GIB),
        ("96GiB", 96 * GIB),
        ("96gib", 96 * GIB),
        ("96 GiB", 96 * GIB),
        ("0.5t", TIB // 2),
        ("1.5KiB", 1536),
        ("0g", 0),
        ("0.000001b", 0),
        ("25% of machine", Share(Fraction(25))),
        ("12.5% of machine", Share(Fraction("12.5"))),
        ("100 % of machine", Share(Fraction(100))),
    ],
)
def test_a_size(text: str, size: int | Share) -> None:
    assert quantity.parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("128", "'128' has no unit: write 128GiB or 128MiB"),
        ("0", "'0' has no unit: write 0GiB or 0MiB"),
        ("1.5", "'1.5' has no unit: write 1.5GiB or 1.5MiB"),
        ("128GB", "'128GB' could mean powers of 1000 or of 1024: write 128GiB"),
        ("128kb", "'128kb' could mean powers of 1000 or of 1024: write 128KiB"),
        ("1bib", "'1bib' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("012g", "'012g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("1_000m", "'1_000m' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("-1g", "'-1g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("1e3g", "'1e3g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("25%", "'25%' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("1,5g", "'1,5g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("1\u212a", "'1\u212a' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("1\ng", "'1?g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("٣g", "'٣g' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("", "'' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("0% of machine", "'0% of machine' is not a part of the machine: write more than 0% and at most 100%"),
        ("101% of machine", "'101% of machine' is not a part of the machine: write more than 0% and at most 100%"),
        ("9000000000t", "'9000000000t' is larger than any machine: write a smaller number"),
        ("x" * 99, f"'{'x' * 40}…' is not a size: write one like 128g, 96GiB or '25% of machine'"),
        ("\x1b[31mg", "'?[31mg' is not a size: write one like 128g, 96GiB or '25% of machine'"),
    ],
)
def test_what_is_no_size(text: str, clause: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        quantity.parse_size(text)
    assert str(caught.value) == clause


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("24h", 24 * HOUR_S),
        ("0.5h", 1800),
        ("7d", 7 * 24 * HOUR_S),
        ("1w", 7 * 24 * HOUR_S),
        ("1d12h", 36 * HOUR_S),
        ("1h30m", 5400),
        ("0s", 0),
        ("0.1s", 0.1),
        ("36500d", 36500 * 24 * HOUR_S),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert quantity.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("24", "'24' has no unit: write 24h or 24m"),
        ("0", "'0' has no unit: write 0h or 0m"),
        ("12:30", "'12:30' is a number to base 60 in YAML 1.1: write 12h30m"),
        ("1:02:03", "'1:02:03' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("24H", "'24H' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("2 days", "'2 days' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("h", "'h' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("-1h", "'-1h' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("012h", "'012h' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("1_0h", "'1_0h' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("", "'' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        ("36501d", "'36501d' is more than a hundred years: write less, such as 30d"),
        ("999999999999999w", "'999999999999999w' is more than a hundred years: write less, such as 30d"),
    ],
)
def test_what_is_no_duration(text: str, clause: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        quantity.parse_duration(text)
    assert str(caught.value) == clause


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("64", Fraction(64)),
        ("1.5", Fraction(3, 2)),
        ("0.1", Fraction(1, 10)),
        ("9600%", Fraction(96)),
        ("150 %", Fraction(3, 2)),
        ("25% of machine", Share(Fraction(25))),
    ],
)
def test_cpus(text: str, cpus: Fraction | Share) -> None:
    assert quantity.parse_cpus(text) == cpus


@pytest.mark.parametrize("text", ["", "no", "012", "12:30", "1_000", "-1", "+1", "64 CPUs", "1/2", ".5", "5.", "1e3"])
def test_what_is_no_number_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number of CPUs: write one like 64, 1.5, 9600% or '25% of machine'"):
        quantity.parse_cpus(text)


@pytest.mark.parametrize(("text", "count"), [("0", 0), ("3", 3), ("4096", 4096), (str(2**53), 2**53)])
def test_a_count(text: str, count: int) -> None:
    assert quantity.parse_count(text) == quantity.parse_tasks(text) == count


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("012", "'012' is octal in YAML 1.1, that is 10: write 12 or 10"),
        ("07", "'07' is octal in YAML 1.1, that is 7: write 7"),
        ("0" * 5000, f"'{'0' * 40}…' is not a whole number: write one like 4096"),
        ("08", "'08' is not a whole number: write one like 4096"),
        ("1_000", "'1_000' has underlines in it: write 1000"),
        ("12:30", "'12:30' is not a whole number: write one like 4096"),
        ("0x10", "'0x10' is not a whole number: write one like 4096"),
        ("2.0", "'2.0' is not a whole number: write one like 4096"),
        ("-1", "'-1' is not a whole number: write one like 4096"),
        ("3g", "'3g' is not a whole number: write one like 4096"),
        ("", "'' is not a whole number: write one like 4096"),
        (str(2**53 + 1), f"'{2**53 + 1}' is larger than any machine: write a smaller number"),
    ],
)
def test_what_is_no_count(text: str, clause: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        quantity.parse_count(text)
    assert str(caught.value) == clause


def test_processes_may_be_a_part_of_the_machine() -> None:
    assert quantity.parse_tasks("40% of machine") == Share(Fraction(40))


@pytest.mark.parametrize(("text", "percent"), [("5%", 5.0), ("0%", 0.0), ("99.5 %", 99.5), ("100%", 100.0)])
def test_a_percentage(text: str, percent: float) -> None:
    assert quantity.parse_percent(text) == percent


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("5", "'5' has no unit: write 5%"),
        ("101%", "'101%' is more than everything: write 100% or less"),
        ("0.05", "'0.05' has no unit: write 0.05%"),
        ("five", "'five' is not a percentage: write one like 5%"),
        ("5% of machine", "'5% of machine' is not a percentage: write one like 5%"),
    ],
)
def test_what_is_no_percentage(text: str, clause: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        quantity.parse_percent(text)
    assert str(caught.value) == clause


@pytest.mark.parametrize(
    ("text", "gpus"),
    [("1", Fraction(1)), ("0", Fraction(0)), ("0.5", Fraction(1, 2)), ("3/7", Fraction(3, 7)), ("14/7", Fraction(2))],
)
def test_an_amount_of_gpus_is_exact(text: str, gpus: Fraction) -> None:
    assert quantity.parse_gpus(text) == gpus


@pytest.mark.parametrize("text", ["", "1/0", "-1", "012", "1_0", "1e2", "2g.10gb", "50%", "1:2"])
def test_what_is_no_amount_of_gpus(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount of GPUs: write one like 1, 0.5 or 3/7"):
        quantity.parse_gpus(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 * GIB, "64 GiB"),
        (TIB, "1 TiB"),
        (1500 * GIB, "1.46 TiB"),
        (GIB - 1, "1024 MiB"),
    ],
)
def test_a_size_is_told(size: int, text: str) -> None:
    assert quantity.size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (90, "1m30s"), (5400, "1h30m"), (86400, "1d"), (0.5, "0.5s"), (90000.25, "90000.25s")],
)
def test_a_duration_is_told(seconds: float, text: str) -> None:
    assert quantity.duration_text(seconds) == text


@pytest.mark.parametrize(("percent", "text"), [("25", "25"), ("12.5", "12.5"), ("0.001", "0.001"), ("100", "100")])
def test_a_part_is_told_as_it_was_written(percent: str, text: str) -> None:
    assert str(Share(Fraction(percent))) == f"{text}% of machine"


@given(st.integers(0, 2**53))
def test_a_size_that_is_told_is_near_the_truth(size: int) -> None:
    again = quantity.parse_size(quantity.size_text(size))
    assert isinstance(again, int)
    assert abs(again - size) <= size / 200 + 1


@pytest.mark.parametrize(
    ("larger", "smaller", "texts"),
    [
        (2 * TIB, TIB, ("2 TiB", "1 TiB")),
        (1025 * GIB, TIB, ("1025 GiB", "1024 GiB")),
        (TIB + 1, TIB, (f"{TIB + 1} B", f"{TIB} B")),
        (int(1.01 * GIB), GIB, ("1.01 GiB", "1 GiB")),
        (128 * GIB, 64 * MIB, ("131072 MiB", "64 MiB")),
    ],
)
def test_two_sizes_are_told_apart(larger: int, smaller: int, texts: tuple[str, str]) -> None:
    assert quantity.sizes_apart(larger, smaller) == texts


@given(st.integers(1, 2**49), st.integers(0, 2**49))
def test_the_most_that_is_told_is_never_more_than_there_is(more: int, size: int) -> None:
    larger, smaller = quantity.sizes_apart(size + more, size)
    assert larger != smaller
    again = quantity.parse_size(smaller)
    assert isinstance(again, int)
    assert size - size / 100 - 1 <= again <= size


@given(st.integers(1, 9999), st.sampled_from(["b", "k", "m", "g"]))
def test_a_written_size_comes_back(amount: int, unit: str) -> None:
    text = f"{amount / 100:.2f}{unit}" if unit != "b" else f"{amount}b"
    size = quantity.parse_size(text)
    assert isinstance(size, int)
    assert size == int(Fraction(text[:-1]) * {"b": 1, "k": KIB, "m": MIB, "g": GIB}[unit])


@given(st.integers(1, 1023), st.sampled_from([1, KIB, MIB, GIB, TIB]))
def test_a_round_size_comes_back(amount: int, unit: int) -> None:
    assert quantity.parse_size(quantity.size_text(amount * unit)) == amount * unit


@given(st.integers(0, 36500 * 86400))
def test_a_whole_duration_comes_back(seconds: int) -> None:
    assert quantity.parse_duration(quantity.duration_text(seconds)) == seconds


@given(st.floats(0, 36500 * 86400))
def test_any_duration_comes_back_to_the_hundredth(seconds: float) -> None:
    assert quantity.parse_duration(quantity.duration_text(seconds)) == pytest.approx(seconds, abs=0.0051)


PARSERS = (
    quantity.parse_size, quantity.parse_duration, quantity.parse_cpus, quantity.parse_tasks, quantity.parse_count,
    quantity.parse_percent, quantity.parse_gpus,
)  # fmt: skip


@given(st.text() | st.text(alphabet="0123456789.%_:/ -+eExgGiIbBhmsdw", max_size=12), st.sampled_from(PARSERS))
def test_any_text_is_an_amount_or_a_clause(text: str, parse: object) -> None:
    assert callable(parse)
    value, clause = Fraction(0), ": write "
    try:
        value = parse(text)
    except ValueError as exc:
        clause = str(exc)
    assert clause.isprintable()
    assert ": write " in clause
    assert isinstance(value, Share) or value >= 0
