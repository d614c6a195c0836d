"""Waiting for GPUs, on the real host: three doors, one queue, in order, whoever dies meanwhile.

Each test has a host of its own with three units, 0:0 to 0:2, which rita holds to begin with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from lib.people import SLEEP, docker_run, eventually, inspect, leases, ledger, set_policy
from lib.running import RunningHost, Session

RESTARTS = "Main process exited|Failed with result|Scheduled restart|killed|signal"
UNITS = ("0:0", "0:1", "0:2")

DEPLOY = ["container", "deploy", "train", "--image", "busybox", "-d"]
RUN = ["ds01", "run"]
DOCKER = ["docker", "run", "--rm", "--gpus", "1"]


@pytest.fixture
def host(fresh_host: Callable[..., RunningHost]) -> RunningHost:
    """Three units of one size, and nobody on them."""
    return fresh_host("--gpus", "3x2g.10gb")


def hold(host: RunningHost, *units: str, user: str = "rita") -> list[Session]:
    """Programs on these units, one on each."""
    sessions = [host.start(user, [*RUN, "--gpus", unit, *SLEEP]) for unit in units]
    eventually(lambda: len(leases(host, user=user)) >= len(units), "the units are held")
    return sessions


def let_go(*sessions: Session) -> None:
    """End programs."""
    for session in sessions:
        session.end("KILL")
        session.communicate(timeout=10)


def waiting(host: RunningHost) -> list[str]:
    """Who waits, in the order in which they came, as the ledger has it."""
    return [str(user) for (user,) in ledger(host, "SELECT user FROM waiter ORDER BY since")]


def join(host: RunningHost, user: str, argv: list[str]) -> Session:
    """Somebody who has a place in the queue when this returns."""
    before = len(waiting(host))
    session = host.start(user, argv)
    eventually(lambda: len(waiting(host)) == before + 1, f"{user} waits", 10)
    return session


def queue(host: RunningHost, user: str = "ada") -> list[dict[str, Any]]:
    """`ds01 queue --json`."""
    return list(json.loads(host.run(user, ["ds01", "queue", "--json"]).out))


def order(host: RunningHost) -> list[str]:
    """Who waits, in the order of turns."""
    return [one["user"] for one in queue(host)]


def runs(host: RunningHost, user: str, units: int = 1) -> bool:
    """Whether the user has so many units and uses them."""
    return [lease[3] for lease in leases(host, user=user)] == ["active"] * units


def has_his_turn(host: RunningHost, user: str) -> None:
    """Wait until the user has a unit and uses it."""
    eventually(lambda: runs(host, user), f"{user} has his turn", 12)


def plain(host: RunningHost, *options: str) -> tuple[int, str]:
    """What mallory gets who does not wait."""
    told = host.run("mallory", [*RUN, *options, "true"], check=False)
    return told.status, told.err


def test_each_door_gets_its_turn_and_who_does_not_wait_gets_none(host: RunningHost) -> None:
    rita = hold(host, *UNITS)
    alice = join(host, "alice", [*DEPLOY, "--wait"])
    bob = join(host, "bob", [*RUN, "--wait", "--", *SLEEP])
    carol = join(host, "carol", [*DOCKER, "--label", "ds01.wait=5m", "busybox", "sh", "-c", "echo started; sleep 99"])
    began = time.monotonic()
    host.run("alice", ["docker", "ps"])
    assert host.run("carol", ["docker", "run", "--rm", "busybox", "echo", "other"]).out == "other\n"
    assert time.monotonic() - began < 8, "who waits can use Docker meanwhile"
    assert plain(host)[0] == 75
    assert host.run("mallory", [*DOCKER, "busybox", "true"], check=False).status == 125

    seen = queue(host)
    assert [(one["position"], one["user"], one["name"]) for one in seen] == [
        (1, "alice", "train._.1001"), (2, "bob", "sleep"), (3, "carol", seen[2]["name"])
    ]  # fmt: skip
    assert all("0 of 3 that would do are free" in one["reason"] for one in seen)
    assert seen[0]["estimate"] > time.time() + 86400, "rita's max_runtime"
    for one in queue(host, "bob"):
        assert one["mine"] == (one["position"] == 2)
        assert one["user"] == ("bob" if one["mine"] else "")
        assert one["mine"] or (one["name"], one["request"], one["reason"]) == ("", "", "no unit that would do is free")

    for session, user in zip(rita, ("alice", "bob", "carol"), strict=True):
        assert not leases(host, user=user)
        let_go(session)
        has_his_turn(host, user)
    assert alice.wait(timeout=10) == 0
    assert inspect(host, "train._.1001")["State"]["Running"]
    assert carol.stdout is not None
    assert carol.stdout.readline() == b"started\n"
    assert bob.poll() is None
    assert waiting(host) == []


def test_a_large_request_is_not_starved_by_small_ones(host: RunningHost) -> None:
    rita = hold(host, *UNITS)
    alice = join(host, "alice", [*RUN, "--gpus", "2", "--wait", "--", *SLEEP])
    bob = join(host, "bob", [*RUN, "--wait", "--", *SLEEP])
    let_go(rita[0])
    eventually(lambda: len(leases(host)) == 2, "one unit is free", 5)
    for _ in range(3):
        status, said = plain(host)
        assert status == 75
        assert "1 more is kept for who waits longer" in said
    assert host.run("mallory", [*DOCKER, "busybox", "true"], check=False).status == 125
    assert order(host) == ["alice", "bob"]
    let_go(rita[1])
    eventually(lambda: runs(host, "alice", 2), "the large one has its turn", 5)
    assert waiting(host) == ["bob"]
    let_go(rita[2])
    eventually(lambda: runs(host, "bob"), "then the small one", 5)
    assert (alice.poll(), bob.poll()) == (None, None)


def test_who_had_less_gpu_time_comes_first_and_priority_weighs_it(host: RunningHost) -> None:
    set_policy(host, {"policies.fair_share_half_life": "1h"})
    carol, bob = hold(host, "0:0", user="carol"), hold(host, "0:1", user="bob")
    time.sleep(1)
    let_go(*bob)
    time.sleep(1.5)
    let_go(*carol)
    eventually(lambda: not leases(host), "all is free", 5)
    rita = hold(host, *UNITS)
    for user in ("carol", "bob", "alice"):
        join(host, user, [*RUN, "--wait", "--", *SLEEP])
    assert waiting(host) == ["carol", "bob", "alice"]
    assert order(host) == ["alice", "bob", "carol"], "the less GPU time, the earlier"
    set_policy(host, {"user_overrides.carol.priority": 1000})
    eventually(lambda: order(host) == ["alice", "carol", "bob"], "a tenth of 2.5 s is less than 1 s", 5)
    for session, user in zip(rita, ("alice", "carol", "bob"), strict=True):
        let_go(session)
        has_his_turn(host, user)


def test_gpu_time_is_forgotten_by_halves(host: RunningHost) -> None:
    """carol used a GPU for long, but before; with a short half-life bob's moment of now counts more."""
    set_policy(host, {"policies.fair_share_half_life": "1s"})
    carol = hold(host, "0:0", user="carol")
    time.sleep(2)
    let_go(*carol)
    time.sleep(4)
    let_go(*hold(host, "0:1", user="bob"))
    eventually(lambda: not leases(host), "all is free", 5)
    hold(host, *UNITS)
    for user in ("bob", "carol"):
        join(host, user, [*RUN, "--wait", "--", *SLEEP])
    assert order(host) == ["carol", "bob"]


