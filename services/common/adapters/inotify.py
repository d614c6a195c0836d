"""Changes of folders. The only importer of inotify_simple."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable

from inotify_simple import INotify, flags

_MASK = (
    flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.CREATE | flags.DELETE | flags.ATTRIB
    | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR
)  # fmt: skip


class FolderWatch:
    """Tells `changed(folder, name)` for each entry that comes, goes or is written; `name` "" for the folder itself.

    After an overflow of the kernel's queue `changed("", "")` is told once: anything may have changed.
    """

    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._changed = changed
        self._inotify = INotify(nonblocking=True)
        self._folders: dict[int, str] = {}

    def start(self) -> None:
        """Begin to tell."""
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._read)

    def watch(self, folders: Iterable[str]) -> None:
        """Watch exactly these folders from now on; those that do not exist are left out."""
        wanted = set(folders)
        for watch, folder in list(self._folders.items()):
            if folder not in wanted:
                del self._folders[watch]
                self._forget(watch)
        for folder in sorted(wanted):
            try:
                # The same folder has the same number again; one that was replaced has a new one.
                self._folders[self._inotify.add_watch(folder, _MASK)] = folder
            except OSError:
                continue

    def close(self) -> None:
        """Stop."""
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        self._inotify.close()

    def _forget(self, watch: int) -> None:
        try:
            self._inotify.rm_watch(watch)
        except OSError:
            return  # the folder is gone, and its watch with it

    def _read(self) -> None:
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                self._changed("", "")
            elif event.mask & flags.IGNORED:
                self._folders.pop(event.wd, None)
            elif event.wd in self._folders:
                folder, name = self._folders[event.wd], os.fsdecode(event.name)
                if not (event.mask & flags.CREATE and _is_being_written(f"{folder}/{name}")):
                    self._changed(folder, name)


def _is_being_written(path: str) -> bool:
    """A file that was just made is told when its writer closes it; a link to one that was there, at once."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
