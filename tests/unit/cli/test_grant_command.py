"""`ds01 grant` and `ds01 ledger`: what administrators do."""

from __future__ import annotations

import json
import time

import pytest
from commands import Shell
from fake_allocator import FakeAllocator, denies, fails, grants, says, unit

from ds01.cli.exits import CommandError, Exit
from ds01.cli.grant import moment

NOON = time.mktime((2026, 11, 24, 12, 0, 30, 0, 0, -1))


def at(*when: int) -> float:
    return time.mktime((*when, 0, 0, -1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("18:00", at(2026, 11, 24, 18, 0, 0)),
        ("9:05", None),
        ("12:00", None),
        ("2026-11-24", at(2026, 11, 25, 0, 0, 0)),
        ("2026-12-01", at(2026, 12, 2, 0, 0, 0)),
        ("2026-12-01 18:00", at(2026, 12, 1, 18, 0, 0)),
        ("2026-12-01T06:30", at(2026, 12, 1, 6, 30, 0)),
        ("4h", NOON + 4 * 3600),
        ("30d", NOON + 30 * 86400),
        ("31d", None),
        ("2026-11-23", None),
        ("2027-11-24", None),
        ("0s", None),
        ("24:00", None),
        ("2026-13-01", None),
        ("2026-02-30", None),
        ("tomorrow", None),
        ("4", None),
        ("", None),
    ],
)
def test_until_when(text: str, until: float | None) -> None:
    if until is not None:
        assert moment(text, NOON) == until
        return
    with pytest.raises(CommandError) as caught:
        moment(text, NOON)
    assert caught.value.status is Exit.USAGE
    assert caught.value.message.startswith("--until: ")


def test_what_is_opened_is_told(shell: Shell, allocator: FakeAllocator) -> None:
    until = time.time() + 4 * 3600
    allocator.answers["Grant"] = [grants(("0:1", "2g.10gb"), warnings=("ada has nobody logged in",), until=until)]
    told = shell.ds01("grant", "ada", "--gpus", "2g.10gb", "--until", "4h")
    asked = allocator.of("Grant")[0].parameters
    assert asked.pop("until") == pytest.approx(until, abs=10)
    assert asked == {"user": "ada", "gpus": "2g.10gb"}
    what, end, kept = told.stdout.splitlines()
    assert what.startswith("GPU 0:1 (2g.10gb) is open to the login sessions of 'ada' until ")
    assert what.endswith("(in 4 h)")
    assert end == "  end it before:  ds01 grant --end l0123"
    assert kept == "  at the end no program is stopped: what runs then keeps what it has open"
    assert told.stderr == "note: ada has nobody logged in\n"


@pytest.mark.parametrize("when", ["0s", "31d", "2020-01-01", "soon"])
def test_a_time_that_can_not_be_opens_nothing(shell: Shell, allocator: FakeAllocator, when: str) -> None:
    told = shell.ds01("grant", "ada", "--until", when)
    assert (told.returncode, allocator.calls) == (2, [])


@pytest.mark.parametrize(
    "words",
    [[], ["ada"], ["--list", "ada"], ["ada", "--until", "4h", "--end", "l1"], ["--list", "--until", "4h"],
     ["--end", "l1", "--json"]],
)  # fmt: skip
def test_wrong_usage(shell: Shell, allocator: FakeAllocator, words: list[str]) -> None:
    assert shell.ds01("grant", *words).returncode == 2
    assert allocator.calls == []


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("Grant", ["grant", "ada", "--until", "4h"]),
        ("Revoke", ["grant", "--end", "l1"]),
        ("RebuildLedger", ["ledger", "rebuild", "--yes"]),
    ],
)
def test_it_is_for_administrators(shell: Shell, allocator: FakeAllocator, method: str, words: list[str]) -> None:
    allocator.answers[method] = [fails("org.varlink.service.PermissionDenied")]
    told = shell.ds01(*words)
    assert told.returncode == 77
    assert "only administrators may do this\n  → ask one of them\n" in told.stderr
    assert told.stdout == ""


