"""Runs on the host as root: pairs of commands, taken in turns, medians compared. Prints rows as JSON."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

SHIM, ENGINE = "unix:///run/docker.sock", "unix:///run/ds01-engine/engine.sock"
DAEMONS = ("ds01-gpu-allocator", "ds01-docker-shim", "ds01-limits-sync", "ds01-nvml")
Row = dict[str, object]


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def pair(name: str, ours: Callable[[], object], against: str, bare: Callable[[], object], times: int = 15) -> Row:
    """One row: the medians of `ours` and `bare`, taken in turns, and their ratio."""
    ours(), bare()
    samples = [(timed(ours), timed(bare)) for _ in range(times)]
    own, other = (statistics.median(column) for column in zip(*samples, strict=True))
    return {"name": name, "value": own * 1000, "unit": "ms", "against": against, "ratio": own / other}


def command(*argv: str, host: str = SHIM) -> Callable[[], object]:
    """A command as a whole process."""
    environment = {**os.environ, "DOCKER_HOST": host}
    return lambda: subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)


def ping(path: str) -> Callable[[], object]:
    """One GET /_ping on a connection of its own."""

    def work() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path.removeprefix("unix://"))
            connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass

    return work


def explain() -> None:
    """One Varlink call."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/run/ds01/allocator.sock")
        connection.sendall(b'{"method":"io.ds01.Allocator.Explain","parameters":{"count":1}}\0')
        received = b""
        while not received.endswith(b"\0"):
            received += connection.recv(65536)


def two_syncs() -> None:
    """Two bare appends with fdatasync on the ledger's file system: the least a durable grant and release can cost."""
    with open("/var/lib/ds01/bench", "ab") as file:
        for _ in range(2):
            file.write(b"x" * 200)
            file.flush()
            os.fdatasync(file.fileno())


def memory() -> list[Row]:
    """Resident memory of each daemon."""
    rows: list[Row] = []
    for unit in DAEMONS:
        pid = subprocess.check_output(["systemctl", "show", "-P", "MainPID", unit], text=True).strip()
        with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
            kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        rows.append({"name": f"memory of {unit}", "value": kib / 1024, "unit": "MiB", "against": "", "ratio": None})
    return rows


def main(run: Sequence[str] = ("docker", "run", "--rm", "busybox", "true")) -> None:
    """All rows."""
    deploy = ("sh", "-c", "container deploy bench --image busybox -d && container retire --force bench")
    by_hand = ("sh", "-c", "docker run -d --name bare busybox sleep infinity && docker rm -f bare")
    rows = [
        pair("docker run --rm", command(*run), "straight at the engine", command(*run, host=ENGINE), 10),
        pair("docker ps", command("docker", "ps"), "straight at the engine", command("docker", "ps", host=ENGINE)),
        pair("_ping", ping(SHIM), "straight at the engine", ping(ENGINE), 200),
        pair(
            "container deploy + retire, one GPU",
            command(*deploy),
            "docker run + rm, engine",
            command(*by_hand, host=ENGINE),
            6,
        ),
        pair("container list", command("container", "list"), "docker ps, engine", command("docker", "ps", host=ENGINE)),
        pair("ds01 status", command("ds01", "status"), "docker ps, engine", command("docker", "ps", host=ENGINE)),
        pair("Explain over the socket", explain, "two fdatasync appends", two_syncs, 100),
        *memory(),
    ]
    os.unlink("/var/lib/ds01/bench")
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
