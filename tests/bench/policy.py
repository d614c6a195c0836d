"""Runs on the host as root, with the services' own Python: how fast the policy is read and how soon it holds.

Prints rows as JSON. The slices are those of users without an account, whose limits are those of the group that their
slice was made for; they are gone when the bench host is.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import yaml

from ds01.common.adapters.yamltree import read_tree
from ds01.common.engine import Engine
from ds01.common.limits import parse_policy
from ds01.common.machine import read_machine
from ds01.common.policy.build import build
from ds01.common.policy.tree import Files
from ds01.limits_sync.cgroupfs import Cgroups
from ds01.limits_sync.containers import Containers
from ds01.limits_sync.devicelinks import missing_links
from ds01.limits_sync.pendings import Pendings

POLICY = Path("/etc/ds01/resource-limits.yaml")
STATE = Path("/var/lib/ds01/slices.json")
TRANSIENT = Path("/run/systemd/transient")
USERS, SLICES, CONTAINERS, SAVES = 500, 100, 20, 60
SETTLED_S, IDLE_S = 3.0, 30.0
Row = dict[str, object]


class Silent:
    """A log for a measurement."""

    def emit(self, event: object) -> None:
        """Nothing."""


def policy_text(tasks_max: int) -> str:
    """A policy with limits of their own for 500 users."""
    users = "".join(
        f"  user{number}:\n    memory: 256MiB\n    max_cpus: 0.5\n    max_runtime: 48h\n    pids_limit: 512\n"
        f"    aggregate: {{memory_max: 512MiB, cpu_quota: 100%, tasks_max: {tasks_max}}}\n"
        for number in range(USERS)
    )
    members = ", ".join(f"user{number}" for number in range(USERS))
    return f"groups:\n  student:\n    members: [{members}]\nuser_overrides:\n{users}"


def save(text: str) -> None:
    """As an editor does."""
    scratch = POLICY.with_name(".resource-limits.yaml.swp")
    scratch.write_text(text)
    scratch.rename(POLICY)


def tasks_file(number: int) -> Path:
    """Where systemd keeps the TasksMax that was set of a user's slice."""
    return TRANSIENT / f"ds01-student-user{number}.slice.d/50-TasksMax.conf"


def holds(number: int, tasks_max: int) -> bool:
    """Whether systemd has the limit."""
    try:
        return f"TasksMax={tasks_max}\n" in tasks_file(number).read_text()
    except OSError:
        return False


def until_all_hold(numbers: range, tasks_max: int) -> float:
    """Seconds from a save until every one of the slices has the limit."""
    text = policy_text(tasks_max)
    begun = time.perf_counter()
    save(text)
    for number in numbers:
        while not holds(number, tasks_max):
            time.sleep(0.001)
    return time.perf_counter() - begun


def set_property(tasks_max: int) -> float:
    """The least that an administrator's own command takes."""
    unit = "ds01-bare.slice"
    begun = time.perf_counter()
    subprocess.run(["systemctl", "set-property", "--runtime", unit, f"TasksMax={tasks_max}"], check=True)
    return time.perf_counter() - begun


def make_slices(count: int) -> None:
    """Let limits_sync make the slices of so many users."""
    owners = [{"uid": 70_000 + number, "user": f"user{number}", "group": "student"} for number in range(count)]
    STATE.write_text(json.dumps(owners))
    save(policy_text(1000))
    subprocess.run(["systemctl", "restart", "ds01-limits-sync"], check=True)


def row(name: str, value: float, unit: str, against: str = "", ratio: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}


def save_rows() -> list[Row]:
    """One user, then a hundred slices at once."""
    subprocess.run(["systemctl", "start", "ds01-bare.slice"], check=True)
    bare = statistics.median(set_property(1000 + number) for number in range(15))
    make_slices(1)
    one = sorted(until_all_hold(range(1), 2000 + number) for number in range(SAVES))
    make_slices(SLICES)
    many = sorted(until_all_hold(range(SLICES), 3000 + number) for number in range(5))
    against = "systemctl set-property"
    return [
        row("save to limit set, one user, median", one[SAVES // 2] * 1000, "ms", against, one[SAVES // 2] / bare),
        row("save to limit set, one user, p99", one[-1] * 1000, "ms", against, one[-1] / bare),
        row(f"save to limit set, {SLICES} slices of {USERS} users, worst", many[-1] * 1000, "ms", against,
            many[-1] / bare),
    ]  # fmt: skip


def parse_row() -> Row:
    """Reading and checking a large policy, against merely parsing its YAML."""
    untrusted = policy_text(1000).encode()
    files, machine = Files("resource-limits.yaml", untrusted, {}), read_machine()

    def timed(work: object) -> float:
        begun = time.perf_counter()
        assert callable(work)
        work()
        return time.perf_counter() - begun

    ours = statistics.median(timed(lambda: build(files, read_tree, machine)) for _ in range(9))
    bare = statistics.median(timed(lambda: yaml.load(untrusted, yaml.CSafeLoader)) for _ in range(9))
    return row(f"read and check a policy of {USERS} users", ours * 1000, "ms", "yaml.CSafeLoader", ours / bare)


def container_row() -> Row:
    """Looking at containers after a change, against asking the engine for its list."""
    environment = {**os.environ, "DOCKER_HOST": "unix:///run/docker.sock"}
    create = ["docker", "create", "--name"]
    for number in range(CONTAINERS):
        subprocess.run([*create, f"b{number}", "busybox", "true"], env=environment, check=True, capture_output=True)
    policy = parse_policy(Path("/run/ds01/policy.json").read_text())
    group = policy.groups[policy.default_group]
    engine = Engine()
    pendings = Pendings(Path("/run/ds01/bench.json"))
    containers = Containers(
        engine, Cgroups(), pendings, Silent(), lambda uid: ("bench", group.name, group.limits), missing_links
    )

    async def both() -> tuple[float, float]:
        begun = time.perf_counter()
        await containers.refresh_all()
        middle = time.perf_counter()
        await engine.request("GET", "/containers/json", {"all": "1"})
        return middle - begun, time.perf_counter() - middle

    samples = [asyncio.run(both()) for _ in range(9)]
    ours, bare = (statistics.median(column) for column in zip(*samples, strict=True))
    return row(f"look at {CONTAINERS} containers after a change", ours * 1000, "ms", "the engine's list", ours / bare)


def idle_row() -> Row:
    """How often limits_sync wakes while nothing changes; the watchdog alone is four times a minute."""
    pid = subprocess.check_output(["systemctl", "show", "-P", "MainPID", "ds01-limits-sync"], text=True).strip()

    def switches() -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))

    time.sleep(SETTLED_S)
    before = switches()
    time.sleep(IDLE_S)
    return row("wake-ups of ds01-limits-sync while nothing changes", (switches() - before) * 60 / IDLE_S, "/min")


def memory_row() -> Row:
    """What limits_sync keeps in memory after many large policies."""
    pid = subprocess.check_output(["systemctl", "show", "-P", "MainPID", "ds01-limits-sync"], text=True).strip()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return row(f"memory of ds01-limits-sync, {USERS} users, {SLICES} slices", kib / 1024, "MiB")


if __name__ == "__main__":
    rows = [parse_row(), *save_rows(), container_row(), memory_row(), idle_row()]
    json.dump(rows, sys.stdout)
