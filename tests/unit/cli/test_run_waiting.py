"""`ds01 run --wait`: what is told meanwhile, what a restart of the allocator does, and how one leaves."""

from __future__ import annotations

import time

import pytest
from commands import Shell, interrupt
from fake_allocator import FakeAllocator, breaks, denies, eventually, grants, waiter

ONE = grants(("0:1", "2g.10gb"))
BUSY = "0 of 6 are free"


def waits(allocator: FakeAllocator, position: int = 2, **more: object) -> None:
    """Our request is answered in its turn, and stands in the queue until then."""
    allocator.answers["Run"] = [allocator.in_turn(ONE)]
    stands(allocator, position, **more)


def stands(allocator: FakeAllocator, position: int, **more: object) -> None:
    others = [waiter(place) for place in range(1, 4) if place != position]
    allocator.queue = sorted([*others, waiter(position, "ours", **more)], key=lambda row: row["position"])


@pytest.mark.parametrize(
    ("words", "wait_s"),
    [
        (["--wait"], 604800.0),
        (["--wait=10m"], 600.0),
        (["--wait", "10m"], 600.0),
        (["--wait", "--gpus", "1"], 604800.0),
        (["--gpus", "1", "--wait"], 604800.0),
        (["--wait=7d"], 604800.0),
        ([], 0.0),
    ],
)
def test_how_long(shell: Shell, allocator: FakeAllocator, words: list[str], wait_s: float) -> None:
    allocator.answers["Run"] = [ONE]
    assert shell.ds01("run", *words, "echo", "ran").stdout == "ran\n"
    assert allocator.of("Run")[0].parameters["wait_s"] == wait_s


@pytest.mark.parametrize("value", ["10", "soon", "8d", "0s", "-1h"])
def test_what_is_no_time_to_wait(shell: Shell, allocator: FakeAllocator, value: str) -> None:
    told = shell.ds01("run", f"--wait={value}", "true")
    assert told.returncode == 2
    assert told.stderr.startswith("--wait: ")
    assert allocator.calls == []


