"""Tells when the other end of a Unix socket is closed for good, also while nobody reads from it.

A half-closed peer (it has said everything and still listens) is not gone; the kernel says EPOLLHUP only when both
directions are shut. asyncio has no event for it, so one epoll instance of ours hangs in its loop.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager


class Hangups:
    """One per event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._events: dict[int, asyncio.Event] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._look)

    def close(self) -> None:
        """Stop watching."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    @contextmanager
    def watch(self, fileno: int) -> Iterator[asyncio.Event]:
        """An event that is set when the peer of this socket is gone."""
        event = asyncio.Event()
        watched = os.dup(fileno)  # asyncio closes the original when it likes, and its number comes back as another's
        try:
            self._epoll.register(watched, select.EPOLLONESHOT)
            self._events[watched] = event
            try:
                yield event
            finally:
                del self._events[watched]
                self._epoll.unregister(
                    watched
                )  # close alone would leave the entry: the original keeps the socket alive
        finally:
            os.close(watched)

    def _look(self) -> None:
        for fileno, _ in self._epoll.poll(0):
            event = self._events.get(fileno)
            if event is not None:
                event.set()
