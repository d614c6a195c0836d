"""A GPU that a running container has stays its own, whatever is changed around it.

The nodes belong to no driver of this kernel, so that opening one fails in two ways: "No such device or address" came
past the container's device filter, "Operation not permitted" was stopped by it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lib.people import ENGINE, docker_run, eventually, gpu_nodes, set_policy
from machine.cgroups import Cgroup, scope
from machine.vm import RunningVm

ALLOWED, DENIED = "No such device or address", "Operation not permitted"
OPEN = 'echo $$ >"/sys/fs/cgroup/$1/cgroup.procs"; shift; for node; do (: <"$node") 2>&1; done; true'


def answers(vm: RunningVm, own: Cgroup) -> set[str]:
    """What a process in the container's cgroup is told when it opens the nodes that the container has."""
    nodes = gpu_nodes(vm, "gpu")
    lines = vm.root(["sh", "-c", OPEN, "sh", own.path, *nodes]).out.splitlines()
    assert len(lines) == len(nodes) == 6  # GPU, control node, UVM and its tools, two MIG capabilities
    return {line.rpartition(": ")[2] for line in lines}


@pytest.fixture
def own(vm: RunningVm) -> Iterator[Cgroup]:
    """The scope of a container that has a GPU. The links of device nodes come back afterwards."""
    docker_run(vm, "alice", "gpu", "--gpus", "1")
    vm.root("cp -a /dev/char /run/char-links")
    yield scope(vm, "gpu")
    vm.root("cp -a /run/char-links/. /dev/char/ && rm -r /run/char-links")


def test_a_gpu_survives_policy_update_reload_and_reexec(vm: RunningVm, own: Cgroup) -> None:
    assert answers(vm, own) == {ALLOWED}
    set_policy(vm, {"groups.student.max_cpus": 0.5, "groups.student.pids_limit": 321})
    eventually(lambda: own.number("pids.max") == 321, "the container follows the policy", 30)
    assert answers(vm, own) == {ALLOWED}
    for change in (
        f"docker -H {ENGINE} update --cpus 0.4 --pids-limit 123 gpu",
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
        "rm /dev/char/195:* /dev/char/42[01]:* && systemctl daemon-reload",
        f"docker -H {ENGINE} update --cpus 0.3 gpu && systemctl daemon-reload",
    ):
        vm.root(change)
        assert answers(vm, own) == {ALLOWED}, change
    assert own.number("pids.max") == 123
    vm.root(["systemctl", "set-property", "--runtime", own.path.rpartition("/")[2], "DeviceAllow="])
    assert answers(vm, own) == {DENIED}  # so there is a filter, and this is how its loss would look
