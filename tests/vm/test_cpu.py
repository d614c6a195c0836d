"""CPU time: a quota that throttles, and shares among users who all want everything. Judged by the kernel's counters."""

from __future__ import annotations

from lib.people import eventually, set_policy
from lib.running import said
from machine.cgroups import Cgroup, counters, scope, user_slice
from machine.vm import RunningVm, VmSession

PERIOD_USEC = 100_000
SPIN = "while :; do :; done"


def spin(vm: RunningVm, user: str, name: str, processes: int, *options: str) -> VmSession:
    """Starts a container that uses all the CPU that it gets."""
    script = f"{SPIN} & " * (processes - 1) + SPIN
    return vm.start(user, ["docker", "run", "-d", "--name", name, *options, "busybox", "sh", "-c", script])


def wait(*starts: VmSession) -> None:
    """Until they are all started."""
    for start in starts:
        out, err = start.communicate(timeout=120)
        assert start.returncode == 0, said(out, err)


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


def test_quotas_throttle_a_container_and_all_of_a_users_together(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.max_cpus": 2, "groups.student.aggregate.cpu_quota": "60%"})
    wait(spin(vm, "alice", "first", 1), spin(vm, "alice", "second", 1), spin(vm, "bob", "one", 2, "--cpus", "0.4"))
    whole, own = user_slice(vm, "alice"), scope(vm, "one")
    assert whole.read("cpu.max") == {"cpu.max": f"60000 {PERIOD_USEC}"}
    assert own.read("cpu.max") == {"cpu.max": f"40000 {PERIOD_USEC}"}
    for cgroup, least, most in ((whole, 0.4, 0.66), (own, 0.25, 0.44)):
        cpus, throttled = share_of_quota(cgroup)
        assert throttled >= 20
        assert least < cpus < most


def test_a_busy_user_leaves_another_his_half(vm: RunningVm) -> None:
    set_policy(vm, {"groups.student.max_cpus": 2, "groups.student.aggregate.cpu_quota": "unlimited"})
    wait(spin(vm, "alice", "many", 4), spin(vm, "alice", "more", 4), spin(vm, "bob", "few", 2))
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
