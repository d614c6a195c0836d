"""Runs on the host as root, with the services' own Python: the allocator among many containers.

How soon it grants after a start and answers after SIGKILL, its memory, and what it costs while nothing happens. Prints
rows as JSON. The containers are real: made at the engine's own socket, with the labels that the shim gives them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asking import UID, Client, Row, become_the_shim, engine, row, timed

CREATED, RUNNING, LEASED, TIMES = 1000, 100, 50, 7
SETTLED_S, QUIET_S = 20.0, 60.0
UNIT = "ds01-gpu-allocator.service"


def make_container(number: int, lease: str) -> str:
    """A container as the shim makes one, behind a lease or behind one of the past; its id."""
    labels = {"ds01.uid": str(UID), "ds01.lease": lease, "ds01.gpus": "1", "ds01.user": "ada"}
    requests = [{"Driver": "cdi", "DeviceIDs": [f"ds01.io/gpu={lease if number < LEASED else 'none'}"]}]
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "infinity"],
        "Labels": labels,
        "HostConfig": {"NetworkMode": "none", "DeviceRequests": requests},
    }
    made = engine("POST", f"/containers/create?name=bench{number}", body)
    assert isinstance(made, dict)
    return str(made["Id"])


def restart() -> float:
    """Seconds from the order to start until a unit is granted."""
    subprocess.run(["systemctl", "stop", UNIT], check=True, stderr=subprocess.DEVNULL)
    begun = time.perf_counter()
    subprocess.run(["systemctl", "start", "--no-block", UNIT], check=True)
    lease = ""
    while not lease:
        try:
            client = Client()
            lease = client.lease()
        except ConnectionRefusedError:
            time.sleep(0.005)  # it answers, and does not know yet what runs
    taken_s = time.perf_counter() - begun
    client.release(lease)
    return taken_s


def kill() -> float:
    """Seconds from SIGKILL until somebody who asks right after it has his answer. Nobody is refused."""
    subprocess.run(["systemctl", "reset-failed", UNIT], check=True)  # systemd's pauses grow with each restart
    begun = time.perf_counter()
    subprocess.run(["systemctl", "kill", "-s", "KILL", UNIT], check=True)
    while True:
        try:
            Client().call("List")
            return time.perf_counter() - begun
        except (ConnectionResetError, BrokenPipeError):
            continue  # the process that was killed had taken the connection


def kills() -> list[float]:
    """Several, from the quickest to the slowest."""
    taken_s = []
    for _ in range(TIMES):
        time.sleep(1)
        taken_s.append(kill())
    return sorted(taken_s)


def memory_mib() -> float:
    """Resident memory of the allocator."""
    pid = subprocess.check_output(["systemctl", "show", "-P", "MainPID", UNIT], text=True).strip()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def cpu_s() -> float:
    """CPU time that the service has had since its start."""
    group = subprocess.check_output(["systemctl", "show", "-P", "ControlGroup", UNIT], text=True).strip()
    lines = Path(f"/sys/fs/cgroup{group}/cpu.stat").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("usage_usec"))) / 1e6


def list_all() -> object:
    """What a reconciliation asks first."""
    return engine("GET", "/containers/json?all=1")


def main() -> None:
    """All rows."""
    become_the_shim()
    quiet = kills()
    client = Client()
    leases = [client.lease() for _ in range(LEASED)]
    past = client.lease()
    client.release(past)
    with ThreadPoolExecutor(2) as pool:
        names = [*leases, *([past] * (CREATED - LEASED))]
        made = list(pool.map(make_container, range(CREATED), names))
        list(pool.map(lambda one: engine("POST", f"/containers/{one}/start"), made[:RUNNING]))
    time.sleep(SETTLED_S)
    bare_s = statistics.median(timed(list_all) for _ in range(TIMES))
    restarts = sorted(restart() for _ in range(TIMES))
    among_many = kills()
    rows: list[Row] = [
        row(f"start to first grant, {CREATED} containers, worst of {TIMES}", restarts[-1] * 1000, "ms",
            "the engine's list alone", restarts[-1] / bare_s),
        row(f"SIGKILL to next answer, worst of {TIMES}", quiet[-1] * 1000, "ms"),
        # systemd makes the service's view of the file system out of every mount that there is: of each container's too.
        row(f"SIGKILL to next answer, {RUNNING} containers run", statistics.median(among_many) * 1000, "ms",
            "none runs", statistics.median(among_many) / statistics.median(quiet)),
        row(f"memory of the allocator, {CREATED} containers", memory_mib(), "MiB"),
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: engine("DELETE", f"/containers/{one}"), made[RUNNING:]))
    time.sleep(SETTLED_S)
    begun = cpu_s()
    time.sleep(QUIET_S)
    busy = (cpu_s() - begun) / QUIET_S * 100
    rows.append(row(f"CPU of the allocator while {RUNNING} containers run", busy, "%"))
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
