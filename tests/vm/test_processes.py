"""Processes: a fork bomb ends at the limit of its owner's slice, and everybody else works on."""

from __future__ import annotations

from lib.people import eventually, set_policy
from machine.cgroups import scope, user_slice
from machine.vm import RunningVm

BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
TASKS = 60


def test_a_fork_bomb_stops_at_its_users_slice_and_others_work_on(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.pids_limit": 500, "groups.student.aggregate.tasks_max": TASKS})
    vm.run("alice", ["docker", "run", "-d", "--name", "bomb", "debian", "python3", "-c", BOMB])
    whole, own = user_slice(vm, "alice"), scope(vm, "bomb")
    assert (own.number("pids.max"), whole.number("pids.max")) == (500, TASKS)
    eventually(lambda: whole.number("pids.current") >= TASKS - 1, "the bomb fills the slice", 60)
    refused = whole.counters("pids.events")["max"]
    done = vm.run("bob", ["docker", "run", "--rm", "busybox", "echo", "well"])
    assert done.out.strip() == "well"
    assert whole.counters("pids.events")["max"] > refused > 0  # it went off all the while
    assert whole.number("pids.peak") <= TASKS
    assert own.counters("pids.events")["max"] == 0
