"""Memory: the kernel kills in a container that wants more than it has, or more than its owner's slice has left."""

from __future__ import annotations

from lib.people import eventually, inspect, set_policy
from machine.cgroups import scope, user_slice
from machine.vm import RunningVm

MIB = 2**20


def holding(mib: int) -> str:
    """A script that holds so much memory: dd has filled its buffer and waits for a reader."""
    return f"dd if=/dev/zero bs={mib}M count=1 | sleep 1000; sleep 1000"


def run(vm: RunningVm, user: str, name: str, script: str) -> str:
    """A container in the background; its id."""
    return vm.run(user, ["docker", "run", "-d", "--name", name, "busybox", "sh", "-c", script]).out.strip()


def test_a_container_over_its_memory_is_killed_and_named(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.memory": "64MiB"})
    before = vm.now_s()
    container = run(vm, "alice", "greedy", "dd if=/dev/zero of=/dev/null bs=200M count=1; exec sleep 1000")
    own = scope(vm, "greedy")
    assert own.number("memory.max") == 64 * MIB
    eventually(lambda: own.counters("memory.events")["oom_kill"] == 1, "the kernel kills dd", 60)
    assert user_slice(vm, "alice").counters("memory.events")["oom_kill"] >= 1
    eventually(lambda: vm.journal("DS01_EVENT=container.oom-killed", since_s=before), "an event", 60)
    (event,) = vm.journal("DS01_EVENT=container.oom-killed", since_s=before)
    assert event["_SYSTEMD_UNIT"] == "ds01-limits-sync.service"
    assert (event["DS01_USER"], event["DS01_CONTAINER_NAME"]) == ("alice", "greedy")
    assert event["DS01_CONTAINER"] == container
    assert inspect(vm, "greedy")["State"]["Running"]


def test_a_container_that_is_one_process_dies_of_it(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.memory": "64MiB"})
    run(vm, "alice", "idle", "sleep 1000")  # keeps the slice, and so its counters
    whole = user_slice(vm, "alice")
    before = whole.counters("memory.events")["oom_kill"]
    greedy = ["docker", "run", "--name", "one", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]
    assert vm.run("alice", greedy, check=False).status == 137
    assert whole.counters("memory.events")["oom_kill"] == before + 1
    assert scope(vm, "idle").counters("memory.events")["oom_kill"] == 0


def test_two_containers_of_a_user_stay_together_under_his_slice(vm: RunningVm) -> None:
    limits = {"memory": "80MiB", "aggregate.memory_max": "96MiB", "aggregate.memory_high": "unlimited"}
    set_policy(vm, {f"groups.student.{name}": value for name, value in limits.items()})
    run(vm, "alice", "first", holding(60))
    whole = user_slice(vm, "alice")
    assert whole.number("memory.max") == 96 * MIB
    killed_before = whole.counters("memory.events")["oom_kill"]
    eventually(lambda: whole.number("memory.current") > 60 * MIB, "the first holds its memory", 60)
    run(vm, "alice", "second", holding(60))
    eventually(lambda: whole.counters("memory.events")["oom_kill"] > killed_before, "the kernel kills one", 60)
    assert whole.number("memory.current") <= 96 * MIB
    for name in ("first", "second"):
        own = scope(vm, name)
        assert own.number("memory.max") == 80 * MIB
        assert own.counters("memory.events")["max"] == 0  # neither ever met its own limit
