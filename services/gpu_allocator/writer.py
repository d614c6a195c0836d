"""Writes the ledger in a thread of its own: what comes in while the disk works is made durable together.

Many small transactions cost one sync each; a group commit costs one for all of them. Order is kept. When a write fails,
everything that was handed over until its sender knows of the failure fails as well, since it was decided on a state
that never became durable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ds01.common.errors import LedgerBroken
from ds01.common.model import Entry

MOST_AT_ONCE = 256


class Durable(Protocol):
    """The ledger."""

    def write(self, entries: Iterable[Entry]) -> None: ...


Settle = Callable[[Sequence[Entry], LedgerBroken | None], None]
"""Told in the event loop that these entries are durable, or that none of them is, and why."""


class LedgerWriter:
    """One thread. `settle` is called in the loop for each batch, in the order in which entries were handed over."""

    def __init__(self, ledger: Durable, settle: Settle) -> None:
        self._ledger = ledger
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._entries: queue.SimpleQueue[tuple[int, Entry] | None] = queue.SimpleQueue()
        self._generation = 0  # the loop's: entries decided on after this many failures
        self._failures = 0  # the thread's
        self._thread = threading.Thread(target=self._work_or_die, name="ledger", daemon=True)
        self._thread.start()

    def write(self, entry: Entry) -> None:
        """Make it durable soon."""
        self._entries.put((self._generation, entry))

    def close(self) -> None:
        """Write what was handed over, and end."""
        self._entries.put(None)
        self._thread.join()

    def _work_or_die(self) -> None:
        """Nothing is answered without this thread: if it dies the daemon does, and systemd starts it again."""
        try:
            self._work()
        except Exception:
            logging.getLogger(__name__).critical("the ledger's thread died", exc_info=True)
            os._exit(1)

    def _work(self) -> None:
        while True:
            batch, is_last = self._batch()
            fresh = [entry for generation, entry in batch if generation == self._failures]
            stale = [entry for generation, entry in batch if generation != self._failures]
            if stale:
                self._tell(stale, LedgerBroken("the ledger could not be written a moment ago"))
            if fresh:
                self._write(fresh)
            if is_last:
                return

    def _batch(self) -> tuple[list[tuple[int, Entry]], bool]:
        """What there is, at least one; whether it is the end."""
        batch: list[tuple[int, Entry]] = []
        found = self._entries.get()
        while found is not None:
            batch.append(found)
            if len(batch) == MOST_AT_ONCE:
                return batch, False
            try:
                found = self._entries.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _write(self, entries: Sequence[Entry]) -> None:
        try:
            self._ledger.write(entries)
        except LedgerBroken as exc:
            self._failures += 1
            self._tell(entries, exc)
        else:
            self._tell(entries, None)

    def _tell(self, entries: Sequence[Entry], error: LedgerBroken | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._told, entries, error, self._failures)
        except RuntimeError:
            return  # the loop has ended, and nobody waits any more

    def _told(self, entries: Sequence[Entry], error: LedgerBroken | None, failures: int) -> None:
        self._generation = failures
        self._settle(entries, error)
