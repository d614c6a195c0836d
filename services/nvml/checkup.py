"""Looks at the GPUs, follows what is noted against them, and gives each its verdict. Decides in health.py."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from ds01.common.gpus import Gpu, GpuReader, Inventory, NoDriver, Sight
from ds01.nvml.health import XidNote, follow, judge
from ds01.nvml.notes import XidNotes

_logger = logging.getLogger(__name__)


class Checkup:
    """The inventory with every GPU judged."""

    def __init__(self, reader: GpuReader, notes: XidNotes) -> None:
        self._reader = reader
        self._notes = notes

    def inventory(self) -> Inventory:
        """The GPUs as they are now; one that is not fit for work is in the list, not usable, with the reason.

        Raises:
            Unavailable: NVML as a whole does not answer, or the notes can't be kept.
        """
        try:
            look = self._reader.look()
        except NoDriver:
            self._gone(set())
            raise
        # A GPU that is noted and not named among those that are listed may be one whose name is not told.
        if all(sight.gpu.uuid or sight.lost for sight in look.sights):
            self._gone({sight.gpu.uuid for sight in look.sights})
        return Inventory(look.driver, [self._judged(sight) for sight in look.sights])

    def _gone(self, listed: set[str]) -> None:
        for uuid in self._notes.uuids():
            if uuid not in listed:
                self._notes.change(uuid, _not_there)

    def _judged(self, sight: Sight) -> Gpu:
        uuid = sight.gpu.uuid
        had = uuid in self._notes.uuids()
        note = self._notes.change(uuid, partial(follow, sight=sight)) if had else None
        if had and note is None:
            _logger.info("GPU %d (%s) is well again after an Xid error", sight.gpu.index, uuid)
        return judge(sight, note)


def _not_there(note: XidNote) -> XidNote:
    return replace(note, gone=True)
