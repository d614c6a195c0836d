"""What a disk holds after its power was cut: all that the guest had asked it to flush, and nothing it wrote since.

QEMU's blklogwrites keeps every write and flush in the format of Linux' dm-log-writes: a header, then entries of one
sector each that are followed by their data.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SECTOR = 512
_HEADER = struct.Struct("<QQQL")  # magic, version, entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, sectors, flags, length of data that belongs to none of the sectors
_MAGIC = 0x6A736677736872
_FLUSH, _DISCARD = 1, 4


def replay_flushed(log: Path, disk: Path) -> None:
    """Writes to `disk`, which is as it was when the log began, what reached it for certain."""
    with disk.open("r+b") as target:
        for where, data in flushed(log):
            target.seek(where)
            target.write(data)


def flushed(log: Path) -> Iterator[tuple[int, bytes]]:
    """Writes that a flush came after: where on the disk, and what."""
    with log.open("rb") as source:
        entries = list(_entries(source))
        last = max((number for number, entry in enumerate(entries) if entry.flags & _FLUSH), default=0)
        for entry in entries[:last]:
            if not entry.flags & _DISCARD:
                yield entry.where, _read(source, entry.data, entry.length)


@dataclass(frozen=True, slots=True)
class _Entry:
    """In bytes. where: on the disk; data: in the log."""

    where: int
    length: int
    flags: int
    data: int


def _entries(source: BinaryIO) -> Iterator[_Entry]:
    """Those the log is sure of: its header counts them at each flush."""
    magic, _, count, sector = _HEADER.unpack(_read(source, 0, _HEADER.size))
    if magic != _MAGIC or sector != _SECTOR:
        raise ValueError("this is no log of writes in sectors of 512 bytes")
    position = _SECTOR
    for _ in range(count):
        first, sectors, flags, _ = _ENTRY.unpack(_read(source, position, _ENTRY.size))
        length = 0 if flags & _DISCARD else sectors * _SECTOR
        yield _Entry(first * _SECTOR, length, flags, position + _SECTOR)
        position += _SECTOR + length


def _read(source: BinaryIO, where: int, length: int) -> bytes:
    return os.pread(source.fileno(), length, where)
