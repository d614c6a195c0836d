"""Too long for every change: people lease, run, stop and die for minutes while daemons and the engine are killed.

`make soak`; DS01_SOAK_S sets how long the storm lasts (seconds, 600 by default).
"""

from __future__ import annotations

import os
import random

import pytest
from lib.running import RunningHost
from lib.storm import storm

SOAK_S = float(os.environ.get("DS01_SOAK_S", "600"))


@pytest.mark.expect_warnings(".")
def test_a_long_storm(host: RunningHost) -> None:
    seed = random.randrange(1_000_000)
    assert storm(host, SOAK_S, seed), f"the seed was {seed}"
