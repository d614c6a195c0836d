"""CPU time: a quota that throttles, and shares among users who all want everything. Judged by the kernel's counters."""

from __future__ import annotations

from lib.people import eventually, set_policy
from lib.running import Result
from machine.cgroups import Cgroup, counters, scope, user_slice
from machine.vm import RunningVm

PERIOD_USEC = 100_000
SPIN = "while :; do :; done"


def spin(vm: RunningVm, user: str, name: str, processes: int, *options: str) -> Result:
    """A container that uses all the CPU that it gets."""
    script = f"{SPIN} & " * (processes - 1) + SPIN
    return vm.run(user, ["docker", "run", "-d", "--name", name, *options, "busybox", "sh", "-c", script])


def share_of_quota(cgroup: Cgroup) -> tuple[float, int]:
    """CPUs used over some periods that the kernel enforced, and in how many of these it throttled."""
    first = cgroup.counters("cpu.stat")
    last = dict(first)

    def enough() -> bool:
        last.update(cgroup.counters("cpu.stat"))
        return last["nr_periods"] >= first["nr_periods"] + 40

    eventually(enough, "forty periods pass", 60)
    grown = {name: last[name] - first[name] for name in last}
    return grown["usage_usec"] / (grown["nr_periods"] * PERIOD_USEC), grown["nr_throttled"]


def test_a_users_quota_throttles_all_his_containers_together(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.max_cpus": 2, "groups.student.aggregate.cpu_quota": "60%"})
    spin(vm, "alice", "spin-1", 1)
    spin(vm, "alice", "spin-2", 1)
    whole = user_slice(vm, "alice")
    assert whole.read("cpu.max") == {"cpu.max": f"60000 {PERIOD_USEC}"}
    cpus, throttled = share_of_quota(whole)
    assert throttled >= 20
    assert 0.4 < cpus < 0.7


def test_a_containers_quota_throttles_it(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.max_cpus": 2, "groups.student.aggregate.cpu_quota": "unlimited"})
    spin(vm, "alice", "spin", 2, "--cpus", "0.4")
    cpus, throttled = share_of_quota(scope(vm, "spin"))
    assert throttled >= 20
    assert 0.25 < cpus < 0.5


def test_a_busy_user_leaves_another_his_half(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.max_cpus": 2, "groups.student.aggregate.cpu_quota": "unlimited"})
    spin(vm, "alice", "many-1", 4)
    spin(vm, "alice", "many-2", 4)
    spin(vm, "bob", "few", 2)
    slices = {user: user_slice(vm, user) for user in ("alice", "bob")}
    assert slices["alice"].read("cpu.weight") == slices["bob"].read("cpu.weight")

    def used() -> dict[str, int]:
        group = Cgroup(vm, slices["bob"].path.rpartition("/")[0])
        names = {user: f"{one.path.rpartition('/')[2]}/cpu.stat" for user, one in slices.items()}
        read = group.read(*names.values())
        return {user: counters(read[name])["usage_usec"] for user, name in names.items()}

    first = used()
    last = dict(first)

    def enough() -> bool:
        last.update(used())
        return sum(last.values()) - sum(first.values()) >= 8_000_000

    eventually(enough, "they have used eight seconds of CPU time", 120)
    share = (last["bob"] - first["bob"]) / (sum(last.values()) - sum(first.values()))
    assert 0.4 < share < 0.6  # of ten processes two are his: without weights it were a fifth
