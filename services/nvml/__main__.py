"""Wires the NVML reader: `python -m ds01.nvml`, started by ds01-nvml.service."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from ds01.common.adapters.notify import Notifier
from ds01.common.adapters.nvml import NvmlReader, XidEvents
from ds01.common.daemon import listen_sockets, run
from ds01.common.varlink import VarlinkServer
from ds01.nvml.checkup import Checkup
from ds01.nvml.interface import NvmlInterface
from ds01.nvml.notes import XidNotes
from ds01.nvml.reading import OneReading
from ds01.nvml.watch import XidWatch


async def start(stack: AsyncExitStack) -> str:
    """Bring the reader up; the status line."""
    # Outside of systemd nothing is remembered over a restart.
    folder = os.environ.get("RUNTIME_DIRECTORY") or stack.enter_context(TemporaryDirectory(prefix="ds01-nvml-"))
    notes = XidNotes(Path(folder))
    XidWatch(XidEvents(), notes).start()
    reader = NvmlReader()
    inventory, processes = OneReading(Checkup(reader, notes).inventory), OneReading(reader.processes)
    for listener in listen_sockets(os.environ, os.getpid())["nvml"]:
        server = VarlinkServer(listener, lambda peer, _: NvmlInterface(peer, inventory, processes))
        server.start()
        stack.callback(server.close)
    return "ready to read the GPUs"


if __name__ == "__main__":
    run(start, Notifier())