def test_a_grant_that_is_denied(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Grant"] = [denies("none-free", "0 of 6 are free", "end one")]
    told = shell.ds01("grant", "ada", "--until", "4h")
    assert (told.returncode, told.stdout, told.stderr) == (75, "", "0 of 6 are free\n  → end one\n")


def test_a_user_who_is_none(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Grant"] = [fails("io.ds01.Allocator.NotPossible", message="there is no account 'adda'")]
    told = shell.ds01("grant", "adda", "--until", "4h")
    assert (told.returncode, told.stderr) == (2, "there is no account 'adda'\n")


def test_the_end(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Revoke"] = [says()]
    told = shell.ds01("grant", "--end", "l0123")
    assert told.stdout == "the grant 'l0123' is over; programs that run keep what they have open\n"
    assert allocator.of("Revoke")[0].parameters == {"lease": "l0123"}


def open_units() -> list[dict[str, object]]:
    until = time.time() + 3600
    login = {"kind": "login", "user": "ada", "group": "prof", "lease": "l1", "until": until, "since": 1.0}
    return [
        unit("0:0"),
        unit("0:1", "active", **login),
        unit("1:0", "active", **login),
        unit("2", "active", container="train", lease="l2"),
        unit("3", "active", kind="login", group="student"),
    ]


def test_the_list_has_a_row_for_each_lease(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["List"] = [says(units=open_units(), used_units=0, max_units=1, notices=[])]
    _, first, second = shell.ds01("grant", "--list").stdout.splitlines()
    assert first.startswith("l1     ada   0:1 (2g.10gb), 1:0 (2g.10gb)  ")
    assert first.endswith("(in 1 h)")
    assert second.split() == ["3", "(2g.10gb)", "-"]
    rows = json.loads(shell.ds01("grant", "--list", "--json").stdout)
    assert [(row["lease"], row["user"], row["gpus"]) for row in rows] == [
        ("l1", "ada", ["0:1 (2g.10gb)", "1:0 (2g.10gb)"]),
        ("", "", ["3 (2g.10gb)"]),
    ]


def test_nothing_is_open(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["List"] = [says(units=[unit("0:0")], used_units=0, max_units=1, notices=[])]
    assert shell.ds01("grant", "--list").stdout.startswith("No GPUs are open to login sessions.")


def test_a_ledger_is_made_anew(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["RebuildLedger"] = [says(lines=["3 leases were found", "the old one is kept"])]
    told = shell.ds01("ledger", "rebuild", "--yes")
    assert (told.stdout, told.returncode) == ("3 leases were found\nthe old one is kept\n", 0)
    assert len(told.stderr.splitlines()) == 2


def test_without_a_terminal_nobody_is_asked(shell: Shell, allocator: FakeAllocator) -> None:
    told = shell.ds01("ledger", "rebuild", stdin="y\n")
    assert (told.returncode, allocator.calls) == (2, [])
    assert "--yes" in told.stderr


@pytest.mark.parametrize(("answer", "calls"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_on_a_terminal_one_is_asked(shell: Shell, allocator: FakeAllocator, answer: str, calls: int) -> None:
    allocator.answers["RebuildLedger"] = [says(lines=["3 leases were found"])]
    terminal = shell.terminal("ds01", "ledger", "rebuild")
    terminal.shows("Go on? [y/N]")
    terminal.type(answer)
    assert terminal.ended() == 0
    assert len(allocator.of("RebuildLedger")) == calls
    assert ("nothing was changed" in terminal.text) is (calls == 0)


def test_ctrl_c_at_the_question(shell: Shell, allocator: FakeAllocator) -> None:
    terminal = shell.terminal("ds01", "ledger", "rebuild")
    terminal.shows("Go on? [y/N]")
    terminal.type("\x03")
    assert terminal.ended() == 130
    assert allocator.calls == []
