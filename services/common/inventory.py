"""The GPUs that exist now, as units that can be leased. Pure reading of ds01-nvml's answer, and the call for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ds01.common.errors import Unavailable
from ds01.common.model import COMPUTE_SLICES_PER_GPU, FULL, Unit, UnitKey
from ds01.common.varlink import call

NVML_SOCKET = "/run/ds01/nvml.sock"
NVML_TIMEOUT_S = 3.0
"""NVML calls can block in the kernel; the caller of ours must not."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """All units that can be leased, and why other GPUs offer none (index → reason)."""

    units: tuple[Unit, ...]
    withheld: Mapping[int, str]


async def read_inventory(socket_path: str = NVML_SOCKET) -> Inventory:
    """What exists now.

    Raises:
        Unavailable: NVML does not answer, or what it says can't be understood.
    """
    return parse_inventory(await call(socket_path, "io.ds01.Nvml.Inventory", NVML_TIMEOUT_S))


def parse_inventory(raw: Mapping[str, Any]) -> Inventory:
    """Units from the answer of io.ds01.Nvml.Inventory.

    Raises:
        Unavailable: it can't be understood.
    """
    try:
        gpus = raw["gpus"]
        withheld = {gpu["index"]: gpu["reason"] for gpu in gpus if not gpu["usable"]}
        usable = [gpu for gpu in gpus if gpu["usable"]]
        withheld |= {
            gpu["index"]: "it is in MIG mode and has no instances"
            for gpu in usable
            if gpu["mig_enabled"] and not gpu["instances"]
        }
        return Inventory(tuple(unit for gpu in usable for unit in _units_of(gpu)), withheld)
    except (KeyError, TypeError) as exc:
        raise Unavailable(f"the inventory of GPUs can't be understood: {exc}") from exc


def _units_of(gpu: Mapping[str, Any]) -> list[Unit]:
    index = gpu["index"]
    if not gpu["mig_enabled"]:
        return [Unit(UnitKey(gpu["uuid"]), str(index), FULL, gpu["uuid"], index, Fraction(1))]
    return [
        Unit(
            key=UnitKey(gpu["uuid"], f"{item['placement_start']}+{item['placement_size']}"),
            name=f"{index}:{position}",
            profile=item["profile"],
            uuid=item["uuid"],
            gpu_index=index,
            size=Fraction(item["compute_slices"], COMPUTE_SLICES_PER_GPU),
        )
        for position, item in enumerate(gpu["instances"])
    ]
