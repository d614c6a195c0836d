"""Wires the allocator: `python -m ds01.gpu_allocator`, started by ds01-gpu-allocator.service."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack

from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.notify import Notifier
from ds01.common.cdifiles import CdiFiles
from ds01.common.daemon import listen_sockets, run, supervise
from ds01.common.engine import Engine
from ds01.common.inventory import read_inventory
from ds01.common.ledger import KEPT_S, Ledger
from ds01.common.peer import account
from ds01.common.policyfile import PolicyFile
from ds01.common.varlink import VarlinkServer, hung_up
from ds01.gpu_allocator.allocator import Allocator
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.engine_watch import compare_slowly, follow
from ds01.gpu_allocator.interface import AllocatorInterface

GPU_LOOK_S = 10.0
"""How often the GPUs are looked at when nobody asks."""


async def start(stack: AsyncExitStack) -> str:
    """Bring the allocator up; the status line."""
    log = JournalEventLog()
    engine = Engine()
    ledger = Ledger.open()
    stack.callback(ledger.close)
    ledger.forget(time.time() - KEPT_S)
    book = Book(ledger, CdiFiles(), log, time.time)
    allocator = Allocator(book, PolicyFile(), engine, read_inventory, account, log, time.time)
    for listener in listen_sockets(os.environ, os.getpid())["allocator"]:
        server = VarlinkServer(
            listener, lambda peer, link: AllocatorInterface(peer, allocator, lambda: not hung_up(link))
        )
        server.start()
        stack.callback(server.close)
    works = {"gpus": look_at_gpus(allocator, book, Notifier()), "engine": follow(engine, allocator, time.time)}
    works["ledger"] = compare_slowly(allocator)
    for name, work in works.items():
        stack.callback(supervise(asyncio.create_task(work, name=name)).cancel)
    return status(book)


def status(book: Book) -> str:
    """The line for `systemctl status`."""
    held = sum(len(lease.units) for lease in book.leases)
    return f"{len(book.leases)} leases hold {held} units; {len(book.units)} units exist"


async def look_at_gpus(allocator: Allocator, book: Book, notifier: Notifier) -> None:
    """For ever: let the device entries follow the GPUs, and systemd know how things are."""
    while True:
        await allocator.look_at_gpus()
        notifier.status(status(book))
        await asyncio.sleep(GPU_LOOK_S)


if __name__ == "__main__":
    run(start, Notifier())
