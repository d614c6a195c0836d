"""Carries refusals to the journal and the ledger, off the client's path. Never blocks, never grows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ds01.common.errors import Unavailable
from ds01.common.events import Event, EventLog
from ds01.docker_shim.model import RECORDED
from ds01.docker_shim.refusals import Coalescer, Note, printable

MAX_QUEUED = 1024
IDLE_S = 3600.0

_logger = logging.getLogger(__name__)


class Audit:
    """Refusals in, events and ledger rows out."""

    def __init__(self, log: EventLog, record: Callable[[Note], Awaitable[None]], coalescer: Coalescer) -> None:
        self._log = log
        self._record = record
        self._coalescer = coalescer
        self._queue: asyncio.Queue[Note | None] = asyncio.Queue(MAX_QUEUED)

    def note(self, note: Note) -> None:
        """Take a refusal; what is no event, or too many, is dropped."""
        if note.refused.reason not in RECORDED:
            return
        told = self._coalescer.add(note, asyncio.get_running_loop().time())
        try:
            self._queue.put_nowait(told)
        except asyncio.QueueFull:
            _logger.debug("a refusal of uid %d was dropped: the queue is full", note.uid)

    async def work(self) -> None:
        """For ever: write what was noted, and what was held back when its window ends."""
        loop = asyncio.get_running_loop()
        while True:
            end = self._coalescer.next_end()
            try:
                async with asyncio.timeout(IDLE_S if end is None else max(0.0, end - loop.time())):
                    notes = [await self._queue.get()]
            except TimeoutError:
                notes = [*self._coalescer.due(loop.time())]
            for note in notes:
                if note is not None:
                    await self._write(note)

    async def _write(self, note: Note) -> None:
        self._log.emit(event_of(note))
        try:
            await self._record(note)
        except Unavailable as exc:
            _logger.debug("the ledger has no row of a refusal: %s", exc)


def event_of(note: Note) -> Event:
    """The journal's entry of a refusal."""
    refused = note.refused
    times = f" ({note.count} more like it)" if note.count > 1 else ""
    return Event(
        "access.refused",
        f"Refused {note.user or f'uid {note.uid}'}: {printable(refused.message)}{times}",
        user=note.user,
        uid=note.uid,
        container=refused.container,
        container_name=refused.container_name,
        reason=str(refused.reason),
        limit=refused.limit,
        used=refused.used,
        requested=printable(refused.requested),
        request=note.request,
        count=note.count,
    )
