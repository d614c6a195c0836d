"""Which slices were ever made, so that they exist again before Docker starts. limits_sync writes, boot reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ds01.common.errors import Malformed
from ds01.common.slices import SliceOwner

STATE_FILE = Path("/var/lib/ds01/slices.json")


def read_owners(path: Path = STATE_FILE) -> frozenset[SliceOwner]:
    """Everybody who ever had a slice; nobody if there is no file.

    Raises:
        Malformed: the file can't be understood.
    """
    try:
        return frozenset(SliceOwner(**entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as exc:
        raise Malformed(f"'{path}' can't be read: {exc}; remove it and restart ds01-limits-sync") from exc


def write_owners(owners: Iterable[SliceOwner], path: Path = STATE_FILE) -> None:
    """Replace the file, durably: after a power cut it is the old or the new one."""
    temporary = path.with_suffix(".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump([asdict(owner) for owner in sorted(owners)], file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
