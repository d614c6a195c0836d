"""The GPUs that exist now, as units that can be leased. Pure reading of ds01-nvml's answers, and the calls for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ds01.common.errors import Unavailable
from ds01.common.gpus import GpuProcess
from ds01.common.model import COMPUTE_SLICES_PER_GPU, FULL, Unit, UnitKey
from ds01.common.varlink import call

NVML_SOCKET = "/run/ds01/nvml.sock"
NVML_TIMEOUT_S = 3.0
"""NVML calls can block in the kernel; the caller of ours must not."""

WHOLE_GPU = -1
"""What a process on a whole GPU has for its GPU instance."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All units that can be leased, and why other GPUs offer none (`withheld`: index → reason).

    `gpus` is UUID → index of every GPU listed whose UUID is known, fit for work or not; `unusable` are those that are
    not: their units are unknown, not gone. "" among them is one that had lost its UUID before it was first read: it may
    be any GPU that is not in `gpus`. `links` is index → indices that NVLink reaches. `instances` is (UUID, GPU
    instance) → unit, of every GPU whose instances are told; a whole one's instance is WHOLE_GPU.
    """

    units: tuple[Unit, ...]
    withheld: Mapping[int, str]
    links: Mapping[int, frozenset[int]] = field(default_factory=dict)
    gpus: Mapping[str, int] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    instances: Mapping[tuple[str, int], UnitKey] = field(default_factory=dict)

    def is_unknown(self, gpu_uuid: str) -> bool:
        """Whether what this GPU offers can't be told at the moment."""
        return gpu_uuid in self.unusable or ("" in self.unusable and gpu_uuid not in self.gpus)

    def unit_of(self, process: GpuProcess) -> UnitKey | None:
        """The unit that a process runs on; None when it can't be told."""
        return self.instances.get((process.gpu_uuid, process.gpu_instance))


@dataclass(frozen=True, slots=True)
class GpuProcesses:
    """Who uses the GPUs. Of GPUs in `unknown` nothing is known, least of all that nobody uses them.

    A GPU that had lost its UUID before it was first read can't be named: it stands there as "", and every GPU that
    the inventory does not list is unknown as well.
    """

    known: tuple[GpuProcess, ...]
    unknown: frozenset[str]


async def read_inventory(socket_path: str = NVML_SOCKET) -> Inventory:
    """What exists now.

    Raises:
        Unavailable: NVML does not answer, or what it says can't be understood.
    """
    return parse_inventory(await call(socket_path, "io.ds01.Nvml.Inventory", NVML_TIMEOUT_S))


async def read_processes(socket_path: str = NVML_SOCKET) -> GpuProcesses:
    """Who uses the GPUs now.

    Raises:
        Unavailable: NVML does not answer, or what it says can't be understood: nothing is known of any GPU.
    """
    return parse_processes(await call(socket_path, "io.ds01.Nvml.Processes", NVML_TIMEOUT_S))


def parse_inventory(raw: Mapping[str, Any]) -> Inventory:
    """Units from the answer of io.ds01.Nvml.Inventory.

    Raises:
        Unavailable: it can't be understood.
    """
    try:
        gpus = raw["gpus"]
        usable = [gpu for gpu in gpus if gpu["usable"]]
        named = [gpu for gpu in gpus if gpu["uuid"]]
        return Inventory(
            units=tuple(unit for gpu in usable for unit in _units_of(gpu)),
            withheld={gpu["index"]: reason for gpu in gpus if (reason := _why_not(gpu))},
            links={gpu["index"]: frozenset(gpu["links"]) for gpu in gpus},
            gpus={gpu["uuid"]: gpu["index"] for gpu in named},
            unusable=frozenset(gpu["uuid"] for gpu in gpus if not gpu["usable"]),
            instances={key: unit for gpu in named for key, unit in _instances_of(gpu)},
        )
    except (KeyError, TypeError) as exc:
        raise Unavailable(f"the inventory of GPUs can't be understood: {exc}") from exc


def parse_processes(raw: Mapping[str, Any]) -> GpuProcesses:
    """Processes from the answer of io.ds01.Nvml.Processes.

    Raises:
        Unavailable: it can't be understood.
    """
    try:
        known = tuple(
            GpuProcess(item["gpu_uuid"], item["gpu_instance"], item["pid"], item.get("memory_bytes"))
            for item in raw["processes"]
        )
        return GpuProcesses(known, frozenset(raw["unknown"]))
    except (AttributeError, KeyError, TypeError) as exc:
        raise Unavailable(f"the processes on the GPUs can't be understood: {exc}") from exc


def _why_not(gpu: Mapping[str, Any]) -> str:
    if not gpu["usable"]:
        return str(gpu["reason"])
    return "it is in MIG mode and has no instances" if gpu["mig_enabled"] and not gpu["instances"] else ""


def _units_of(gpu: Mapping[str, Any]) -> list[Unit]:
    index = gpu["index"]
    if not gpu["mig_enabled"]:
        return [Unit(UnitKey(gpu["uuid"]), str(index), FULL, gpu["uuid"], index, Fraction(1))]
    return [
        Unit(
            key=_key(gpu, item),
            name=f"{index}:{position}",
            profile=item["profile"],
            uuid=item["uuid"],
            gpu_index=index,
            size=Fraction(item["compute_slices"], COMPUTE_SLICES_PER_GPU),
        )
        for position, item in enumerate(gpu["instances"])
    ]


def _instances_of(gpu: Mapping[str, Any]) -> list[tuple[tuple[str, int], UnitKey]]:
    if not gpu["mig_enabled"]:
        return [((gpu["uuid"], WHOLE_GPU), UnitKey(gpu["uuid"]))]
    return [((gpu["uuid"], item["gpu_instance"]), _key(gpu, item)) for item in gpu["instances"]]


def _key(gpu: Mapping[str, Any], instance: Mapping[str, Any]) -> UnitKey:
    return UnitKey(gpu["uuid"], f"{instance['placement_start']}+{instance['placement_size']}")
