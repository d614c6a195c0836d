from __future__ import annotations

import time

import pytest

from ds01.cli import render
from ds01.cli.exits import Exit, status_of
from ds01.common.model import Reason

UNIT = {
    "name": "0:1",
    "profile": "2g.10gb",
    "state": "held",
    "mine": False,
    "group": "student",
    "user": "",
    "container": "",
    "until": 1000.0,
    "reason": "",
}


def test_columns_line_up() -> None:
    assert render.table(["A", "LONG"], [["xx", "y"]]) == "A   LONG\nxx  y"


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (3600, "1 h"), (11100, "3 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_of_others_the_group_is_shown() -> None:
    row = render.unit_row(UNIT, 880.0)
    assert row[:5] == ["0:1", "2g.10gb", "held", "(student)", ""]
    assert row[5].endswith("(in 2 min)")


def test_ones_own_is_shown_as_such() -> None:
    row = render.unit_row({**UNIT, "mine": True, "container": "train._.1001", "state": "active", "until": None}, 0.0)
    assert row[2:] == ["in use", "you", "train", ""]


def test_a_unit_that_can_not_be_used_says_why() -> None:
    assert render.unit_row({**UNIT, "reason": "fell off the bus"}, 0.0)[5] == "fell off the bus"


@pytest.mark.parametrize(
    ("http_status", "reason", "status"),
    [
        (403, "over-mig-instances", Exit.NOT_PERMITTED),
        (409, "none-free", Exit.NONE_NOW),
        (409, "", Exit.TAKEN),
        (404, "", Exit.NO_SUCH),
        (503, "", Exit.DOWN),
        (400, "", Exit.USAGE),
        (500, "", Exit.FAILED),
    ],
)
def test_exit_statuses(http_status: int, reason: str, status: Exit) -> None:
    assert status_of(http_status, reason) is status


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ((2026, 11, 24, 18, 0), "18:00"),
        ((2026, 11, 25, 0, 0), "2026-11-25 00:00"),
        ((2027, 11, 24, 18, 0), "2027-11-24 18:00"),
    ],
)
def test_the_day_is_said_where_it_is_another(moment: tuple[int, ...], text: str) -> None:
    noon = time.mktime((2026, 11, 24, 12, 0, 0, 0, 0, -1))
    assert render.at(time.mktime((*moment, 0, 0, 0, -1)), noon) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "text"), [(47 * 3600, "47 h"), (48 * 3600, "2 d"), (98 * 3600 + 60, "4 d 2 h")])
def test_days(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_a_cell_is_never_an_order_to_the_terminal() -> None:
    assert render.table(["A"], [["\x1b[2J\r"]]) == "A\n?[2J?"


@pytest.mark.parametrize(
    ("reason", "status"),
    [("waited-in-vain", Exit.NONE_NOW), ("over-group-total", Exit.NOT_PERMITTED), ("no-such-unit", Exit.USAGE)],
)
def test_a_reason_of_the_allocator_says_more_than_the_http_status(reason: str, status: Exit) -> None:
    assert status_of(500, reason) is status


def test_every_reason_of_the_allocator_has_an_exit_status() -> None:
    assert {reason for reason in Reason if status_of(500, reason) is Exit.FAILED} == set()
