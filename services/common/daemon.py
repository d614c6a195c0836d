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

from ds01.common.errors import Ds01Error, Unavailable

LISTEN_FDS_START = 3
"""sd_listen_fds(3)."""


class Notify(Protocol):
    """systemd's ear."""

    def ready(self, status: str) -> None: ...
    def reloading(self) -> None: ...
    def reloaded(self) -> None: ...
    def status(self, text: str) -> None: ...
    def alive(self) -> None: ...
    def stopping(self) -> None: ...


class Reloads:
    """What `systemctl reload` does: SIGHUP runs `work`, one at a time, and systemd waits for its end."""

    def __init__(self) -> None:
        self.work: Callable[[], Awaitable[None]] | None = None
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Run `work` soon; asked during a run, once more after it."""
        self._asked.set()

    async def serve(self, notify: Notify) -> None:
        """For ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            notify.reloading()
            try:
                if self.work is not None:
                    await self.work()
            except Ds01Error as exc:
                logging.getLogger(__name__).warning("not everything could be done again: %s", exc)
            notify.reloaded()


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


def run(start: Callable[[AsyncExitStack], Awaitable[str]], notify: Notify, reloads: Reloads | None = None) -> None:
    """Run a daemon: `start` brings everything up and returns the status line; ends on SIGTERM or SIGINT.

    What `start` enters on the stack is closed in reverse order at the end. A background task that dies ends the
    daemon with status 1, so that systemd starts it again.
    """
    logging.basicConfig(level=os.environ.get("DS01_LOG_LEVEL", "INFO"), format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Few())
    asyncio.run(_run(start, notify, reloads))


async def _run(start: Callable[[AsyncExitStack], Awaitable[str]], notify: Notify, reloads: Reloads | None) -> None:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    if reloads is not None:
        loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    async with AsyncExitStack() as stack:
        notify.ready(await start(stack))
        if reloads is not None:
            stack.callback(supervise(asyncio.create_task(reloads.serve(notify), name="reload")).cancel)
        period_s = watchdog_period_s(os.environ)
        while not stop.done():
            notify.alive()
            await asyncio.wait([stop], timeout=period_s)
        notify.stopping()


class _Few(logging.Filter):
    """Lets one message of asyncvarlink a second through: what callers can provoke must not fill the journal."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is told."""
        if not record.name.startswith("asyncvarlink"):
            return True
        if record.created < self._next:
            return False
        self._next = record.created + 1.0
        return True


def supervise(task: asyncio.Task[None]) -> asyncio.Task[None]:
    """End the process with a traceback when a task that must live for ever dies; systemd starts it again."""

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            logging.getLogger(__name__).critical("'%s' died", done.get_name(), exc_info=done.exception())
            os._exit(1)

    task.add_done_callback(ended)
    return task
