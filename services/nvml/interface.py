"""The Varlink interface io.ds01.Nvml. No postponed annotations: asyncvarlink reads the types at run time."""

from typing import TypedDict

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from ds01.common.errors import Ds01Error
from ds01.common.gpus import Gpu, GpuProcess, ProcessList
from ds01.common.gpus import Inventory as GpuInventory
from ds01.common.peer import Peer
from ds01.common.varlink import require_service
from ds01.nvml.reading import OneReading

READERS = ("ds01-gpu-allocator.service", "ds01-boot.service")
PROCESS_READERS = ("ds01-gpu-allocator.service",)


class Unavailable(TypedVarlinkErrorReply, interface="io.ds01.Nvml"):
    """There is no driver, or NVML does not answer: the state of the GPUs is unknown."""

    class Parameters:
        message: str


class Reading(TypedDict):
    driver: str
    gpus: list[Gpu]


class ProcessReading(TypedDict):
    processes: list[GpuProcess]
    unknown: list[str]


class NvmlInterface(VarlinkInterface, name="io.ds01.Nvml"):
    """NVML in a process of its own, since its calls can hang in the kernel."""

    errors = (Unavailable,)

    def __init__(self, peer: Peer, inventory: OneReading[GpuInventory], processes: OneReading[ProcessList]) -> None:
        self._peer = peer
        self._inventory = inventory
        self._processes = processes

    @varlinkmethod
    async def Inventory(self) -> Reading:
        """Every GPU with its MIG instances, as they are now."""
        require_service(self._peer, *READERS)
        try:
            found = await self._inventory.value()
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc
        return {"driver": found.driver, "gpus": list(found.gpus)}

    @varlinkmethod
    async def Processes(self) -> ProcessReading:
        """Who uses the GPUs now, and the UUIDs of GPUs for which that can't be told."""
        require_service(self._peer, *PROCESS_READERS)
        try:
            found = await self._processes.value()
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc
        return {"processes": list(found.processes), "unknown": list(found.unknown)}
