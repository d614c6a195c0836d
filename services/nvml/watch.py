"""Hears of Xid errors in a thread of its own, since NVML's calls can hang, and notes the fatal ones."""

from __future__ import annotations

import logging
import os
import threading
import time

from ds01.common.errors import Unavailable
from ds01.common.gpus import XidEvent, XidReader
from ds01.common.xids import describe, fatal
from ds01.nvml.notes import XidNotes

PAUSE_S = 0.5
"""Between two attempts to register: a driver may be loaded, or a lost GPU come back, at any time."""

_logger = logging.getLogger(__name__)


class XidWatch:
    """Runs until the process ends; nobody waits for it."""

    def __init__(self, reader: XidReader, notes: XidNotes, pause_s: float = PAUSE_S) -> None:
        self._reader = reader
        self._notes = notes
        self._pause_s = pause_s

    def start(self) -> None:
        """Begin to listen."""
        threading.Thread(target=self._listen, name="xids", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._hear()
                time.sleep(self._pause_s)
        except Exception:
            _logger.critical("'xids' died", exc_info=True)
            os._exit(1)  # a service that hears of nothing any more must not look alive; systemd starts it again

    def _hear(self) -> None:
        try:
            for event in self._reader.events():
                self._note(event)
        except Unavailable as exc:
            _logger.debug("%s", exc)

    def _note(self, event: XidEvent) -> None:
        words = fatal(event.xid)
        if words is None:
            _logger.info("GPU %s had %s: it goes on", event.gpu_uuid or "unknown", describe(event.xid))
            return
        _logger.warning("GPU %s had %s: it is withheld until it is reset", event.gpu_uuid or "unknown", words)
        if event.gpu_uuid:
            self._notes.add(event.gpu_uuid, event.xid)
