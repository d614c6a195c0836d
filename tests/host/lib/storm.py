"""A storm on the test host: two hundred clients lease, run, stop, wait and die while daemons and the engine are killed.

Judged from outside all the time (storm_judge.py): no unit has two holders, what ran before runs on. And after it: every
client has come to an end, nothing is left, the ledger is sound.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lib.people import (
    DAEMONS,
    ENGINE,
    belongings,
    docker_run,
    eventually,
    held,
    leaks,
    pid_of,
    set_policy,
    wipe,
)
from lib.running import RunningHost

PEOPLE = ("alice", "bob", "carol", "mallory", "rita")
CLIENTS_EACH = 40
VICTIMS = (*DAEMONS, *DAEMONS, "docker")
STEADY = {"steady-a": "alice", "steady-r": "rita"}
LAST_ACTION_S = 330.0
"""How long a client's last action and his tidying up may take."""

SHORT = {
    "groups.student.gpu_hold_after_stop": "1s",
    "groups.researcher.gpu_hold_after_stop": "1s",
    "groups.student.max_containers_per_user": 40,
    "groups.researcher.max_containers_per_user": 40,
    "policies.granted_timeout": "3s",
}


def storm(host: RunningHost, seconds: float, seed: int = 1) -> Counter[str]:
    """All of it; how often which action was done."""
    bring_scripts(host)
    set_policy(host, SHORT)
    before = belongings(host)
    for name, user in STEADY.items():
        docker_run(host, user, name, "--gpus", "1")
    steady = {name: pid_of(host, name) for name in STEADY}
    people = [
        host.start(user, ["python3", "/usr/local/lib/storm_client.py", str(seconds), str(CLIENTS_EACH), str(number)])
        for number, user in enumerate(PEOPLE, seed * 100)
    ]
    dice, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(dice.uniform(0.3, 2))
        host.root(["systemctl", "kill", "-s", "KILL", f"{dice.choice(VICTIMS)}.service"], check=False)
        assert_nobody_shares(host, steady)
    done: Counter[str] = Counter()
    for person in people:
        out, err = person.communicate(timeout=LAST_ACTION_S)
        assert out, err.decode(errors="replace")
        told = json.loads(out)
        assert not told["hung"], told["hung"]
        done.update(told["done"])
    assert_settled(host, steady)
    host.root(f"docker -H {ENGINE} ps -aq | xargs -r docker -H {ENGINE} rm -fv")
    eventually(lambda: held(host) == {}, "all units are free", 30)
    with contextlib.suppress(AssertionError):
        eventually(lambda: not leaks(before, belongings(host)), "nothing is left", 30)
    assert not leaks(before, belongings(host))
    wipe(host)
    return done


def bring_scripts(host: RunningHost) -> None:
    """What runs inside."""
    for name in ("storm_client.py", "storm_judge.py"):
        host.copy_in(Path(__file__).with_name(name), f"/usr/local/lib/{name}")


def look(host: RunningHost, *argv: str) -> dict[str, Any]:
    """What the judge sees."""
    return dict(json.loads(host.root(["python3", "/usr/local/lib/storm_judge.py", *argv]).out))


def assert_nobody_shares(host: RunningHost, steady: dict[str, int]) -> None:
    """No unit has two holders, and what ran before the storm runs on."""
    seen = look(host)
    assert not seen["twice"]
    for name, pid in steady.items():
        assert host.root(["test", "-d", f"/proc/{pid}"], check=False).status == 0, f"'{name}' ended"
        assert seen["pids"].get(name, pid) == pid, name


def assert_settled(host: RunningHost, steady: dict[str, int]) -> None:
    """The storm is over: daemons are well, every lease is somebody's, nobody waits."""
    host.root(["systemctl", "start", "docker.service", "ds01.target", *(f"{name}.service" for name in DAEMONS)])
    eventually(lambda: host.run("ada", ["ds01", "status"], check=False).status == 0, "the allocator answers", 30)
    assert_nobody_shares(host, steady)
    eventually(lambda: not look(host, "settled")["without"], "every lease is held by something that exists", 30)
    queue = "import json, sys; sys.exit(len(json.load(sys.stdin)))"
    eventually(
        lambda: host.run("ada", f'ds01 queue --json | python3 -c "{queue}"', check=False).status == 0,
        "nobody waits",
        45,
    )
    seen = look(host, "settled")
    assert seen["sound"]
    assert steady.items() <= seen["pids"].items()