def test_leaving_the_queue(host: RunningHost) -> None:
    hold(host, *UNITS)
    labelled = [*DOCKER, "--label", "ds01.wait", "busybox", "true"]
    for argv, signal, status in (
        ([*RUN, "--wait", "true"], "INT", 130),
        ([*DEPLOY, "--wait"], "INT", 130),
        (labelled, "INT", None),
        (labelled, "KILL", None),
        ([*RUN, "--wait", "true"], "KILL", None),
    ):
        session = join(host, "alice", argv)
        session.end(signal)
        _, said = session.communicate(timeout=10)
        assert status in (None, session.returncode), said
        eventually(lambda: not waiting(host), f"{argv[0]} has left after SIG{signal}", 5)
    assert [lease[1] for lease in leases(host)] == ["rita"] * 3
    assert host.run("alice", ["docker", "ps", "-aq"]).out == ""

    for argv, status in (
        ([*RUN, "--wait=1s", "true"], 75),
        ([*DEPLOY, "--wait=1s"], 75),
        ([*DOCKER, "--label", "ds01.wait=1s", "busybox", "true"], 125),
    ):
        told = host.run("alice", argv, check=False)
        assert told.status == status
        assert "0 of 3 that would do are free" in told.err
        assert "place 1 of 1" in told.err
        assert waiting(host) == []


