"""What holds of a memory limit that was lowered below what is in use: nothing that would make the kernel kill. Pure.

CPU, processes and memory_high follow at once; memory_max waits until the use has gone down, or the grace is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.slices import UNLIMITED, PropertyValue

MAX, HIGH = "MemoryMax", "MemoryHigh"


@dataclass(frozen=True, slots=True)
class Pending:
    """A lowered limit that does not hold yet: from, to (bytes), and when it holds all the same (epoch, seconds)."""

    from_bytes: int
    to_bytes: int
    until: float


@dataclass(frozen=True, slots=True)
class Settled:
    """What to set now, and what waits."""

    properties: Mapping[str, PropertyValue]
    pending: Pending | None = None


def settle(
    wanted: Mapping[str, PropertyValue],
    have: Mapping[str, PropertyValue],
    used_bytes: int | None,
    pending: Pending | None,
    now: float,
    grace_s: float,
) -> Settled:
    """The properties to set now. `used_bytes` is memory that can't be taken back; None: there is no such limit here."""
    target, holds = _number(wanted.get(MAX)), _number(have.get(MAX))
    left = decide(target, holds, used_bytes, pending, now, grace_s)
    if left is None:
        return Settled(wanted)
    squeezed = min(_number(wanted.get(HIGH)), target)
    return Settled({**wanted, MAX: holds, HIGH: squeezed}, left)


def decide(
    target: int, holds: int, used_bytes: int | None, pending: Pending | None, now: float, grace_s: float
) -> Pending | None:
    """What still waits: None where `target` may hold now."""
    if used_bytes is None or target >= holds or used_bytes <= target:
        return None
    running = pending is not None and target >= pending.to_bytes
    until = pending.until if running and pending is not None else now + grace_s
    return Pending(holds, target, until) if now < until else None


def _number(value: PropertyValue | None) -> int:
    return value if isinstance(value, int) else UNLIMITED
