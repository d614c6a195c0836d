"""What must change on one container so that it follows the limits. Pure.

The engine's own record is compared and changed (`docker inspect` then tells the truth), and only what the engine can
apply: what it can't, it would refuse or drop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ds01.common import quantity
from ds01.common.limits import Limits
from ds01.common.model import EngineFacts
from ds01.common.sizes import LABEL, Asked, ContainerSizes, parse_asked, sizes_for
from ds01.common.slices import cgroup_of


@dataclass(frozen=True, slots=True)
class Sized:
    """One container whose sizes follow the policy, as the engine has it now. 0 = the engine applies no such limit."""

    id: str
    name: str
    uid: int
    has_gpu: bool
    running: bool
    cgroup: str
    asked: Asked
    sizes: ContainerSizes
    reservation_bytes: int = 0


def parse_sized(raw: Mapping[str, Any]) -> Sized | None:
    """What an answer to inspect says; None for a container whose sizes are not the policy's.

    Raises:
        KeyError, TypeError, ValueError: it is no answer to inspect.
    """
    labels = raw["Config"].get("Labels") or {}
    asked, uid = parse_asked(str(labels.get(LABEL, ""))), str(labels.get("ds01.uid", ""))
    if asked is None or not uid.isdecimal():
        return None
    host, id_ = raw["HostConfig"], str(raw["Id"])
    parent = str(host.get("CgroupParent") or "")
    return Sized(
        id=id_,
        name=str(raw["Name"]).removeprefix("/"),
        uid=int(uid),
        has_gpu=bool(labels.get("ds01.lease")),
        running=bool(raw["State"]["Running"]),
        cgroup=f"{cgroup_of(parent)}/docker-{id_}.scope" if parent.endswith(".slice") else "",
        asked=asked,
        sizes=ContainerSizes(
            cpus_nano=int(host.get("NanoCpus") or 0),
            memory_bytes=int(host.get("Memory") or 0),
            memory_swap_bytes=int(host.get("MemorySwap") or 0),
            pids=max(0, int(host.get("PidsLimit") or 0)),
        ),
        reservation_bytes=int(host.get("MemoryReservation") or 0),
    )


def target(container: Sized, limits: Limits, engine: EngineFacts) -> ContainerSizes:
    """The sizes that the container must have; what the engine can't apply stays as it is."""
    wanted, now = sizes_for(container.asked, limits, engine.cpus), container.sizes
    # Without swap accounting the engine ignores the figure, and yet refuses memory above the one it has.
    swaps = engine.memory and (engine.swap or wanted.memory_bytes != now.memory_bytes)
    return ContainerSizes(
        cpus_nano=wanted.cpus_nano if engine.cpu_quota else now.cpus_nano,
        memory_bytes=wanted.memory_bytes if engine.memory else now.memory_bytes,
        memory_swap_bytes=wanted.memory_swap_bytes if swaps else now.memory_swap_bytes,
        pids=wanted.pids if engine.pids else now.pids,
    )


def without_memory(wanted: ContainerSizes, now: ContainerSizes) -> ContainerSizes:
    """The same, but memory as it is now."""
    return replace(wanted, memory_bytes=now.memory_bytes, memory_swap_bytes=now.memory_swap_bytes)


def update_body(container: Sized, wanted: ContainerSizes) -> dict[str, int]:
    """The body of the engine's update; empty where nothing differs. Memory and swap go together or are refused."""
    now = container.sizes
    body: dict[str, int] = {}
    if now.cpus_nano != wanted.cpus_nano:
        body["NanoCpus"] = wanted.cpus_nano
    if (now.memory_bytes, now.memory_swap_bytes) != (wanted.memory_bytes, wanted.memory_swap_bytes):
        body["Memory"] = wanted.memory_bytes
        if wanted.memory_swap_bytes:
            body["MemorySwap"] = wanted.memory_swap_bytes
        if container.reservation_bytes > wanted.memory_bytes:
            body["MemoryReservation"] = wanted.memory_bytes
    if now.pids != wanted.pids:
        body["PidsLimit"] = wanted.pids
    return body


def sizes_text(sizes: ContainerSizes, only: Mapping[str, int]) -> str:
    """Those of the sizes that a body changes, for people."""
    told = {
        "NanoCpus": f"CPUs {sizes.cpus_nano / 1e9:g}" if sizes.cpus_nano else "CPUs no limit",
        "Memory": f"memory {quantity.size_text(sizes.memory_bytes)}" if sizes.memory_bytes else "memory no limit",
        "PidsLimit": f"processes {sizes.pids}" if sizes.pids else "processes no limit",
    }
    return ", ".join(text for name, text in told.items() if name in only)