def test_the_turn_comes(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    process = shell.start("ds01", "run", "--wait", "sh", "-c", "echo $$")
    eventually(lambda: allocator.of("Queue"), "it looks at the queue")
    allocator.turn.set()
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == (f"{process.pid}\n", 0)
    assert allocator.of("Run")[0].pid == process.pid


def test_without_a_terminal_a_change_is_a_line(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator, 2, estimate=time.time() + 720)
    process = shell.start("ds01", "run", "--wait", "true")
    eventually(lambda: len(allocator.of("Queue")) >= 2, "it looks twice")
    stands(allocator, 1)
    eventually(lambda: len(allocator.of("Queue")) >= 4, "it looks at the new place")
    allocator.turn.set()
    _, err = process.communicate(timeout=10)
    first, second = err.splitlines()
    assert first.startswith(f"waiting: place 2 of 3; {BUSY}; your turn is expected by ")
    assert first.endswith(" (in 12 min); Ctrl-C leaves the queue")
    assert second == f"waiting: place 1 of 3; {BUSY}; nobody knows how long it takes; Ctrl-C leaves the queue"


def test_on_a_terminal_one_line_is_written_anew(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator, 3)
    terminal = shell.terminal("ds01", "run", "--wait", "echo", "ran")
    terminal.shows("place 3 of 3")
    stands(allocator, 1, estimate=time.time() + 60)
    terminal.shows("place 1 of 3")
    (line,) = terminal.screen
    assert line.startswith(f"waiting: place 1 of 3; {BUSY}; your turn is expected by ")
    assert line.endswith(" s); Ctrl-C leaves the queue")
    allocator.turn.set()
    assert terminal.ended() == 0
    told, ran, _ = terminal.screen
    assert told.startswith("GPU 0:1 (2g.10gb) is yours until the command ends; it came free after ")
    assert ran == "ran"


def test_on_a_narrow_terminal_why_is_said_once_above_the_line(shell: Shell, allocator: FakeAllocator) -> None:
    reason = "1 GPU unit was asked for and 0 of 6 are free"
    waits(allocator, 3, reason=reason, estimate=time.time() + 720)
    terminal = shell.terminal("ds01", "run", "--wait", "echo", "ran", columns=80)
    terminal.shows("place 3 of 3")
    stands(allocator, 2, reason=reason, estimate=time.time() + 720)
    terminal.shows("place 2 of 3")
    above, line = terminal.screen
    assert above == f"waiting: {reason}; Ctrl-C leaves the queue"
    assert line.startswith("waiting: place 2 of 3; your turn is expected by ")
    assert "your turn is expected by" in line


def test_no_line_is_wider_than_the_terminal(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator, 3, reason="so", estimate=time.time() + 720)
    terminal = shell.terminal("ds01", "run", "--wait", "true", columns=40)
    terminal.shows("place 3 of 3")
    assert len(terminal.screen[-1]) == 39
    assert terminal.screen[-1].endswith("…")


def test_who_is_served_at_once_hears_nothing_of_a_queue(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [ONE]
    told = shell.ds01("run", "--wait", "true")
    assert (told.stderr, allocator.of("Queue")) == ("", [])


def test_ctrl_c_leaves_the_queue(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    process = shell.start("ds01", "run", "--wait", "touch", "started")
    assert process.stderr is not None
    assert "place 2 of 3" in process.stderr.readline()
    interrupt(process)
    _, err = process.communicate(timeout=10)
    assert (err, process.returncode) == ("you left the queue\n", 130)
    assert allocator.left.wait(10)
    assert not (shell.folder / "started").exists()


def test_ctrl_c_on_a_terminal_leaves_no_half_line(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    terminal = shell.terminal("ds01", "run", "--wait", "true")
    terminal.shows("place 2 of 3")
    terminal.type("\x03")
    assert terminal.ended() == 130
    assert terminal.screen == ["you left the queue", ""]


def test_a_restart_of_the_allocator_keeps_the_place(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    process = shell.start("ds01", "run", "--wait=1h", "echo", "ran")
    eventually(lambda: allocator.of("Run"), "it has asked")
    allocator.die()
    time.sleep(1)
    allocator.listen()
    eventually(lambda: len(allocator.of("Run")) == 2, "it asks again")
    allocator.turn.set()
    out, err = process.communicate(timeout=10)
    assert (out, process.returncode) == ("ran\n", 0)
    first, second = allocator.of("Run")
    assert first == second
    assert "the place in the queue is kept" in err


def test_a_connection_that_breaks_again_and_again(shell: Shell, allocator: FakeAllocator) -> None:
    allocator.answers["Run"] = [breaks, breaks, breaks, ONE]
    assert shell.ds01("run", "--wait", "echo", "ran").stdout == "ran\n"
    assert len({call.parameters["request_id"] for call in allocator.of("Run")}) == 1


def test_ctrl_c_while_the_allocator_is_away(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    process = shell.start("ds01", "run", "--wait", "true")
    assert process.stderr is not None
    assert "place 2 of 3" in process.stderr.readline()
    allocator.die()
    assert "connection broke" in process.stderr.readline()
    interrupt(process)
    _, err = process.communicate(timeout=10)
    assert (err, process.returncode) == ("you left the queue\n", 130)


def test_a_queue_that_does_not_answer_keeps_nobody_from_his_turn(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator)
    allocator.answers["Queue"] = [
        breaks,
        lambda talk: talk.send(b"no JSON\0"),
        lambda talk: None,
        allocator.in_turn(breaks),
    ]
    process = shell.start("ds01", "run", "--wait", "echo", "ran")
    eventually(lambda: len(allocator.of("Queue")) >= 2, "it looks again")
    allocator.turn.set()
    assert process.communicate(timeout=10) == ("ran\n", "")


def test_who_waits_in_vain_hears_why(shell: Shell, allocator: FakeAllocator) -> None:
    denied = denies("waited-in-vain", "no GPU came free in 1 s", "wait longer")
    allocator.answers["Run"] = [allocator.in_turn(denied)]
    stands(allocator, 2)
    process = shell.start("ds01", "run", "--wait=1s", "true")
    assert process.stderr is not None
    process.stderr.readline()
    allocator.turn.set()
    _, err = process.communicate(timeout=10)
    assert (err, process.returncode) == ("no GPU came free in 1 s\n  → wait longer\n", 75)


def test_a_reason_with_orders_for_the_terminal_is_text(shell: Shell, allocator: FakeAllocator) -> None:
    waits(allocator, 2, reason="\x1b]0;title\x07\nmine")
    terminal = shell.terminal("ds01", "run", "--wait", "true")
    terminal.shows("place 2 of 3; ?]0;title??mine; nobody")
    assert "\x07" not in terminal.raw
