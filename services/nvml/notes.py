"""The fatal Xids that GPUs had, one small file each by UUID.

The folder is this service's runtime directory: it outlives the service, not the machine's boot, and a reboot is what
makes a GPU well in the end. Who knows better than NVML that a GPU is well removes its file.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ds01.common.errors import Unavailable
from ds01.nvml.health import XidNote


class XidNotes:
    """Safe for several threads: one hears of Xids while another looks at the GPUs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def add(self, uuid: str, xid: int) -> None:
        """A GPU had a fatal Xid. The newest counts: whatever was seen of the GPU before it proves nothing any more.

        Raises:
            Unavailable: it can't be written down.
        """
        with self._lock:
            self._write(uuid, XidNote(xid))

    def change(self, uuid: str, change: Callable[[XidNote], XidNote | None]) -> XidNote | None:
        """Replace a GPU's note, if it has one, by what `change` makes of it; the note after that.

        Raises:
            Unavailable: the notes can't be read or written.
        """
        with self._lock:
            old = self._read(uuid)
            new = change(old) if old is not None else None
            if new != old:
                self._write(uuid, new)
            return new

    def uuids(self) -> list[str]:
        """The GPUs with a note."""
        return sorted(path.name for path in self._folder.glob("GPU-*"))

    def _read(self, uuid: str) -> XidNote | None:
        try:
            return XidNote(**json.loads((self._folder / uuid).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError) as exc:
            path = self._folder / uuid
            raise Unavailable(
                f"the note of an Xid in '{path}' can't be read: {exc}; remove it, if the GPU is well"
            ) from exc

    def _write(self, uuid: str, note: XidNote | None) -> None:
        path = self._folder / uuid
        try:
            if note is None:
                path.unlink(missing_ok=True)
                return
            fresh = path.with_name(f".{uuid}")
            fresh.write_text(json.dumps(asdict(note)) + "\n", encoding="utf-8")
            fresh.replace(path)
        except OSError as exc:
            raise Unavailable(f"the note of an Xid can't be written to '{path}': {exc}") from exc
