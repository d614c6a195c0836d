"""`container deploy`: which GPUs are asked for, and the waiting for one's turn."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from commands import Shell, interrupt
from fake_allocator import FakeAllocator, blocker, eventually, unit, waiter
from fake_docker import FakeDocker, breaks, breaks_in_the_middle, created, refuses

FULL_NAME = f"train._.{os.getuid()}"
GPU = [["gpu"]]


@pytest.fixture(autouse=True)
def holding(allocator: FakeAllocator) -> None:
    rows = [
        unit("0:0", "active", container=FULL_NAME, kind="host", mine=True),
        unit("0:1", "active", container=FULL_NAME, mine=True),
    ]
    allocator.answers["List"] = [lambda talk: talk.say(units=rows, used_units=1, max_units=2, notices=[])]


def queue_of(allocator: FakeAllocator, docker: FakeDocker) -> None:
    """Ours stands second, under the id of the create."""

    def ours() -> list[dict[str, Any]]:
        ids = [one.headers["X-DS01-Request"] for one in docker.of("POST", "/containers/create")]
        return [waiter(1), waiter(2, ids[0] if ids else "none")]

    allocator.answers["Queue"] = [lambda talk: talk.say(waiters=ours())]


@pytest.mark.parametrize(
    ("words", "request_sent"),
    [
        ([], {"Count": 1, "Capabilities": GPU}),
        (["--gpus", "2"], {"Count": 2, "Capabilities": GPU}),
        (["--gpus", "all"], {"Count": -1, "Capabilities": GPU}),
        (["--gpus", "2x2g.10gb"], {"DeviceIDs": ["2x2g.10gb"], "Capabilities": GPU}),
        (["--gpus", "full"], {"DeviceIDs": ["full"], "Capabilities": GPU}),
        (["--gpus", "0:1,1:0"], {"DeviceIDs": ["0:1,1:0"], "Capabilities": GPU}),
        (["--gpus", "device=0"], {"DeviceIDs": ["0"], "Capabilities": GPU}),
        (["--gpus", "99999999999999999999"], {"DeviceIDs": ["99999999999999999999"], "Capabilities": GPU}),
    ],
)
def test_how_gpus_are_asked_for(
    shell: Shell, docker: FakeDocker, words: list[str], request_sent: dict[str, Any]
) -> None:
    assert shell.container("deploy", "train", *words).returncode == 0
    (create,) = docker.of("POST", "/containers/create")
    assert create.body["HostConfig"]["DeviceRequests"] == [request_sent]
    assert "Labels" not in create.body


def test_no_gpu(shell: Shell, docker: FakeDocker) -> None:
    shell.container("deploy", "train", "--gpus", "0")
    assert docker.of("POST", "/containers/create")[0].body["HostConfig"] == {"Init": True}


def test_what_is_told(shell: Shell, docker: FakeDocker) -> None:
    told = shell.container("deploy", "train")
    assert told.stdout.splitlines()[0] == "'train' runs on GPU 0:1 (2g.10gb)"
    assert told.stderr == ""


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (["--wait", "train"], "true"),
        (["train", "--wait"], "true"),
        (["train", "--wait=10m"], "10m"),
        (["--wait", "10m", "train"], "10m"),
    ],
)
def test_the_waiting_is_a_label(shell: Shell, docker: FakeDocker, words: list[str], label: str) -> None:
    told = shell.container("deploy", *words)
    assert told.stdout.splitlines()[0] == "'train' runs on GPU 0:1 (2g.10gb)"
    (create,) = docker.of("POST", "/containers/create")
    assert create.path.endswith(f"name={FULL_NAME}")
    assert create.body["Labels"] == {"ds01.wait": label}
    assert 8 <= len(create.headers["X-DS01-Request"]) <= 64


def test_what_is_no_time_to_wait(shell: Shell, docker: FakeDocker) -> None:
    assert shell.container("deploy", "train", "--wait=8d").returncode == 2
    assert docker.asked == []


def test_the_place_is_told_and_then_how_long_it_was(shell: Shell, docker: FakeDocker, allocator: FakeAllocator) -> None:
    docker.creates = [docker.in_turn]
    queue_of(allocator, docker)
    process = shell.start("container", "deploy", "train", "--wait")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting: place 2 of 2; 0 of 6 are free; ")
    docker.turn.set()
    out, err = process.communicate(timeout=10)
    assert (err, process.returncode) == ("", 0)
    assert out.startswith("GPU 0:1 (2g.10gb) came free after ")
    assert len(docker.of("POST", "/start")) == 1


def test_the_place_is_a_line_on_a_terminal(shell: Shell, docker: FakeDocker, allocator: FakeAllocator) -> None:
    docker.creates = [docker.in_turn]
    queue_of(allocator, docker)
    terminal = shell.terminal("container", "deploy", "train", "--wait", "-d")
    terminal.shows("waiting: place 2 of 2; 0 of 6 are free; nobody knows how long it takes; Ctrl-C leaves the queue")
    docker.turn.set()
    assert terminal.ended() == 0
    assert terminal.screen[0].startswith("GPU 0:1 (2g.10gb) came free after ")


def test_ctrl_c_hangs_up_the_create(shell: Shell, docker: FakeDocker, allocator: FakeAllocator) -> None:
    docker.creates = [docker.in_turn]
    queue_of(allocator, docker)
    process = shell.start("container", "deploy", "train", "--wait")
    assert process.stderr is not None
    process.stderr.readline()
    interrupt(process)
    out, err = process.communicate(timeout=10)
    assert (out, err, process.returncode) == ("", "you left the queue; 'train' was not created\n", 130)
    assert docker.left.wait(10)
    assert docker.of("POST", "/start") == []


@pytest.mark.parametrize(
    "trouble", [breaks, breaks_in_the_middle, refuses(503, "the allocator is away", reason="allocator-down")]
)
def test_a_break_sends_the_same_create_again(shell: Shell, docker: FakeDocker, trouble: Any) -> None:
    docker.creates = [trouble, created]
    told = shell.container("deploy", "train", "--wait")
    assert (told.returncode, told.stdout.splitlines()[0]) == (0, "'train' runs on GPU 0:1 (2g.10gb)")
    first, second = docker.of("POST", "/containers/create")
    assert first == second
    assert "the connection broke" in told.stderr


def test_without_wait_a_break_is_an_error(shell: Shell, docker: FakeDocker) -> None:
    docker.creates = [breaks, created]
    told = shell.container("deploy", "train")
    assert told.returncode == 69
    assert told.stderr.startswith("Docker does not answer on ")
    assert len(docker.of("POST", "/containers/create")) == 1


def test_a_refusal_is_told_in_its_parts(shell: Shell, docker: FakeDocker) -> None:
    to_end = [blocker("0:1", until=time.time() + 600)]
    sentence = "0 of 6 are free; would have to end: somebody's of group 'student' (0:1, active); wait longer"
    docker.creates = [refuses(409, sentence, reason="waited-in-vain", hint="wait longer", to_end=to_end)]
    told = shell.container("deploy", "train", "--wait=1s")
    assert told.returncode == 75
    message, hint, title, heads, row = told.stderr.splitlines()
    assert (message, hint, title) == ("0 of 6 are free", "  → wait longer", "  would have to end first:")
    assert heads.split() == ["WHOSE", "UNITS", "STATE", "UNTIL"]
    assert row.endswith("(in 10 min)")
    assert docker.of("POST", "/start") == []


@pytest.mark.parametrize(("reason", "status"), [("not-a-request", 2), ("no-such-unit", 2), ("over-group-total", 77)])
def test_exit_statuses_of_refusals(shell: Shell, docker: FakeDocker, reason: str, status: int) -> None:
    docker.creates = [refuses(403, "no", reason=reason)]
    assert shell.container("deploy", "train").returncode == status


def test_ctrl_c_before_a_place_is_seen(shell: Shell, docker: FakeDocker, allocator: FakeAllocator) -> None:
    docker.creates = [docker.in_turn]
    allocator.queue = []
    process = shell.start("container", "deploy", "train", "--wait")
    eventually(lambda: docker.asked, "it has asked")
    interrupt(process)
    _, err = process.communicate(timeout=10)
    assert (err, process.returncode) == ("given up\n", 130)


def test_the_list_knows_containers_from_commands(shell: Shell, allocator: FakeAllocator, docker: FakeDocker) -> None:
    told = shell.container("deploy", "train")
    assert "0:0" not in told.stdout
