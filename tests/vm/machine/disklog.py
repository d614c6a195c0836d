"""What a disk holds after its power was cut: all that the guest had asked it to flush, and nothing it wrote since.

QEMU's blklogwrites keeps every write and flush in the format of Linux' dm-log-writes: a header, then entries of one
sector each that are followed by their data.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_SECTOR = 512
_HEADER = struct.Struct("<QQQL")  # magic, version, entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of data that belongs to none of the sectors
_MAGIC = 0x6A736677736872
_FLUSH, _DISCARD = 1, 4

Entry = tuple[int, int, int, int]
"""Where on the disk, how many bytes, flags, where in the log the data is."""


def replay_flushed(log: Path, disk: Path) -> int:
    """Writes to `disk`, which is as it was when the log began, what reached it for certain; how many bytes did not."""
    with log.open("rb") as source, disk.open("r+b") as target:
        entries = _entries(source)
        flushes = [number for number, entry in enumerate(entries) if entry[2] & _FLUSH]
        durable = flushes[-1] if flushes else 0
        for where, length, flags, data in entries[:durable]:
            if not flags & _DISCARD:
                target.seek(where)
                target.write(_read(source, data, length))
        return sum(length for _, length, _, _ in entries[durable:])


def _entries(source: BinaryIO) -> list[Entry]:
    """Those the log is sure of: its header counts them at each flush."""
    magic, _, count, sector = _HEADER.unpack(_read(source, 0, _HEADER.size))
    if magic != _MAGIC or sector != _SECTOR:
        raise ValueError("this is no log of writes in sectors of 512 bytes")
    entries, position = [], _SECTOR
    for _ in range(count):
        first, sectors, flags, _ = _ENTRY.unpack(_read(source, position, _ENTRY.size))
        position += _SECTOR
        entries.append((first * _SECTOR, sectors * _SECTOR, flags, position))
        if not flags & _DISCARD:
            position += sectors * _SECTOR
    return entries


def _read(source: BinaryIO, where: int, length: int) -> bytes:
    return os.pread(source.fileno(), length, where)
