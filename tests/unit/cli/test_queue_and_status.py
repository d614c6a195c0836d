"""`ds01 queue` and `ds01 status`: tables, and the same for programs."""

from __future__ import annotations

import json
import time

import pytest
from commands import Shell
from fake_allocator import FakeAllocator, fails, says, unit, waiter


def test_an_empty_queue_is_a_sentence(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Queue"] = [says(waiters=[])]
    assert shell.ds01("queue").stdout == "Nobody waits for a GPU. 'ds01 status' shows which ones are free.\n"
    assert shell.ds01("queue", "--json").stdout == "[]\n"


def test_the_queue_is_a_table(shell: Shell, allocator: FakeAllocator) -> None:
    now = time.time()
    mine = waiter(2, "r1", name="train._.1001", gpus="2g.10gb", estimate=now + 3600, reason="one is free")
    allocator.answers["Queue"] = [says(waiters=[waiter(1, gpus="full"), mine])]
    heads, first, second = shell.ds01("queue").stdout.splitlines()
    assert [heads[heads.index(word) :].split("  ")[0] for word in ("PLACE", "WHO", "WANTS", "FOR", "TURN", "WHY")] == [
        "PLACE", "WHO", "WANTS", "FOR", "TURN EXPECTED", "WHY",
    ]  # fmt: skip
    assert [cell.strip() for cell in first.split("  ") if cell.strip()][:3] == ["1", "(student)", "full"]
    assert first[heads.index("TURN") :].startswith("not known")
    assert first[heads.index("FOR") :].startswith(" ")
    assert second.split()[:4] == ["2", "you", "2g.10gb", "train"]
    assert "(10 min)" in second
    assert "by " in second
    assert second.endswith("(in 1 h)  one is free")


def test_names_that_others_chose_are_text(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Queue"] = [says(waiters=[waiter(1, name="\x1b[2Jx", user="eve")])]
    assert "?[2Jx" in shell.ds01("queue").stdout


def test_the_queue_for_programs_is_as_it_came(shell: Shell, allocator: FakeAllocator) -> None:
    rows = [waiter(1), waiter(2, "r1")]
    allocator.answers["Queue"] = [says(waiters=rows)]
    assert json.loads(shell.ds01("queue", "--json").stdout) == rows


def test_status_begins_with_notices(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["List"] = [says(units=[unit("0:0")], used_units=0, max_units=None, notices=["GPU 3 is away"])]
    told = shell.ds01("status").stdout.splitlines()
    assert told[0] == "note: GPU 3 is away"
    assert told[1].startswith("UNIT")


@pytest.mark.parametrize(("state", "words"), [("waiting-for-unit", "waits for its unit"), ("lost", "lost")])
def test_states_in_words(shell: Shell, allocator: FakeAllocator, state: str, words: str) -> None:
    rows = [unit("0:0", state, container="train._.1001", mine=True)]
    allocator.answers["List"] = [says(units=rows, used_units=1, max_units=2, notices=[])]
    _, row, _ = shell.ds01("status").stdout.splitlines()
    assert row.split() == ["0:0", "2g.10gb", *words.split(), "you", "train"]


def test_a_command_and_a_login_are_told_as_such(shell: Shell, allocator: FakeAllocator) -> None:
    rows = [
        unit("0:0", "active", container="python", kind="host", mine=True),
        unit("0:1", "active", container="ada", kind="login", group="prof"),
        unit("0:2", "active", kind="host", group="prof"),
    ]
    allocator.answers["List"] = [says(units=rows, used_units=1, max_units=2, notices=[])]
    _, host, login, other, _ = shell.ds01("status").stdout.splitlines()
    assert host.endswith("you     python (ds01 run)")
    assert login.endswith("(prof)  login sessions")
    assert other.endswith("(prof)")


def test_a_snapshot_goes_into_a_file(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Snapshot"] = [says(snapshot='{"world": "é"}')]
    assert shell.ds01("status", "--snapshot", "world.json").stdout == ""
    assert (shell.folder / "world.json").read_text(encoding="utf-8") == '{"world": "é"}\n'


@pytest.mark.parametrize("words", [["--snapshot"], ["--snapshot", "-"]])
def test_a_snapshot_goes_to_the_output(shell: Shell, allocator: FakeAllocator, words: list[str]) -> None:
    allocator.answers["Snapshot"] = [says(snapshot="{}\n")]
    assert shell.ds01("status", *words).stdout == "{}\n"


def test_a_snapshot_that_can_not_be_written(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Snapshot"] = [says(snapshot="{}")]
    told = shell.ds01("status", "--snapshot", "no/such/folder")
    assert (told.returncode, told.stderr) == (73, "'no/such/folder' can't be written: No such file or directory\n")


@pytest.mark.parametrize("command", ["queue", "status"])
def test_the_allocator_can_not_tell(shell: Shell, allocator: FakeAllocator, command: str) -> None:
    method = {"queue": "Queue", "status": "List"}[command]
    allocator.answers[method] = [fails("io.ds01.Allocator.Unavailable", message="NVML does not answer")]
    told = shell.ds01(command)
    assert (told.returncode, told.stdout) == (69, "")
    assert told.stderr == "the GPU allocator can't tell: NVML does not answer\n"
