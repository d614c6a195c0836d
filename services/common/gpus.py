"""What a reading of the GPUs says: plain records and the name of a profile. Pure; knows nothing of NVML's calls.

The annotations are types, not text: asyncvarlink describes the interface from them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from ds01.common.errors import Unavailable

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
    """One GPU. When it is not usable, `reason` says why.

    One that does not answer has its last known names and no `instances`: they are unknown, not absent. One that
    answers and is not usable has them, so that what runs there can be told. The UUID is empty, and the minor -1, when
    NVML never told them. `links` are the indices of the GPUs that NVLink reaches from here; none in MIG mode.
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
    links: list[int]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All GPUs by index, and the driver's version."""

    driver: str
    gpus: list[Gpu]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a GPU: `gpu_instance` is -1 on a whole GPU, or where NVML does not tell.

    `pid` is the host's. `memory_bytes` is None where the driver does not tell.
    """

    gpu_uuid: str
    gpu_instance: int
    pid: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class ProcessList:
    """Who uses the GPUs. `unknown` are the UUIDs of those that can't be told; "" is one whose UUID was never told."""

    processes: list[GpuProcess]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class Vitals:
    """What NVML says of a GPU's health; None is what this GPU or driver does not offer, and means nothing.

    `uncorrected_errors` (ECC) and `energy_mj` count since the driver was loaded. `recovery_action` is
    NVML_GPU_RECOVERY_ACTION_*, 0 for none.
    """

    uncorrected_errors: int | None = None
    pages_pending: bool | None = None
    rows_pending: bool | None = None
    rows_failed: bool | None = None
    recovery_action: int | None = None
    energy_mj: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """A GPU as NVML shows it, before it is judged. `vitals` is None when it does not answer; `lost` is NVML's word."""

    gpu: Gpu
    vitals: Vitals | None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """All GPUs as NVML shows them at one moment."""

    driver: str
    sights: list[Sight]


@dataclass(frozen=True, slots=True)
class XidEvent:
    """An Xid error. `gpu_uuid` is empty when the GPU can't be told."""

    gpu_uuid: str
    xid: int


class NoDriver(Unavailable):
    """No driver is loaded: whatever the GPUs suffered from, they begin anew with the next one."""


class GpuReader(Protocol):
    """Looks at the GPUs; may block for as long as the driver does."""

    def look(self) -> Look:
        """The GPUs as they are now.

        Raises:
            NoDriver: none is loaded.
            Unavailable: NVML does not answer.
        """


class XidReader(Protocol):
    """Tells of Xid errors as they occur; blocks."""

    def events(self) -> Iterator[XidEvent]:
        """One after the other, without end.

        Raises:
            Unavailable: NVML does not answer (any more); begin again.
        """


def profile_name(
    gpu_slices: int, compute_slices: int, memory_mib: int, gpu_memory_bytes: int, *, media_extensions: bool
) -> str:
    """The name that `nvidia-smi -L` shows: `2g.10gb`, `1c.3g.20gb` for a part of the compute slices, `1g.5gb+me`."""
    eighths = math.ceil(memory_mib * MIB / gpu_memory_bytes * MEMORY_SLICES)
    memory_gb = round(eighths / MEMORY_SLICES * math.ceil(gpu_memory_bytes / GIB))
    part = f"{compute_slices}c." if compute_slices != gpu_slices else ""
    return f"{part}{gpu_slices}g.{memory_gb}gb{'+me' if media_extensions else ''}"
