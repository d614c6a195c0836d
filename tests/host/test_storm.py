"""A minute of storm: two hundred clients, and every daemon and the engine killed again and again."""

from __future__ import annotations

import pytest
from lib.people import ENGINE, docker_run, inspect, wipe
from lib.running import RunningHost
from lib.storm import bring_scripts, look, storm

STORM_S = 60.0


@pytest.mark.timeout(600)
@pytest.mark.expect_warnings(".")
def test_a_minute_of_storm(host: RunningHost) -> None:
    done = storm(host, STORM_S)
    assert len(done) == 5, done
    assert done.total() > 100, done


@pytest.mark.expect_warnings("other GPU nodes|past the shim")
def test_the_judge_of_storms_sees_a_unit_with_two_holders(host: RunningHost) -> None:
    bring_scripts(host)
    docker_run(host, "alice", "train", "--gpus", "1")
    assert not look(host)["twice"]
    lease = inspect(host, "train")["Config"]["Labels"]["ds01.lease"]
    options = ["-d", "--name", "thief", "--device", f"ds01.io/gpu={lease}"]
    host.root(["docker", "-H", ENGINE, "run", *options, "busybox", "sleep", "60"])
    assert len(look(host)["twice"]) == 2, "both nodes of the instance"
    wipe(host)
