"""Runs on the host as root, and believes nothing that DS01 says: which units does who really have, just now?

Prints JSON: `twice` are units with two holders that both live, `pids` the running containers' processes by name,
`without` are leases behind which nothing exists, `sound` is SQLite's word on the ledger.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

ENGINE = ("docker", "-H", "unix:///run/ds01-engine/engine.sock")
Holder = tuple[str, str, int]
"""The kind of holder, its name, and a process of it."""


def said(*argv: str) -> str:
    """What a command says; '' where it fails: the engine may be dead at the moment."""
    return subprocess.run(argv, capture_output=True, text=True).stdout


def is_own(node: str) -> bool:
    """Whether a node belongs to one unit alone: whole GPUs are the last ones of the test host."""
    return node.startswith("/dev/nvidia-caps/") or node in ("/dev/nvidia2", "/dev/nvidia3")


def containers() -> list[tuple[str, int]]:
    """Running containers, by name, with their first process."""
    ids = said(*ENGINE, "ps", "-q", "--no-trunc").split()
    lines = said(*ENGINE, "inspect", "-f", "{{.Name}} {{.State.Pid}}", *ids).splitlines() if ids else []
    return [(name.lstrip("/"), int(pid)) for name, pid in map(str.split, lines) if int(pid)]


def mounted(pid: int) -> set[str]:
    """The host's nodes in a container."""
    here = os.stat("/dev").st_dev
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return set()
    fields = [line.split(" ") for line in lines]
    return {f"/dev{one[3]}" for one in fields if one[2] == f"{os.major(here)}:{os.minor(here)}"}


def scopes() -> list[tuple[str, int, set[str]]]:
    """Programs in scopes of ours: name, a process, and the nodes that it may open."""
    found = []
    for line in said("systemctl", "list-units", "--plain", "--no-legend", "ds01-l*.scope").splitlines():
        name = line.split()[0]
        shown = said("systemctl", "show", name, "-p", "ControlGroup,DeviceAllow").splitlines()
        told = [text.partition("=")[2] for text in shown]
        group = next((text for text in told if text.endswith(".scope")), "")
        try:
            pids = Path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split()
        except OSError:
            continue
        if group and pids:
            found.append((name, int(pids[0]), {word for text in told for word in text.split() if is_own(word)}))
    return found


def twice() -> tuple[list[str], dict[str, int]]:
    """Nodes that two holders have who both lived through the whole look; containers' pids."""
    running = containers()
    holders: dict[str, list[Holder]] = {}
    for name, pid in running:
        for node in filter(is_own, mounted(pid)):
            holders.setdefault(node, []).append(("container", name, pid))
    for name, pid, nodes in scopes():
        for node in nodes:
            holders.setdefault(node, []).append(("program", name, pid))
    living = {node: [one for one in some if Path(f"/proc/{one[2]}").exists()] for node, some in holders.items()}
    return [f"{node}: {some}" for node, some in living.items() if len(some) > 1], dict(running)


def ledger() -> tuple[list[tuple[str, str, str]], bool, list[str]]:
    """Live leases as (id, kind, container); whether the file is whole; units with two of them."""
    file = sqlite3.connect("file:/var/lib/ds01/ledger.sqlite?mode=ro", uri=True, timeout=10)
    sound = file.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    leases = file.execute("SELECT id, kind, container FROM lease WHERE state != 'released'").fetchall()
    double = file.execute("SELECT unit FROM lease_unit GROUP BY unit HAVING count(*) > 1").fetchall()
    orphans = file.execute(
        "SELECT unit FROM lease_unit JOIN lease ON lease.id = lease WHERE state = 'released'"
    ).fetchall()
    return leases, sound, [str(row[0]) for row in double + orphans]


def without() -> list[str]:
    """Leases behind which nothing exists: no container that carries the label, no scope."""
    made = set(said(*ENGINE, "ps", "-a", "--format", '{{.Label "ds01.lease"}}').split())
    there = {name for name, *_ in scopes()}
    return [one for one, kind, _ in ledger()[0] if one not in made and f"ds01-{one}.scope" not in there]


def main(settled: str = "") -> None:
    """One look; `settled` asks for what is true only when nothing happens any more."""
    nodes, pids = twice()
    _, sound, units = ledger()
    found = {"twice": nodes + units, "pids": pids, "sound": sound, "without": without() if settled else []}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
