"""The kernel's own word on limits and use: files below /sys/fs/cgroup in the VM."""

from __future__ import annotations

from dataclasses import dataclass

from lib import people
from lib.running import Machine

ROOT = "/sys/fs/cgroup"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup. `path` is below the hierarchy's root, without a leading '/'."""

    machine: Machine
    path: str

    def read(self, *names: str) -> dict[str, str]:
        """What stands in some of its files, all read in one go."""
        script = 'cd "$1"; shift; for name; do echo "$name $(tr "\\n" ";" <"$name")"; done'
        out = self.machine.root(["sh", "-ec", script, "sh", f"{ROOT}/{self.path}", *names]).out
        pairs = (line.partition(" ") for line in out.splitlines())
        return {name: text.removesuffix(";") for name, _, text in pairs}

    def limits(self) -> dict[str, str]:
        """Its limits."""
        return self.read("memory.max", "memory.high", "cpu.max", "pids.max")

    def number(self, name: str) -> int:
        """A file with one number."""
        return int(self.read(name)[name])

    def counters(self, name: str) -> dict[str, int]:
        """A file with a name and a number on each line."""
        return counters(self.read(name)[name])


def counters(text: str) -> dict[str, int]:
    """Names and numbers of a file that `Cgroup.read` gave."""
    pairs = (line.split() for line in text.split(";"))
    return {name: int(number) for name, number in pairs}


def user_slice(machine: Machine, user: str, group: str = "student") -> Cgroup:
    """The slice of all containers of a user."""
    return Cgroup(machine, f"ds01.slice/ds01-{group}.slice/ds01-{group}-{user}.slice")


def scope(machine: Machine, container: str) -> Cgroup:
    """The scope of a running container."""
    pid = people.pid_of(machine, container)
    line = machine.read(f"/proc/{pid}/cgroup").strip()
    return Cgroup(machine, line.removeprefix("0::/").removesuffix("/init.scope"))


def login_slice(machine: Machine, uid: int) -> Cgroup:
    """The slice of a user's login sessions."""
    return Cgroup(machine, f"user.slice/user-{uid}.slice")
