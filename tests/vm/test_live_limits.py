"""An edited policy holds for what runs already: in the kernel's files, and in what the engine tells of a container."""

from __future__ import annotations

from lib.people import POLICY, docker_run, eventually, inspect, policy_text, set_policy
from machine.cgroups import Cgroup, scope, user_slice
from machine.vm import RunningVm

MIB = 2**20
STUDENT = "groups.student."


def edit(vm: RunningVm, changes: dict[str, object]) -> None:
    """Save the YAML as an editor does, and tell nobody."""
    vm.write(f"{POLICY}~", policy_text(vm, {f"{STUDENT}{name}": value for name, value in changes.items()}))
    vm.root(["mv", f"{POLICY}~", POLICY])


def limits(memory: int, high: int | None, cpu_percent: int, tasks: int) -> dict[str, str]:
    """What the kernel's files say then; memory in MiB."""
    return {
        "memory.max": str(memory * MIB),
        "memory.high": "max" if high is None else str(high * MIB),
        "cpu.max": f"{cpu_percent * 1000} 100000",
        "pids.max": str(tasks),
    }


def test_an_edit_changes_what_runs(vm: RunningVm) -> None:
    docker_run(vm, "alice", "plain")
    docker_run(vm, "alice", "asked", "--memory", "50m", "--pids-limit", "30")
    own, asked, whole = scope(vm, "plain"), scope(vm, "asked"), user_slice(vm, "alice")
    for memory, cpus, tasks in ((100, 1.5, 222), (60, 0.5, 111), (200, 1.0, 333)):
        aggregate = {"memory_max": f"{2 * memory}MiB", "memory_high": f"{memory}MiB", "cpu_quota": "120%"}
        edit(
            vm,
            {"memory": f"{memory}MiB", "max_cpus": cpus, "pids_limit": tasks}
            | {f"aggregate.{name}": value for name, value in aggregate.items()}
            | {"aggregate.tasks_max": 2 * tasks},
        )
        wanted = limits(memory, None, round(100 * cpus), tasks)
        eventually(lambda wanted=wanted: own.limits() == wanted, f"the container has {wanted}", 30)
        assert whole.limits() == limits(2 * memory, memory, 120, 2 * tasks)
        assert inspect(vm, "plain")["HostConfig"]["Memory"] == memory * MIB
        assert asked.limits() == limits(50, None, round(100 * cpus), 30)  # less was asked for, and stays


def test_memory_in_use_is_left_alone_for_the_grace(vm: RunningVm) -> None:
    grace_s = 30
    set_policy(
        vm,
        {
            f"{STUDENT}memory": "200MiB",
            f"{STUDENT}aggregate.memory_max": "250MiB",
            "policies.shrink_grace": f"{grace_s}s",
        },
    )
    script = "dd if=/dev/zero bs=90M count=1 | sleep 1000"
    vm.run("alice", ["docker", "run", "-d", "--name", "holder", "busybox", "sh", "-c", script])
    own, whole = scope(vm, "holder"), user_slice(vm, "alice")
    eventually(lambda: own.number("memory.current") > 90 * MIB, "it holds 90 MiB", 60)
    killed_before = whole.counters("memory.events")["oom_kill"]
    begin = vm.now_s()
    lowered = {"memory": "50MiB", "max_cpus": 0.5, "pids_limit": 44}
    edit(vm, lowered | {"aggregate.memory_max": "60MiB", "aggregate.tasks_max": 55, "aggregate.cpu_quota": "70%"})
    at_once = limits(200, None, 50, 44)
    eventually(lambda: own.limits() == at_once, f"all but memory holds for the container: {at_once}", 20)
    assert whole.limits() == limits(250, 54, 70, 55)
    assert vm.now_s() < begin + grace_s
    (postponed, *_) = vm.journal("DS01_EVENT=limits.postponed", since_s=begin)
    assert postponed["DS01_USER"] == "alice"
    assert whole.counters("memory.events")["oom_kill"] == killed_before
    eventually(lambda: whole.number("memory.max") == 60 * MIB, "the slice's memory follows", grace_s + 30)
    assert vm.now_s() >= begin + grace_s
    eventually(lambda: whole.counters("memory.events")["oom_kill"] > killed_before, "and the kernel kills", 30)


def test_the_machines_parts_and_groups_have_their_limits(vm: RunningVm) -> None:
    parts = {"engine": "docker.slice", "jobs": "system.slice/cron.service"}
    changes: dict[str, object] = {}
    for number, key in enumerate((*parts, "groups.student.total"), 1):
        changes |= {f"{key}.memory_max": f"{1000 + number}MiB", f"{key}.memory_high": "900MiB"}
        changes |= {f"{key}.cpu_quota": f"{150 + number}%", f"{key}.tasks_max": 3000 + number}
    docker_run(vm, "alice", "plain")
    set_policy(vm, changes | {"reserve.memory": "1000MiB", "reserve.cpus": 0.5})
    group = user_slice(vm, "alice").path.rpartition("/")[0]
    for number, path in enumerate((*parts.values(), group), 1):
        assert Cgroup(vm, path).limits() == limits(1000 + number, 900, 150 + number, 3000 + number)
    memory_kib = int(vm.root("grep MemTotal: /proc/meminfo").out.split()[1])
    everybody = Cgroup(vm, "ds01.slice").read("memory.max", "cpu.max")
    assert abs(int(everybody["memory.max"]) - (memory_kib * 1024 - 1000 * MIB)) < MIB
    assert everybody["cpu.max"] == "150000 100000"


def test_what_is_changed_by_hand_comes_back(vm: RunningVm) -> None:
    docker_run(vm, "alice", "plain")
    whole = user_slice(vm, "alice")
    before = whole.limits()
    name = whole.path.rpartition("/")[2]
    vm.root(["systemctl", "set-property", "--runtime", name, "MemoryMax=infinity", "TasksMax=9", "CPUQuota="])
    eventually(lambda: whole.limits() == before, f"the slice has {before} again", 30)
