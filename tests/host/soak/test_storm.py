"""Too long for every change: people lease, run, stop and die for minutes while daemons and the engine are killed.

`make soak`; DS01_SOAK_S sets how long the storm lasts (seconds, 600 by default).
"""

from __future__ import annotations

import os
import random
import time

import pytest
from lib.people import ENGINE, belongings, eventually, gpu_nodes, held, leaks, ledger, set_policy, wipe
from lib.running import RunningHost

SOAK_S = float(os.environ.get("DS01_SOAK_S", "600"))
VICTIMS = ("ds01-gpu-allocator", "ds01-docker-shim", "ds01-limits-sync", "ds01-nvml", "docker")
LIFE = """
end=$(( $(date +%s) + $1 ))
while [ "$(date +%s)" -lt "$end" ]; do
    docker run -d --name "s$$" --gpus 1 busybox sleep 5 && docker stop -t 0 "s$$" && docker start "s$$"
    docker rm -f "s$$"
    timeout 2 docker run --rm --gpus 1 busybox sleep 9
done
"""


@pytest.mark.expect_warnings(".")
def test_a_long_storm(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    before = belongings(host)
    dice = random.Random(1)
    people = [
        host.start(user, ["sh", "-c", LIFE, "sh", str(int(SOAK_S))]) for user in ("alice", "bob", "carol", "rita")
    ]
    end = time.monotonic() + SOAK_S
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.5, 3))
        victim = dice.choice(VICTIMS)
        host.root(["systemctl", "kill", "-s", "KILL", f"{victim}.service"], check=False)
        assert_one_lease_a_unit(host)
    for person in people:
        person.communicate(timeout=180)
    host.root(["systemctl", "start", "docker.service", "ds01.target"])
    eventually(lambda: host.run("ada", ["ds01", "status"], check=False).status == 0, "the allocator answers", 30)
    host.root(f"docker -H {ENGINE} ps -aq | xargs -r docker -H {ENGINE} rm -f")
    eventually(lambda: held(host) == {}, "all units are free", 90)
    assert not leaks(before, belongings(host))
    wipe(host)


def assert_one_lease_a_unit(host: RunningHost) -> None:
    """From outside: the ledger, and the device nodes that running containers really have."""
    units = [row[0] for row in ledger(host, "SELECT unit FROM lease_unit")]
    assert len(units) == len(set(units))
    listed = host.root(["docker", "-H", ENGINE, "ps", "-q"], check=False)
    seen: list[str] = []
    for container in listed.out.split():
        try:
            seen += [node for node in gpu_nodes(host, container) if "/nvidia-caps/" in node]
        except (AssertionError, ValueError):
            continue  # it ended while we looked
    assert len(seen) == len(set(seen))
