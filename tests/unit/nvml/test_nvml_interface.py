"""io.ds01.Nvml over a real socket: who may ask, what is answered, and that one call's hang is not the other's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds01.common.errors import Unavailable
from ds01.common.gpus import Gpu, GpuProcess, Inventory, ProcessList
from ds01.common.inventory import GpuProcesses, read_inventory, read_processes
from ds01.common.model import UnitKey
from ds01.common.peer import Peer
from ds01.common.varlink import VarlinkServer
from ds01.nvml.interface import NvmlInterface
from ds01.nvml.reading import OneReading

GPU = Gpu(0, "GPU-0", 0, "A100", 40 << 30, False, True, "", [], [1])
TOLD = GpuProcess("GPU-0", -1, 42, 5 << 20)
UNTOLD = GpuProcess("GPU-0", 3, 43, None)
LIST = ProcessList([TOLD, UNTOLD], ["GPU-1"])


def run(
    tmp_path: Path,
    scene: Callable[[str], Any],
    processes: Callable[[], ProcessList] = lambda: LIST,
    service: str = "ds01-gpu-allocator.service",
) -> None:
    async def play() -> None:
        path = str(tmp_path / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.setblocking(False)
        inventory = OneReading(lambda: Inventory("570", [GPU]))
        reading = OneReading(processes, timeout_s=0.2)
        peer = Peer(0, "root", frozenset(), 1, service, False)
        server = VarlinkServer(listener, lambda who, _: NvmlInterface(who, inventory, reading), lambda _: peer)
        server.start()
        try:
            await asyncio.wait_for(scene(path), 20)
        finally:
            server.close()
            listener.close()

    asyncio.run(play())


def test_processes_come_over_as_they_are(tmp_path: Path) -> None:
    async def scene(path: str) -> None:
        assert await read_processes(path) == GpuProcesses((TOLD, UNTOLD), frozenset({"GPU-1"}))

    run(tmp_path, scene)


def test_the_inventory_comes_over_with_its_links(tmp_path: Path) -> None:
    async def scene(path: str) -> None:
        found = await read_inventory(path)
        assert (found.links, found.unit_of(TOLD)) == ({0: frozenset({1})}, UnitKey("GPU-0"))

    run(tmp_path, scene)


def test_boot_may_ask_for_the_inventory_and_not_for_processes(tmp_path: Path) -> None:
    async def scene(path: str) -> None:
        await read_inventory(path)
        with pytest.raises(Unavailable, match="PermissionDenied"):
            await read_processes(path)

    run(tmp_path, scene, service="ds01-boot.service")


def test_nobody_else_may_ask(tmp_path: Path) -> None:
    async def scene(path: str) -> None:
        for read in (read_inventory, read_processes):
            with pytest.raises(Unavailable, match="PermissionDenied"):
                await read(path)

    run(tmp_path, scene, service="")


def test_what_the_reader_can_not_do_is_told(tmp_path: Path) -> None:
    def refuse() -> ProcessList:
        raise Unavailable("there is no driver")

    async def scene(path: str) -> None:
        with pytest.raises(Unavailable, match="there is no driver"):
            await read_processes(path)

    run(tmp_path, scene, refuse)


def test_a_hang_of_processes_is_not_one_of_the_inventory(tmp_path: Path) -> None:
    gate = threading.Event()

    def hang() -> ProcessList:
        gate.wait(20)
        return LIST

    async def scene(path: str) -> None:
        with pytest.raises(Unavailable, match="has not answered"):
            await read_processes(path)
        assert (await read_inventory(path)).gpus == {"GPU-0": 0}
        gate.set()

    run(tmp_path, scene, hang)
