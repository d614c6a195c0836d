"""Wires the allocator: `python -m ds01.gpu_allocator`, started by ds01-gpu-allocator.service."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress

from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.notify import Notifier
from ds01.common.adapters.systemd import Systemd
from ds01.common.cdifiles import CdiFiles
from ds01.common.daemon import listen_sockets, run, supervise
from ds01.common.engine import Engine
from ds01.common.errors import Ds01Error, LedgerBroken
from ds01.common.events import Event
from ds01.common.inventory import read_inventory, read_processes
from ds01.common.ledger import KEPT_S, LEDGER_FILE, Ledger
from ds01.common.model import Entry, Lease, Share, Waiter
from ds01.common.peer import Accounts
from ds01.common.policyfile import PolicyFile
from ds01.common.processes import gpu_nodes, place_of
from ds01.common.varlink import VarlinkServer, call
from ds01.gpu_allocator.allocator import Allocator
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.engine_side import EngineSide
from ds01.gpu_allocator.engine_watch import compare_slowly, follow
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.hosts import Hosts
from ds01.gpu_allocator.interface import AllocatorInterface
from ds01.gpu_allocator.rebuild import Sources, rebuild
from ds01.gpu_allocator.stock import Stock
from ds01.gpu_allocator.waiting import Queue

GPU_LOOK_S = 10.0
"""How often the GPUs are looked at when nobody asks."""

LIMITS_SOCKET = "/run/ds01/limits-sync.sock"


class NoLedger:
    """Stands where the ledger can't be used: knows nothing, keeps nothing."""

    def __init__(self, why: str) -> None:
        self._why = why

    def holding(self) -> tuple[Lease, ...]:
        return ()

    def waiters(self) -> tuple[Waiter, ...]:
        return ()

    def shares(self) -> dict[int, Share]:
        return {}

    def by_request(self, uid: int, request_id: str) -> Lease | None:
        raise LedgerBroken(self._why)

    def by_id(self, lease: str) -> Lease | None:
        raise LedgerBroken(self._why)

    def write(self, entries: Iterable[Entry]) -> None:
        raise LedgerBroken(self._why)


def open_ledger() -> tuple[Ledger | NoLedger, str]:
    """The ledger, or what stands for it and why."""
    try:
        ledger = Ledger.open()
    except LedgerBroken as exc:
        return NoLedger(str(exc)), str(exc)
    with suppress(LedgerBroken):  # a full disk must not keep us from serving what we know
        ledger.forget(time.time() - KEPT_S)
    return ledger, ""


async def start(stack: AsyncExitStack) -> str:
    """Bring the allocator up; the status line."""
    log, engine, systemd, policy, devices = JournalEventLog(), Engine(), Systemd(), PolicyFile(), CdiFiles()
    ledger, problem = open_ledger()
    book = Book(ledger, devices, log, time.time, lambda: policy.current().policies.fair_share_half_life_s)
    stack.callback(book.close)
    stock = Stock(read_inventory, log, book.see_units, lambda: book.leases)
    facts = Facts(book, stock, policy, Accounts(time.monotonic), time.time)
    if problem:
        facts.ledger_problem, book.is_known = problem, False
        log.emit(Event("ledger.broken", f"Nothing new is granted or released: {problem}", reason=problem))
    queue = Queue(facts)
    hosts = Hosts(facts, systemd, ensure_slice, read_processes, book.nodes, place_of)
    side = EngineSide(
        facts, engine, log, lambda lease, pid: book.strange_nodes(lease, gpu_nodes(pid)), lambda: allocator.changed()
    )
    sources = Sources(
        engine.listed,
        engine.inspect,
        gpu_nodes,
        devices.vendor,
        programs=lambda: systemd.active(["ds01-l*.scope"]),
        timers=lambda: systemd.active(["ds01-l*.timer"]),
        end=systemd.start,
    )
    allocator = Allocator(facts, side, hosts, queue, lambda: rebuild(facts, sources, LEDGER_FILE))
    systemd.listen_to_ends(hosts.ended)
    with suppress(Ds01Error):  # what is not known has not changed
        await hosts.compare_scopes()
    queue.adopt()
    for listener in listen_sockets(os.environ, os.getpid())["allocator"]:
        server = VarlinkServer(listener, lambda peer, link: AllocatorInterface(peer, allocator, link))
        server.start()
        stack.callback(server.close)
    works = {
        "gpus": look_at_gpus(allocator, facts, hosts, Notifier()),
        "engine": follow(engine, side, time.time),
        "ledger": compare_slowly(side),
    }
    for name, work in works.items():
        stack.callback(supervise(asyncio.create_task(work, name=name)).cancel)
    return status(facts)


async def ensure_slice(uid: int) -> str:
    """The slice of a user, with his limits."""
    return str((await call(LIMITS_SOCKET, "io.ds01.LimitsSync.EnsureSlice", 5.0, uid=uid))["slice"])


def status(facts: Facts) -> str:
    """The line for `systemctl status`."""
    if facts.ledger_problem:
        return f"grants nothing: {facts.ledger_problem}"
    leases = facts.book.leases
    held, waiting = sum(len(lease.units) for lease in leases), len(facts.book.waiters)
    return f"{len(leases)} leases hold {held} units; {len(facts.book.units)} units exist; {waiting} wait"


async def look_at_gpus(allocator: Allocator, facts: Facts, hosts: Hosts, notifier: Notifier) -> None:
    """For ever: let everything follow the GPUs, and systemd know how things are."""
    restored = False
    while True:
        try:
            await allocator.look()
            if not restored and not facts.ledger_problem:
                await hosts.restore_logins()
                restored = True
        except Ds01Error as exc:
            logging.getLogger(__name__).debug("%s", exc)
        notifier.status(status(facts))
        await asyncio.sleep(GPU_LOOK_S)


if __name__ == "__main__":
    run(start, Notifier())
