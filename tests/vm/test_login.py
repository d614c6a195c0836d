"""Login sessions: a user's slice carries the policy's `login` limits, and what is started there is held by them."""

from __future__ import annotations

from lib.people import eventually, set_policy
from machine.cgroups import login_slice
from machine.vm import RunningVm

CAROL = 1003
MIB = 2**20


def test_a_login_has_its_limits_and_a_process_over_them_is_killed(vm: RunningVm) -> None:
    login = {"memory_max": "256MiB", "memory_high": "unlimited", "tasks_max": 77, "cpu_quota": "80%", "cpu_weight": 42}
    set_policy(vm, {f"groups.student.login.{name}": value for name, value in login.items()})
    vm.run("carol", ["true"])
    slice_ = login_slice(vm, CAROL)
    wanted = {"memory.max": f"{256 * MIB}", "memory.high": "max", "cpu.max": "80000 100000", "pids.max": "77"}
    eventually(lambda: slice_.limits() == wanted, f"a new login has {wanted}", 30)
    assert slice_.read("cpu.weight") == {"cpu.weight": "42"}
    set_policy(vm, {"groups.student.login.memory_max": "128MiB"})
    eventually(lambda: slice_.number("memory.max") == 128 * MIB, "one that is there already follows", 30)
    before = slice_.counters("memory.events")["oom_kill"]
    done = vm.run("carol", ["dd", "if=/dev/zero", "of=/dev/null", "bs=400M", "count=1"], check=False)
    assert done.status == 137
    assert slice_.counters("memory.events")["oom_kill"] == before + 1
    assert vm.run("carol", ["echo", "well"]).out == "well\n"
