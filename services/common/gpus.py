"""What a reading of the GPUs says: plain records and the name of a profile. Pure; knows nothing of NVML's calls.

The annotations are types, not text: asyncvarlink describes the interface from them.
"""

import math
from dataclasses import dataclass
from typing import Protocol

MIB = 1 << 20
GIB = 1 << 30
MEMORY_SLICES = 8
"""NVIDIA names a profile's memory in eighths of the GPU, whatever the number of compute slices."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One MIG device: a compute instance in a GPU instance. The placement counts memory slices."""

    uuid: str
    gpu_instance: int
    compute_instance: int
    profile: str
    placement_start: int
    placement_size: int
    compute_slices: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU. When it is not usable, `reason` says why and `instances` is empty: they are unknown, not absent.

    The UUID is empty, and the minor -1, when NVML never told them.
    """

    index: int
    uuid: str
    minor: int
    name: str
    memory_bytes: int
    mig_enabled: bool
    usable: bool
    reason: str
    instances: list[Instance]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs by index, and the driver's version."""

    driver: str
    gpus: list[Gpu]


class InventoryReader(Protocol):
    """Reads the GPUs; may block for as long as the driver does."""

    def inventory(self) -> Inventory:
        """The GPUs as they are now.

        Raises:
            Unavailable: there is no driver to ask, or it does not answer.
        """


def profile_name(
    gpu_slices: int, compute_slices: int, memory_mib: int, gpu_memory_bytes: int, *, media_extensions: bool
) -> str:
    """The name that `nvidia-smi -L` shows: `2g.10gb`, `1c.3g.20gb` for a part of the compute slices, `1g.5gb+me`."""
    eighths = math.ceil(memory_mib * MIB / gpu_memory_bytes * MEMORY_SLICES)
    memory_gb = round(eighths / MEMORY_SLICES * math.ceil(gpu_memory_bytes / GIB))
    part = f"{compute_slices}c." if compute_slices != gpu_slices else ""
    return f"{part}{gpu_slices}g.{memory_gb}gb{'+me' if media_extensions else ''}"
