"""Kinds of values: how each is read, made absolute for a machine, and shown."""

from __future__ import annotations

from fractions import Fraction

import pytest
from policy_world import GIB, REFERENCE

from ds01.common.policy import kinds
from ds01.common.policy.kinds import Kind, Machine, Value
from ds01.common.quantity import Share

SMALL = Machine(cpus=2, memory_bytes=2 * GIB, tasks=16_000)


def share(percent: str) -> Share:
    return Share(Fraction(percent))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.SIZE, "128g", 128 * GIB),
        (Kind.DURATION, "24h", 86400.0),
        (Kind.CPUS, "1.5", Fraction(3, 2)),
        (Kind.QUOTA, "9600%", Fraction(96)),
        (Kind.TASKS, "10% of machine", share("10")),
        (Kind.COUNT, "0", 0),
        (Kind.WEIGHT, "10000", 10_000),
        (Kind.PERCENT, "5%", 5.0),
        (Kind.GPUS, "3/7", Fraction(3, 7)),
        (Kind.FLAG, "true", True),
        (Kind.FLAG, "false", False),
        (Kind.CHOICE, "park", "park"),
    ],
)
def test_a_value(kind: Kind, text: str, value: Value) -> None:
    assert kinds.parse(kind, text, ("park", "stop")) == value


@pytest.mark.parametrize(
    ("kind", "text", "clause"),
    [
        (Kind.CPUS, "0", "'0' is next to no CPU at all: write 0.01 or more"),
        (Kind.QUOTA, "0.5%", "'0.5%' is next to no CPU at all: write 0.01 or more"),
        (Kind.WEIGHT, "0", "'0' is not a weight: write 1 to 10000, where 100 is what everybody has"),
        (Kind.WEIGHT, "10001", "'10001' is not a weight: write 1 to 10000, where 100 is what everybody has"),
        (Kind.FLAG, "yes", "'yes' is read differently by different programs: write true"),
        (Kind.FLAG, "no", "'no' is read differently by different programs: write false"),
        (Kind.FLAG, "Off", "'Off' is read differently by different programs: write false"),
        (Kind.FLAG, "True", "'True' is read differently by different programs: write true"),
        (Kind.FLAG, "1", "'1' is neither true nor false: write one of them"),
        (Kind.CHOICE, "kill", "'kill' is none of the words: write park or stop"),
        (Kind.CHOICE, "\x1b" + "x" * 50, f"'?{'x' * 39}…' is none of the words: write park or stop"),
    ],
)
def test_what_is_no_value(kind: Kind, text: str, clause: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        kinds.parse(kind, text, ("park", "stop"))
    assert str(caught.value) == clause


def test_three_words_are_told_as_people_do() -> None:
    assert kinds.wanted(Kind.CHOICE, ("refuse", "drop", "allow")) == "refuse, drop or allow"


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_an_example_and_says_what_to_write(kind: Kind) -> None:
    assert kinds.EXAMPLES[kind]
    assert kinds.wanted(kind, ("a", "b"))


@pytest.mark.parametrize(
    ("kind", "value", "machine", "absolute"),
    [
        (Kind.SIZE, share("12.5"), REFERENCE, 128 * GIB),
        (Kind.SIZE, share("33"), SMALL, 2 * GIB * 33 // 100 // 4096 * 4096),
        (Kind.SIZE, share("0.0001"), SMALL, 1),
        (Kind.CPUS, share("25"), REFERENCE, 32.0),
        (Kind.CPUS, share("25"), SMALL, 0.5),
        (Kind.CPUS, share("0.1"), SMALL, 0.01),
        (Kind.QUOTA, share("50"), REFERENCE, 6400),
        (Kind.QUOTA, Fraction(96), REFERENCE, 9600),
        (Kind.QUOTA, Fraction(1, 100), REFERENCE, 1),
        (Kind.TASKS, share("10"), SMALL, 1600),
        (Kind.TASKS, share("0.0001"), SMALL, 1),
        (Kind.GPUS, Fraction(3, 7), REFERENCE, "3/7"),
        (Kind.GPUS, Fraction(1), REFERENCE, "1"),
        (Kind.COUNT, 3, REFERENCE, 3),
        (Kind.WARNINGS, (50.0, 80.0), REFERENCE, [50.0, 80.0]),
    ],
)
def test_in_base_units(kind: Kind, value: Value, machine: Machine, absolute: object) -> None:
    assert kinds.absolute(kind, value, machine) == absolute


@pytest.mark.parametrize(
    ("kind", "value", "clause"),
    [
        (Kind.SIZE, 3 * GIB, "3 GiB are more than the machine has, 2 GiB"),
        (Kind.SIZE, 2 * GIB + 1, "2147483649 B are more than the machine has, 2147483648 B"),
        (Kind.SIZE, 2 * GIB, ""),
        (Kind.CPUS, 2.01, "2.01 CPUs are more than the machine has, 2 CPUs"),
        (Kind.CPUS, 2.0, ""),
        (Kind.QUOTA, 201, "2.01 CPUs are more than the machine has, 2 CPUs (200%)"),
        (Kind.QUOTA, 200, ""),
        (Kind.TASKS, 16_001, "16001 processes are more than the machine has, room for 16000"),
        (Kind.TASKS, 16_000, ""),
        (Kind.COUNT, 10**9, ""),
        (Kind.SIZE, None, ""),
    ],
)
def test_what_is_above_the_machine(kind: Kind, value: kinds.JsonValue, clause: str) -> None:
    assert kinds.above(kind, value, SMALL) == clause


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Kind.SIZE, None, "unlimited"),
        (Kind.SIZE, 64 * GIB, "64 GiB"),
        (Kind.DURATION, 5400.0, "1h30m"),
        (Kind.CPUS, 1.0, "1 CPU"),
        (Kind.CPUS, 0.5, "0.5 CPUs"),
        (Kind.QUOTA, 9600, "96 CPUs"),
        (Kind.PERCENT, 2.5, "2.5%"),
        (Kind.WARNINGS, [50.0, 80.0], "50%, 80%"),
        (Kind.FLAG, True, "true"),
        (Kind.FLAG, False, "false"),
        (Kind.GPUS, "3/7", "3/7"),
        (Kind.COUNT, 3, "3"),
    ],
)
def test_a_value_is_shown(kind: Kind, value: kinds.JsonValue | list[float], text: str) -> None:
    assert kinds.show(kind, value) == text


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2027-03-31", "2027-03-31"),
        ("2027-03-31T18:00", "2027-03-31T18:00:00"),
        ("2027-03-31 18:00", "2027-03-31T18:00:00"),
        ("2027-03-31T18:00+02:00", "2027-03-31T18:00:00+02:00"),
    ],
)
def test_a_date(text: str, until: str) -> None:
    assert kinds.parse_until(text) == until


@pytest.mark.parametrize("text", ["tomorrow", "2027-02-30", "31.3.2027", "2027", "12:30", "", "2027-03-31T25:00"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match="is not a date: write one like 2027-03-31 or 2027-03-31T18:00"):
        kinds.parse_until(text)
