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


def ledger(host: Machine, query: str) -> list[list[Any]]:
    """Rows of the ledger, read beside the allocator."""
    script = (
        "import json, sqlite3, sys; c = sqlite3.connect('file:/var/lib/ds01/ledger.sqlite?mode=ro', uri=True);"
        "print(json.dumps(c.execute(sys.argv[1]).fetchall()))"
    )
    return list(json.loads(host.root(["python3", "-c", script, query]).out))


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
