"""Which folders are watched, and what a change in one of them is a hint of. Pure but for listing folders."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from ds01.common.policy.folder import FILE_NAME, FOLDER, GROUPS, SUFFIX

TRANSIENT = "/run/systemd/transient"
"""Where systemd keeps transient units, and what `systemctl set-property` changes of them."""

CONTROLS = (TRANSIENT, "/run/systemd/system.control", "/etc/systemd/system.control")
GROUP_FILE = Path("/etc/group")
_MOST_LINKS = 8


@dataclass(frozen=True, slots=True)
class Hint:
    """What may have changed: the policy's files, a unit ('' for any), or which folders there are."""

    policy: bool = False
    unit: str | None = None
    folders: bool = False


class Places:
    """The folders for the policy in `folder` and for systemd's own."""

    def __init__(self, folder: Path = FOLDER, controls: tuple[str, ...] = CONTROLS) -> None:
        self._folder = folder
        self._controls = controls
        self._targets: set[str] = set()

    def folders(self, units: Container[str]) -> list[str]:
        """Everything to watch now. A file that is a link is watched at each step of the way."""
        self._targets = set(_link_folders(self._folder / FILE_NAME))
        parents = {control.rpartition("/")[0] for control in self._controls}  # the folders come with the first change
        own = (self._folder.parent, self._folder, self._folder / GROUPS, GROUP_FILE.parent)
        found = [*map(str, own), *parents, *self._controls]
        return [*found, *sorted(self._targets), *self._drop_in_folders(units)]

    def hint(self, folder: str, name: str) -> Hint | None:
        """What an entry that came, went or was written means; None for nothing."""
        if not folder:  # the kernel's queue overflowed
            return Hint(policy=True, unit="", folders=True)
        if folder == str(self._folder):
            return Hint(policy=True, folders=True) if name in (FILE_NAME, GROUPS, "") else self._linked(folder, name)
        if folder == str(self._folder / GROUPS):
            return Hint(policy=True, folders=not name) if name.endswith(SUFFIX) or not name else None
        if f"{folder}/{name}" == str(self._folder):  # it was replaced as a whole
            return Hint(policy=True, folders=True)
        if folder == str(GROUP_FILE.parent):
            return Hint(policy=True) if name == GROUP_FILE.name else self._linked(folder, name)
        if f"{folder}/{name}" in self._controls:
            return Hint(unit="", folders=True)
        if folder in self._controls:
            unit = name.removesuffix(".d")
            return Hint(unit=unit, folders=name.endswith(".d")) if unit.endswith((".slice", ".service")) else None
        if folder.rpartition("/")[0] in self._controls:
            return Hint(unit=folder.rpartition("/")[2].removesuffix(".d"), folders=not name)
        return self._linked(folder, name)

    def _linked(self, folder: str, name: str) -> Hint | None:
        return Hint(policy=True, folders=True) if folder in self._targets and not name.endswith("~") else None

    def _drop_in_folders(self, units: Container[str]) -> Iterator[str]:
        for control in self._controls:
            try:
                names = os.listdir(control)
            except OSError:
                continue
            yield from (f"{control}/{name}" for name in names if name.endswith(".d") and name[:-2] in units)


def _link_folders(path: Path) -> Iterator[str]:
    """The folders in which a step of a chain of links lies, links on the way to a file included."""
    todo, done, links = list(path.parts[1:]), Path("/"), 0
    while todo and links <= _MOST_LINKS:
        step = done / todo.pop(0)
        try:
            to = Path(os.readlink(step))
        except OSError:
            done = done.parent if step.name == ".." else step
            continue
        links += 1
        yield str(done)
        done, todo = (Path("/"), [*to.parts[1:], *todo]) if to.is_absolute() else (done, [*to.parts, *todo])
    yield str(done.parent)