def test_nobody_has_more_than_eight_places(host: RunningHost) -> None:
    hold(host, *UNITS)
    line = "for i in 1 2 3 4 5 6 7 8; do ds01 run --wait true & done; wait"
    eight = host.start("alice", line)
    eventually(lambda: len(waiting(host)) == 8, "eight wait", 20)
    told = host.run("alice", [*RUN, "--wait", "true"], check=False)
    assert told.status == 75
    assert "8" in told.err
    bob = join(host, "bob", [*RUN, "--wait", "true"])
    for session in (eight, bob):
        session.end("KILL")
        session.communicate(timeout=10)
    eventually(lambda: not waiting(host), "all have left", 5)


@pytest.mark.expect_warnings(RESTARTS)
@pytest.mark.parametrize(
    "fault",
    [
        "systemctl kill -s KILL ds01-gpu-allocator.service",
        "systemctl kill -s KILL ds01-docker-shim.service",
        "systemctl kill -s KILL ds01-gpu-allocator.service ds01-docker-shim.service",
        "systemctl restart docker.service",
    ],
)
def test_order_and_waiters_outlive(host: RunningHost, fault: str) -> None:
    rita = hold(host, *UNITS)
    doors = [("bob", [*RUN, "--wait", "--", *SLEEP]), ("alice", [*DEPLOY, "--wait"])]
    if "shim" not in fault:  # the docker command itself asks once only
        doors.append(("carol", [*DOCKER, "-d", "--label", "ds01.wait", "busybox", *SLEEP]))
    sessions = [join(host, user, argv) for user, argv in doors]
    users = [user for user, _ in doors]
    host.root(fault)
    eventually(lambda: host.run("ada", ["ds01", "queue"], check=False).status == 0, "the allocator answers", 15)
    assert waiting(host) == users
    assert order(host) == users
    assert plain(host)[0] != 0
    for session, user in zip(rita, users, strict=False):
        assert not leases(host, user=user)
        let_go(session)
        has_his_turn(host, user)
    assert waiting(host) == []
    assert [session.wait(timeout=10) for session in sessions[1:]] == [0] * len(sessions[1:])
    assert sessions[0].poll() is None


def test_a_start_after_the_hold_says_who_must_end_or_waits(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    docker_run(host, "alice", "plain", "--gpus", "1")
    docker_run(host, "alice", "patient", "--gpus", "1", "--label", "ds01.wait=1m")
    host.run("alice", ["docker", "stop", "-t", "0", "plain", "patient"])
    eventually(lambda: not leases(host), "the holds are over", 8)
    rita = hold(host, *UNITS)
    told = host.run("alice", ["docker", "start", "plain"], check=False)
    assert told.status == 1
    assert "0 of 3 that would do are free" in told.err
    assert "would have to end" in told.err
    assert all(unit in told.err for unit in UNITS)
    assert "rita" not in told.err
    start = join(host, "alice", ["docker", "start", "patient"])
    assert not inspect(host, "patient")["State"]["Running"]
    let_go(rita[0])
    assert start.wait(timeout=10) == 0
    assert inspect(host, "patient")["State"]["Running"]
    assert runs(host, "alice")
