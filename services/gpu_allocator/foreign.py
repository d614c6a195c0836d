"""GPUs that somebody has without a lease: containers that root started past the shim, processes outside their lease.

Pure. A label proves nothing here, nor does a promise: what a container was made with, and where a process runs, does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ds01.common.events import Event
from ds01.common.model import Lease, LeaseKind, LeaseState, Unit, UnitKey
from ds01.gpu_allocator.choose import named

NOTHING = ("", "none", "void")
PAST_THE_SHIM = "a container that was started past the shim has it"
_CDI_KIND = "nvidia.com/gpu="


@dataclass(frozen=True, slots=True)
class Foreign:
    """A container without a lease that has GPUs: those with these names, or all that there may be."""

    container: str
    name: str
    everything: bool
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Using:
    """A process on a unit, and where it runs: `owner` is the uid whose slice or session that is, else its own."""

    pid: int
    key: UnitKey
    owner: int
    user: str
    container: str
    scope: str


def gpus_of(raw: Mapping[str, Any]) -> Foreign | None:
    """The GPUs that a container was made with, from the engine's answer to inspect; None where it has none.

    A privileged one could open every GPU; it counts once it asks for one, or a process of it computes.
    """
    host = raw.get("HostConfig") or {}
    asked = [name for item in host.get("DeviceRequests") or [] for name in _requested(item)]
    asked += [_node(str(item.get("PathOnHost", ""))) for item in host.get("Devices") or []]
    environment = dict(item.partition("=")[::2] for item in (raw.get("Config") or {}).get("Env") or [])
    visible = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if host.get("Runtime") == "nvidia" and visible not in NOTHING:
        asked += visible.split(",")
    asked += ["all"] if host.get("Privileged") and visible not in NOTHING else []
    names = tuple(name for name in asked if name)
    if not names:
        return None
    return Foreign(str(raw["Id"]), str(raw.get("Name", "")).removeprefix("/"), "all" in names, names)


def _requested(item: Mapping[str, Any]) -> list[str]:
    """What a device request asks for: Docker's own count takes the first ones, whichever they are."""
    names = [str(name) for name in item.get("DeviceIDs") or []]
    if item.get("Driver") == "cdi":
        return [name.removeprefix(_CDI_KIND) for name in names if name.startswith(_CDI_KIND)]
    return names or ["all"]


def _node(path: str) -> str:
    """`/dev/nvidia3` is GPU 3, as far as minors and indices agree; any other NVIDIA node may be anything."""
    node = path.removeprefix("/dev/nvidia")
    if node == path or path in ("/dev/nvidiactl", "/dev/nvidia-modeset"):
        return ""
    return node if node.isdecimal() else "all" if "caps" in node else ""


def occupied(found: Iterable[Foreign], units: tuple[Unit, ...]) -> dict[UnitKey, str]:
    """The units on which containers without a lease may stand, and why. Where that can't be told it is every unit."""
    taken: dict[UnitKey, str] = {}
    for one in found:
        hit = [_meant(name, units) for name in one.names]
        certain = not one.everything and all(hit)
        taken |= {unit.key: PAST_THE_SHIM for unit in (chain(*hit) if certain else units)}
    return taken


def _meant(name: str, units: tuple[Unit, ...]) -> list[Unit]:
    """The units that a name may stand for: a whole GPU is all its instances."""
    whole = [unit for unit in units if name in (str(unit.gpu_index), unit.key.gpu_uuid)]
    one = named(name, units)
    return whole or ([one] if isinstance(one, Unit) else [])


def of_foreign(one: Foreign) -> Event:
    """A container without a lease that has GPUs."""
    what = "every GPU" if one.everything else f"GPU {', '.join(one.names)}"
    return Event(
        "gpu.bypassed",
        f"Container '{one.name}' has {what} without a lease; nobody else is given it until the container ends",
        container=one.container,
        container_name=one.name,
        gpu=",".join(one.names),
        reason="started past the shim",
    )


def is_his(using: Using, leases: Iterable[Lease]) -> bool:
    """Whether somebody's lease lets the process be on that unit, wherever in his reach it runs."""
    for lease in leases:
        if lease.uid != using.owner or all(unit.key != using.key for unit in lease.units):
            continue
        if lease.kind is LeaseKind.CONTAINER and using.container and lease.container in ("", using.container):
            return True  # a lease that was just granted does not know its container yet
        if lease.kind is LeaseKind.HOST and (using.scope == lease.scope or lease.state is LeaseState.DRAINING):
            return True
        if lease.kind is LeaseKind.LOGIN and not using.container:
            return True
    return False


def is_busy(lease: Lease, running: Iterable[Using]) -> bool:
    """Whether a process of the lease's user is on one of its units."""
    keys = {unit.key for unit in lease.units}
    return any(one.owner == lease.uid and one.key in keys for one in running)


def of_intruder(using: Using, unit: Unit, holder: Lease | None) -> Event:
    """A process on a unit that it has no lease for."""
    whose = f"which lease {holder.id} of {holder.user} holds" if holder else "which nobody holds"
    return Event(
        "gpu.intruded",
        f"Process {using.pid} of {using.user} computes on GPU {unit.name}, {whose}",
        user=using.user,
        uid=using.owner,
        gpu=unit.name,
        lease=holder.id if holder else "",
        container=using.container,
        reason=f"process {using.pid}",
    )
