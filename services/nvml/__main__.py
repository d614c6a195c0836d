"""Wires the NVML reader: `python -m ds01.nvml`, started by ds01-nvml.service."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from ds01.common.adapters.notify import Notifier
from ds01.common.adapters.nvml import NvmlReader
from ds01.common.daemon import listen_sockets, run
from ds01.common.varlink import VarlinkServer
from ds01.nvml.interface import NvmlInterface
from ds01.nvml.reading import OneReading


async def start(stack: AsyncExitStack) -> str:
    """Bring the reader up; the status line."""
    reading = OneReading(NvmlReader().inventory)
    for listener in listen_sockets(os.environ, os.getpid())["nvml"]:
        server = VarlinkServer(listener, lambda peer, _: NvmlInterface(peer, reading))
        server.start()
        stack.callback(server.close)
    return "ready to read the GPUs"


if __name__ == "__main__":
    run(start, Notifier())
