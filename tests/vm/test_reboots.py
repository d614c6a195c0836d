"""Limits across a reboot and a power cut: there before anything runs, and each the old one or the new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from lib.people import ENGINE, POLICY, eventually, policy_text, set_policy
from machine import disklog
from machine.cgroups import scope, user_slice
from machine.vm import RunningVm

MIB = 2**20
KEPT, PUBLISHED = "/var/lib/ds01/policy.json", "/run/ds01/policy.json"
DS01 = "/sys/fs/cgroup/ds01.slice"
LIMITS = ("memory.max", "memory.high", "cpu.max", "pids.max")
OWN = " ".join(f"/sys/fs/cgroup/{name}" for name in LIMITS)

# Runs before dockerd is first started, and so before any container: what the kernel holds at that time, and by which
# policy. What goes wrong in it must not keep dockerd waiting for better times.
WITNESS = f"""\
[Service]
ExecStartPre=-/bin/sh -c 'cd {DS01}; [ -e /run/witness ] || grep . */*/*.max */*/*.high >/run/witness'
ExecStartPre=-/bin/sh -c '[ -e /run/witness.policy ] || cp {KEPT} /run/witness.policy'
"""


@dataclass(frozen=True, slots=True)
class Version:
    """One of two policies, and what the kernel's files say under it. Memory in MiB."""

    memory: int
    pids: int
    cpu_percent: int

    def changes(self) -> dict[str, object]:
        """Values of the YAML by path."""
        student: Mapping[str, object] = {
            "memory": f"{self.memory}MiB",
            "pids_limit": self.pids,
            "max_cpus": self.cpu_percent / 100,
            "aggregate.memory_max": f"{2 * self.memory}MiB",
            "aggregate.memory_high": f"{self.memory}MiB",
            "aggregate.tasks_max": 2 * self.pids,
            "aggregate.cpu_quota": f"{self.cpu_percent + 10}%",
        }
        return {f"groups.student.{name}": value for name, value in student.items()}

    def of_container(self) -> dict[str, str]:
        """A container's limits."""
        return self._limits(self.memory, "max", self.pids, self.cpu_percent)

    def of_slice(self) -> dict[str, str]:
        """A user's limits."""
        return self._limits(2 * self.memory, str(self.memory * MIB), 2 * self.pids, self.cpu_percent + 10)

    @staticmethod
    def _limits(memory: int, high: str, pids: int, cpu_percent: int) -> dict[str, str]:
        cpu = f"{cpu_percent * 1000} 100000"
        return {"memory.max": str(memory * MIB), "memory.high": high, "cpu.max": cpu, "pids.max": str(pids)}


def start_one_that_comes_back(vm: RunningVm) -> None:
    """A container that tells its own limits first, at every start; and a witness of what holds before."""
    script = f"trap exit TERM; cat {OWN}; echo; sleep infinity & wait"
    vm.run("alice", ["docker", "run", "-d", "--restart", "always", "--name", "phoenix", "busybox", "sh", "-c", script])
    vm.root("mkdir -p /etc/systemd/system/docker.service.d")
    vm.write("/etc/systemd/system/docker.service.d/99-witness.conf", WITNESS)


def witnessed(vm: RunningVm) -> dict[str, str]:
    """alice's limits before dockerd was started."""
    folder = f"{user_slice(vm, 'alice').path.partition('/')[2]}/"
    pairs = (line.split(":", 1) for line in vm.read("/run/witness").splitlines())
    found = {path.removeprefix(folder): value for path, value in pairs if path.startswith(folder)}
    return {name: found.get(name, "none was there") for name in LIMITS}


def told(vm: RunningVm) -> list[dict[str, str]]:
    """What the container told of its limits, start by start."""
    said = vm.root(["docker", "-H", ENGINE, "logs", "phoenix"]).out
    starts = said.strip().split("\n\n")
    return [dict(zip(LIMITS, start.splitlines(), strict=True)) for start in starts]


def is_kept(vm: RunningVm) -> bool:
    """Whether the policy in force is the one that the next boot finds."""
    return vm.root(["cmp", "--quiet", PUBLISHED, KEPT], check=False).status == 0


def test_what_restarts_at_boot_finds_its_limits(vm: RunningVm) -> None:
    version = Version(memory=90, pids=66, cpu_percent=70)
    set_policy(vm, version.changes())
    start_one_that_comes_back(vm)
    eventually(lambda: is_kept(vm), "the policy is kept for the next boot", 30)
    vm.reboot()
    assert witnessed(vm) == version.of_slice()
    eventually(lambda: len(told(vm)) == 2, "the container has started again", 60)
    assert told(vm)[1] == version.of_container()
    assert scope(vm, "phoenix").path.startswith(f"{user_slice(vm, 'alice').path}/")


def test_what_was_not_flushed_is_lost_with_the_power(vm: RunningVm) -> None:
    marks = [f"{number}-mark" for number in range(5)]
    vm.root("head -c 4096 /dev/zero >/var/lib/mark && sync")

    def is_durable(mark: str) -> bool:
        return any(mark.encode() in data for _, data in disklog.flushed(vm.places.writes))

    def is_lost(mark: str) -> bool:
        vm.root(f"printf %4096s {mark} | dd of=/var/lib/mark bs=4096 iflag=fullblock oflag=direct conv=notrunc")
        return not is_durable(mark)

    assert any(is_lost(mark) for mark in marks)  # the disk may be flushed for others' sake at any time
    vm.root("printf %4096s the-last >/var/lib/mark && sync")
    assert is_durable("the-last")


def test_a_power_cut_amid_edits_leaves_the_old_or_the_new(vm: RunningVm) -> None:
    versions = {"a": Version(memory=100, pids=80, cpu_percent=50), "b": Version(memory=160, pids=120, cpu_percent=90)}
    texts = {name: policy_text(vm, version.changes()) for name, version in versions.items()}
    compiled: dict[str, str] = {}
    for name, version in versions.items():
        vm.write(f"/root/{name}.yaml", texts[name])
        set_policy(vm, version.changes())
        eventually(lambda: is_kept(vm), "the policy is kept", 30)
        compiled[name] = vm.read(KEPT)
    start_one_that_comes_back(vm)
    vm.root("sync")
    begin = vm.now_s()
    put = f"cp /root/$v.yaml {POLICY}~ && sync {POLICY}~ && mv {POLICY}~ {POLICY} && sync $(dirname {POLICY})"
    vm.root(["systemd-run", "--unit=editor", "sh", "-c", f"while :; do for v in a b; do {put}; done; done"])
    often = partial(vm.journal, "DS01_EVENT=policy.published", since_s=begin)
    eventually(lambda: len(often()) >= 5, "the policy is published again and again", 60)
    vm.cut_power()
    assert witnessed(vm) in [version.of_slice() for version in versions.values()]
    assert vm.read("/run/witness.policy") in compiled.values()
    (now,) = [version for name, version in versions.items() if vm.read(POLICY) == texts[name]]
    eventually(lambda: user_slice(vm, "alice").limits() == now.of_slice(), "the slice follows the file", 60)
    eventually(lambda: scope(vm, "phoenix").limits() == now.of_container(), "the container follows the file", 60)
    assert "phoenix" in vm.run("alice", ["docker", "ps", "--format", "{{.Names}}"]).out
