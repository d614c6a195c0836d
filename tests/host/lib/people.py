"""What host tests do again and again: look at units and leases, shorten a policy, take everything away, count leaks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lib.running import Machine

POLICY = "/etc/ds01/resource-limits.yaml"
SHIPPED_POLICY = "/usr/share/ds01/resource-limits.yaml"
ENGINE = "unix:///run/ds01-engine/engine.sock"
DAEMONS = ("ds01-gpu-allocator", "ds01-docker-shim", "ds01-limits-sync", "ds01-nvml")
SLEEP = ("sleep", "infinity")
COMMON_NODES = frozenset({"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"})


def overview(host: Machine, user: str = "ada") -> dict[str, Any]:
    """`ds01 status --json` as `user` sees it."""
    return dict(json.loads(host.run(user, ["ds01", "status", "--json"]).out))


def held(host: Machine, user: str = "ada") -> dict[str, dict[str, Any]]:
    """Units that somebody holds, by name."""
    return {unit["name"]: unit for unit in overview(host, user)["units"] if unit["state"] not in ("free", "withheld")}


def mine(host: Machine, user: str) -> list[str]:
    """Names of the units that `user` holds."""
    return [name for name, unit in held(host, user).items() if unit["mine"]]


def docker_run(host: Machine, user: str, name: str, *options: str, image: str = "busybox") -> str:
    """A container in the background; its id."""
    return host.run(user, ["docker", "run", "-d", "--name", name, *options, image, *SLEEP]).out.strip()


def pid_of(host: Machine, container: str) -> int:
    """The host's pid of a container's first process."""
    shown = host.root(["docker", "-H", ENGINE, "inspect", "-f", "{{.State.Pid}}", container])
    return int(shown.out)


def inspect(host: Machine, container: str) -> dict[str, Any]:
    """What the engine itself says of a container."""
    shown = host.root(["docker", "-H", ENGINE, "inspect", container])
    return dict(json.loads(shown.out)[0])


def gpu_nodes(host: Machine, container: str) -> set[str]:
    """The GPU device nodes that a container's first process really sees, judged on the host."""
    pid = pid_of(host, container)
    found = host.root(f"find /proc/{pid}/root/dev -name 'nvidia*' -not -type d | sed s,/proc/{pid}/root,,")
    return set(found.out.split())


def nodes_by_unit(host: Machine) -> dict[str, frozenset[str]]:
    """The device nodes that make up each unit now, as the driver says: whole GPUs `2`, instances `0:1`."""
    site = json.loads(host.root(["fakegpu", "status", "--json"]).out)
    found: dict[str, frozenset[str]] = {}
    for gpu in site["gpus"]:
        node = f"/dev/nvidia{gpu['minor']}"
        own = [one for one in site["instances"] if one["gpu"] == gpu["index"]]
        for number, one in enumerate(own):
            caps = {f"/dev/nvidia-caps/nvidia-cap{one[key]}" for key in ("gicap", "cicap")}
            found[f"{gpu['index']}:{number}"] = frozenset({node, *caps})
        if not gpu["mig"]:
            found[str(gpu["index"])] = frozenset({node})
    return found


def real_units(host: Machine, container: str) -> list[str]:
    """The units whose nodes a container's first process has, and that it has no other GPU node."""
    has = gpu_nodes(host, container)
    units = nodes_by_unit(host)
    found = sorted(name for name, nodes in units.items() if nodes <= has)
    meant = {node for name in found for node in units[name]}
    assert has - COMMON_NODES == meant, f"'{container}' has nodes of no unit, or a part of one: {sorted(has)}"
    return found


def heal(host: Machine) -> None:
    """Every simulated GPU well again, cut as /etc/fakegpu/site says."""
    host.root("fakegpu boot && fakegpu mig-apply")


def ledger(host: Machine, query: str) -> list[list[Any]]:
    """Rows of the ledger, read beside the allocator."""
    script = (
        "import json, sqlite3, sys; c = sqlite3.connect('file:/var/lib/ds01/ledger.sqlite?mode=ro', uri=True);"
        "print(json.dumps(c.execute(sys.argv[1]).fetchall()))"
    )
    return list(json.loads(host.root(["python3", "-c", script, query]).out))


def leases(host: Machine, *, user: str = "") -> list[tuple[str, str, str, str]]:
    """Leases that hold units, by unit: (unit, user, kind, state), as the ledger has them. Quick."""
    rows = ledger(
        host, "SELECT u.name, l.user, l.kind, l.state FROM lease_unit u JOIN lease l ON l.id = u.lease ORDER BY u.name"
    )
    return [(str(row[0]), str(row[1]), str(row[2]), str(row[3])) for row in rows if user in ("", row[1])]


