"""Daemons, the engine and the machine die. Containers run on, no lease is lost, no unit has two."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from lib.people import (
    DAEMONS,
    ENGINE,
    belongings,
    docker_run,
    eventually,
    gpu_nodes,
    held,
    inspect,
    leaks,
    ledger,
    mine,
    pid_of,
    set_policy,
    wipe,
)
from lib.running import RunningHost

RESTARTS = "Main process exited|Failed with result|Watchdog|Scheduled restart|killed|signal|Failed to start ds01"


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def world(host: RunningHost) -> dict[str, str]:
    """Lease by unit."""
    return {name: unit["lease"] for name, unit in held(host).items()}


@pytest.mark.expect_warnings(RESTARTS)
def test_twenty_kills_in_ten_seconds(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    docker_run(host, "bob", "sweep", "--gpus", "2")
    before, pids = world(host), (pid_of(host, "train"), pid_of(host, "sweep"))
    served: list[bool] = []
    stop = threading.Event()

    def clients() -> None:
        while not stop.is_set():
            command = "curl -sS --retry 30 --retry-all-errors --retry-delay 0 --retry-max-time 40 --max-time 30"
            told = host.run("bob", f"{command} --unix-socket /run/docker.sock http://d/_ping", check=False)
            served.append(told.out == "OK")

    thread = threading.Thread(target=clients)
    thread.start()
    for _ in range(20):
        host.root(
            ["systemctl", "kill", "-s", "KILL", "ds01-gpu-allocator.service", "ds01-docker-shim.service"], check=False
        )
        time.sleep(0.5)
    stop.set()
    thread.join()
    assert served
    assert all(served), "clients that connect meanwhile are served"
    eventually(lambda: host.run("ada", ["ds01", "status"], check=False).status == 0, "the allocator answers", 30)
    assert world(host) == before
    assert (pid_of(host, "train"), pid_of(host, "sweep")) == pids
    for name in ("ds01-gpu-allocator", "ds01-docker-shim"):
        assert host.root(["systemctl", "is-active", f"{name}.socket"]).out.strip() == "active"


@pytest.mark.expect_warnings(RESTARTS)
@pytest.mark.parametrize("name", DAEMONS)
def test_a_waiting_client_is_served_by_the_next_process(host: RunningHost, name: str) -> None:
    """The socket is systemd's: who connects between two processes waits instead of failing."""
    host.root(["systemctl", "stop", f"{name}.service"])
    told = host.run("alice", ["docker", "run", "--rm", "--gpus", "1", "busybox", "echo", "served"])
    assert told.out == "served\n"


@pytest.mark.expect_warnings(RESTARTS)
def test_a_storm_of_requests_under_kills_leaks_nothing(host: RunningHost) -> None:
    """Killed between commit and answer, between lease and create, between create and answer: at random, many times."""
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s", "policies.granted_timeout": "3s"})
    before = belongings(host)
    line = (
        "for i in 1 2 3 4 5 6; do docker run --rm --gpus 1 busybox true; docker run -d --gpus 1 busybox sleep 1; done"
    )
    askers = [host.start(user, line) for user in ("alice", "bob", "carol")]
    for pause in (0.4, 0.9, 0.3, 1.1, 0.7, 0.5, 0.8, 0.6):
        time.sleep(pause)
        host.root(
            ["systemctl", "kill", "-s", "KILL", "ds01-gpu-allocator.service", "ds01-docker-shim.service"], check=False
        )
        units = [row[0] for row in ledger(host, "SELECT unit FROM lease_unit")]
        assert len(units) == len(set(units))
    for asker in askers:
        asker.communicate(timeout=120)
    eventually(lambda: host.run("ada", ["ds01", "status"], check=False).status == 0, "the allocator answers", 30)
    host.root(f"docker -H {ENGINE} ps -aq | xargs -r docker -H {ENGINE} rm -f")
    eventually(lambda: held(host) == {}, "all units are free", 40)
    assert not [leak for leak in leaks(before, belongings(host)) if "descriptors" not in leak]


@pytest.mark.expect_warnings(RESTARTS)
def test_dockerd_dies_and_containers_run_on(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    pid, before = pid_of(host, "train"), world(host)
    for _ in range(4):
        host.root("systemctl kill -s KILL docker.service; sleep 0.3; systemctl start docker.service")
    assert pid_of(host, "train") == pid
    assert host.root(["test", "-d", f"/proc/{pid}"]).status == 0
    eventually(lambda: world(host) == before, "the leases are the same")
    eventually(
        lambda: host.run("bob", ["docker", "run", "--rm", "--gpus", "1", "busybox", "true"], check=False).status == 0,
        "GPUs are granted again",
    )


def let_the_engine_write(host: RunningHost) -> None:
    """dockerd does not sync its own record of a start; half a minute later the kernel has written it anyway."""
    host.root(["sync", "-f", "/var/lib/docker"])


@pytest.mark.expect_warnings(RESTARTS)
def test_the_plug_is_pulled(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    docker_run(host, "bob", "keep", "--gpus", "1", "--restart", "always")
    docker_run(host, "carol", "plain", "--restart", "always")
    before, caps = world(host), gpu_nodes(host, "keep")
    let_the_engine_write(host)
    host.cut_power()
    assert world(host) == before
    assert inspect(host, "keep")["State"]["Running"]
    now = gpu_nodes(host, "keep")
    assert len(now) == len(caps)
    assert now != caps, "instances have new minors after a reboot, and the entry follows them"
    assert not inspect(host, "train")["State"]["Running"]
    host.run("alice", ["docker", "start", "train"])
    assert not {node for node in gpu_nodes(host, "train") & now if "/dev/nvidia-caps/" in node}
    assert len(mine(host, "alice")) == 1


@pytest.mark.expect_warnings(RESTARTS)
def test_slices_have_their_limits_before_the_first_container_runs(host: RunningHost) -> None:
    identity = docker_run(host, "carol", "keep", "--restart", "always")
    let_the_engine_write(host)
    host.cut_power()
    shown = host.root(
        "systemctl show -P ActiveEnterTimestampMonotonic ds01-student-carol.slice ds01-boot.service docker.service"
        f" docker-{identity}.scope"
    ).out.split()
    made, _, engine, scope = (int(text) for text in shown)
    assert 0 < made < engine
    assert made < scope
    limits = host.root(["systemctl", "show", "ds01-student-carol.slice", "-p", "MemoryMax,TasksMax,CPUQuotaPerSecUSec"])
    assert "infinity" not in limits.out
    assert "/ds01-student-carol.slice/" in host.root(["cat", f"/proc/{pid_of(host, 'keep')}/cgroup"]).out


@pytest.mark.expect_warnings(RESTARTS)
def test_what_was_acknowledged_survives_the_plug(host: RunningHost) -> None:
    """No grace: the plug goes the moment the client has its answer."""
    docker_run(host, "alice", "train", "--gpus", "2")
    before = world(host)
    host.cut_power()
    assert world(host) == before
    rows = ledger(host, "SELECT event FROM record WHERE uid = 1001 AND event = 'gpu.granted'")
    assert rows
