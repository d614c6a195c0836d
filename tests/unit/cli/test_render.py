from __future__ import annotations

import pytest

from ds01.cli import render
from ds01.cli.exits import Exit, status_of

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
