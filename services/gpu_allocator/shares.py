"""Fair share: how much GPU time somebody has had lately. Pure.

GPU time is counted in GPU seconds (half a GPU for two seconds is one) and decays: after one half-life it counts half.
Between two changes of what a user holds the rate is constant, so the sum has a closed form and needs no clock of its
own:  v(t + d) = v(t) e^(-kd) + r (1 - e^(-kd)) / k  with k = ln 2 / half-life.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ds01.common.model import Share


def advance(share: Share, rate: Fraction | float, now: float, half_life_s: float) -> Share:
    """The share as of `now`, after holding `rate` GPUs since it was last taken. A clock set back changes nothing."""
    passed_s = now - share.at if share.at else 0.0
    if passed_s <= 0:
        return Share(share.value, max(now, share.at))
    k = math.log(2) / half_life_s
    left = math.exp(-k * passed_s)
    return Share(share.value * left + float(rate) * (1 - left) / k, now)


def score(share: Share, priority: int) -> float:
    """What the queue is ordered by, the lowest first: GPU time per weight. A weight of 100 is the plain one."""
    return share.value * 100 / max(1, priority)