OPENABLE = """for n in $(find /dev -name 'nvidia*' -not -type d); do
e=$({ : <$n; } 2>&1); case $e in *"not permitted"*) ;; *) echo $n;; esac; done"""
"""A script for sh: the GPU nodes that the device filter lets it open. The fake's nodes have no driver behind them."""


def unit_nodes(host: Machine, *units: str) -> set[str]:
    """All device nodes that belong to whoever has these units: theirs, and those that all GPUs share."""
    nodes = nodes_by_unit(host)
    return set(COMMON_NODES).union(*(nodes[unit] for unit in units))


def end_programs(host: Machine) -> None:
    """End all programs and grants, and what the fake driver lists of processes."""
    end = "systemctl kill -s KILL 'ds01-l*.scope' 2>/dev/null; fakegpu process clear"
    host.root(f"{end}; for gpu in 0 1 2 3; do fakegpu ok $gpu; done")
    open_now = ledger(host, "SELECT id FROM lease WHERE kind = 'login' AND state = 'active'")
    if open_now:
        host.run("ada", "; ".join(f"ds01 grant --end {lease}" for (lease,) in open_now), check=False)
        host.root(["systemctl", "restart", "ds01-gpu-allocator.service"])  # it looks at once, not in ten seconds


def policy_text(host: Machine, changes: Mapping[str, object]) -> str:
    """The host's YAML with other values, by path: `groups.student.aggregate.memory_max`."""
    raw = yaml.safe_load(host.read(POLICY))
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return yaml.safe_dump(raw, sort_keys=False)


def set_policy(host: Machine, changes: Mapping[str, object]) -> None:
    """Change values of the host's YAML, by path, and wait until that is in force. `wipe` puts the shipped one back."""
    host.write(f"{POLICY}.new", policy_text(host, changes))
    host.root(f"mv {POLICY}.new {POLICY} && systemctl reload ds01-limits-sync.service")


def wipe(host: Machine) -> None:
    """Take all containers away and wait until every unit is free; the shipped policy is in force again."""
    host.root(f"rm -rf {POLICY}* /etc/ds01/groups/*; cp {SHIPPED_POLICY} {POLICY}")
    host.root(["systemctl", "start", "docker.service", "ds01.target", *(f"{name}.service" for name in DAEMONS)])
    host.root(f"docker -H {ENGINE} ps -aq | xargs -r docker -H {ENGINE} rm -fv; systemctl reload ds01-limits-sync")
    eventually(lambda: not held(host), "every unit is free", 30)


def eventually(holds: Callable[[], object], claim: str, within_s: float = 15) -> None:
    """Wait until something holds.

    Raises:
        AssertionError: it still does not after `within_s` seconds.
    """
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {claim}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Belongings:
    """What can be leaked: everything here must be the same before and after."""

    leases: frozenset[str]
    scopes: int
    containers: int
    volumes: int
    mounts: int
    descriptors: tuple[int, ...]


def belongings(host: Machine) -> Belongings:
    """What there is now. Descriptors are those of shim, allocator, limits_sync and nvml."""
    count = host.root(
        f"docker -H {ENGINE} ps -aq | wc -l; docker -H {ENGINE} volume ls -q | wc -l;"
        "systemctl list-units --no-legend --all 'docker-*.scope' | wc -l; grep -c overlay /proc/mounts; "
        + "; ".join(f"ls /proc/$(systemctl show -P MainPID {name})/fd | wc -l" for name in DAEMONS),
        check=False,
    )
    containers, volumes, scopes, mounts, *descriptors = (int(line) for line in count.out.split())
    return Belongings(frozenset(held(host)), scopes, containers, volumes, mounts, tuple(descriptors))


def leaks(before: Belongings, after: Belongings) -> list[str]:
    """What is more than before; a couple of descriptors may be libraries warming up."""
    found = [
        f"{name}: {getattr(before, name)} → {getattr(after, name)}"
        for name in ("leases", "scopes", "containers", "volumes", "mounts")
        if getattr(after, name) != getattr(before, name)
    ]
    pairs = zip(DAEMONS, before.descriptors, after.descriptors, strict=True)
    return found + [f"descriptors of {name}: {old} → {new}" for name, old, new in pairs if new > old + 3]
