"""Wires limits_sync: `python -m ds01.limits_sync`, started by ds01-limits-sync.service."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.notify import Notifier
from ds01.common.adapters.systemd import Systemd
from ds01.common.daemon import listen_sockets, run
from ds01.common.peer import account
from ds01.common.policyfile import PolicyFile
from ds01.common.varlink import VarlinkServer
from ds01.limits_sync.interface import LimitsSyncInterface
from ds01.limits_sync.keeper import Keeper


async def start(stack: AsyncExitStack) -> str:
    """Bring limits_sync up; the status line."""
    systemd = Systemd()
    stack.push_async_callback(systemd.close)
    keeper = Keeper(systemd, PolicyFile(), account, JournalEventLog())
    for listener in listen_sockets(os.environ, os.getpid())["limits-sync"]:
        server = VarlinkServer(listener, lambda peer, _: LimitsSyncInterface(peer, keeper))
        server.start()
        stack.callback(server.close)
    return f"{keeper.count} users have had a slice"


if __name__ == "__main__":
    run(start, Notifier())
