"""What every daemon does alike: sockets from systemd, READY, watchdog, SIGTERM. Knows nothing of any service."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Protocol

from ds01.common.errors import Unavailable

LISTEN_FDS_START = 3
"""sd_listen_fds(3)."""


class Notify(Protocol):
    """systemd's ear."""

    def ready(self, status: str) -> None: ...
    def status(self, text: str) -> None: ...
    def alive(self) -> None: ...
    def stopping(self) -> None: ...


def listen_sockets(environ: Mapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """The sockets systemd hands over, by FileDescriptorName.

    Raises:
        Unavailable: not started by socket activation.
    """
    if environ.get("LISTEN_PID") != str(pid):
        raise Unavailable("this service is started by its socket unit: systemctl start ds01.target")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(environ["LISTEN_FDS"])):
        listener = socket.socket(fileno=LISTEN_FDS_START + index)
        listener.setblocking(False)
        os.set_inheritable(listener.fileno(), False)
        found.setdefault(names[index] if index < len(names) else "unknown", []).append(listener)
    return found


def watchdog_period_s(environ: Mapping[str, str]) -> float | None:
    """How often to say WATCHDOG=1: half of what systemd allows; None where it does not ask."""
    usec = environ.get("WATCHDOG_USEC")
    return int(usec) / 2_000_000 if usec else None


def run(start: Callable[[AsyncExitStack], Awaitable[str]], notify: Notify) -> None:
    """Run a daemon: `start` brings everything up and returns the status line; ends on SIGTERM or SIGINT.

    What `start` enters on the stack is closed in reverse order at the end. A background task that dies ends the
    daemon with status 1, so that systemd starts it again.
    """
    logging.basicConfig(level=os.environ.get("DS01_LOG_LEVEL", "INFO"), format="%(message)s", stream=sys.stderr)
    asyncio.run(_run(start, notify))


async def _run(start: Callable[[AsyncExitStack], Awaitable[str]], notify: Notify) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    async with AsyncExitStack() as stack:
        notify.ready(await start(stack))
        period_s = watchdog_period_s(os.environ)
        while not stop.done():
            notify.alive()
            await asyncio.wait([stop], timeout=period_s)
        notify.stopping()


def supervise(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """End the process with a traceback when a task that must live for ever dies; systemd starts it again."""

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            logging.getLogger(__name__).critical("'%s' died", done.get_name(), exc_info=done.exception())
            os._exit(1)

    task.add_done_callback(ended)
    return task
