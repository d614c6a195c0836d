"""What a container was asked to be, as its label keeps it, and what it is under limits that may have changed. Pure.

The one place that works out a container's sizes: the shim asks it at the create, limits_sync whenever the limits
change, so that the two never disagree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from ds01.common.limits import Limits

LABEL = "ds01.sizes"
"""Empty on containers whose sizes are nobody's but their maker's: administrators', and unmanaged ones."""

ONLY_POLICY = "policy"
"""The label of a container for which nothing was asked."""

NANO = 1_000_000_000
_PAIR = re.compile(r"([a-z_]+)=([1-9][0-9]{0,18})")
_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for explicitly; None = nothing. `memory_swap_bytes` is memory and swap together."""

    cpus_nano: int | None = None
    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    pids: int | None = None

    def label(self) -> str:
        """The text of the label: `cpus_nano=1500000000 pids=100`, sorted by name."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        said = sorted(f"{name}={value}" for name, value in values if value is not None)
        return " ".join(said) or ONLY_POLICY


@dataclass(frozen=True, slots=True)
class ContainerSizes:
    """The limits of one container, decided. `memory_swap_bytes` is memory and swap together."""

    cpus_nano: int
    memory_bytes: int
    memory_swap_bytes: int
    pids: int


def parse_asked(label: str) -> Asked | None:
    """What a label of ours says; None for an empty one, and for any text that `Asked.label` does not make."""
    if label == ONLY_POLICY:
        return Asked()
    found = [_PAIR.fullmatch(pair) for pair in label.split(" ")]
    said = {pair[1]: int(pair[2]) for pair in found if pair is not None}
    if None in found or not set(said) <= {field.name for field in fields(Asked)} or max(said.values()) > _MAX:
        return None
    asked = Asked(**said)
    return asked if asked.label() == label else None


def sizes_for(asked: Asked, limits: Limits, engine_cpus: int) -> ContainerSizes:
    """What was asked, or else the limit, and never more than the limit.

    `engine_cpus` is how many CPUs the engine sees, 0 = unknown: dockerd refuses a container that is to have more.
    Swap is what the limit of memory and swap leaves beside the limit of memory, also for a container with less memory.
    Who asked for memory and swap together, and not for memory, gets no more memory than that.
    """
    memory = min(_least(asked.memory_bytes, limits.memory_bytes), _least(asked.memory_swap_bytes, limits.memory_bytes))
    swap = max(0, limits.memory_swap_bytes - limits.memory_bytes)
    together = memory + swap
    if asked.memory_swap_bytes is not None:
        together = min(asked.memory_swap_bytes, limits.memory_bytes + swap)
    cpus_nano = cpus_to_nano(limits.cpus)
    return ContainerSizes(
        cpus_nano=_least(asked.cpus_nano, min(cpus_nano, engine_cpus * NANO) if engine_cpus else cpus_nano),
        memory_bytes=memory,
        memory_swap_bytes=together,
        pids=_least(asked.pids, limits.pids),
    )


def cpus_to_nano(cpus: float) -> int:
    """CPUs as the engine counts them."""
    return round(cpus * NANO)


def _least(asked: int | None, limit: int) -> int:
    return limit if asked is None else min(asked, limit)
