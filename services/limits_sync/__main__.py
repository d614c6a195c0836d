"""Wires limits_sync: `python -m ds01.limits_sync`, started by ds01-limits-sync.service."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

from ds01.common.adapters.inotify import FolderWatch
from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.notify import Notifier
from ds01.common.adapters.systemd import Systemd
from ds01.common.adapters.yamltree import read_tree
from ds01.common.daemon import Reloads, listen_sockets, run, supervise
from ds01.common.engine import Engine
from ds01.common.machine import read_machine
from ds01.common.peer import account
from ds01.common.policy.build import Built, build, built_in
from ds01.common.policy.folder import read_files
from ds01.common.varlink import VarlinkServer
from ds01.limits_sync.cgroupfs import Cgroups
from ds01.limits_sync.containers import Containers
from ds01.limits_sync.devicelinks import missing_links
from ds01.limits_sync.interface import LimitsSyncInterface
from ds01.limits_sync.keeper import Keeper
from ds01.limits_sync.pendings import Pendings
from ds01.limits_sync.places import Places
from ds01.limits_sync.publish import Publisher
from ds01.limits_sync.sync import Sync
from ds01.limits_sync.units import Units


def from_files() -> Built:
    """The policy of the files as they are now."""
    return build(read_files(), read_tree, read_machine())


def without_files() -> Built:
    """The policy of a machine that has none."""
    return built_in(read_machine())


class Daemon:
    """limits_sync, built."""

    def __init__(self) -> None:
        self.systemd, self.log, notify = Systemd(), JournalEventLog(), Notifier()
        kernel, pendings = Cgroups(), Pendings()
        self.units = Units(self.systemd, kernel, pendings, self.log)
        self.containers = Containers(
            Engine(timeout_s=3.0), kernel, pendings, self.log, lambda uid: self.keeper.limits_of(uid), missing_links
        )
        self.keeper = Keeper(self.units, kernel, account, self.containers.has_any, self.systemd.stop)
        self.sync = Sync(
            from_files, without_files, Publisher(), self.units, self.keeper, self.containers, pendings,
            self.systemd, Places(), notify, self.log,
        )  # fmt: skip

    async def start(self, stack: AsyncExitStack) -> str:
        """Bring it up; the status line."""
        stack.push_async_callback(self.systemd.close)
        self.systemd.listen(self.sync.reloaded, self.sync.logged_in)
        watch = FolderWatch(self.sync.changed)
        watch.start()
        stack.callback(watch.close)
        stack.callback(self.sync.close)
        state = await self.sync.start(watch)
        for listener in listen_sockets(os.environ, os.getpid())["limits-sync"]:
            server = VarlinkServer(listener, lambda peer, _: LimitsSyncInterface(peer, self.keeper))
            server.start()
            stack.callback(server.close)
        stack.callback(supervise(asyncio.create_task(self.containers.follow(), name="engine")).cancel)
        return state

    async def reload(self) -> None:
        """`systemctl reload`."""
        await self.sync.reload()


if __name__ == "__main__":
    reloads = Reloads()

    async def start(stack: AsyncExitStack) -> str:
        """Build inside of the loop."""
        daemon = Daemon()
        reloads.work = daemon.reload
        return await daemon.start(stack)

    run(start, Notifier(), reloads)
