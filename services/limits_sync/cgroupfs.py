"""What the kernel says of a cgroup. Reads only."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class Cgroups:
    """The unified hierarchy."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root

    def exists(self, path: str) -> bool:
        """Whether the unit of this cgroup is there."""
        return (self._root / path).is_dir()

    def is_populated(self, path: str) -> bool:
        """Whether a process lives in it or below."""
        try:
            return "populated 1" in (self._root / path / "cgroup.events").read_text(encoding="ascii")
        except OSError:
            return False

    def used_bytes(self, path: str) -> int | None:
        """Memory in use that the kernel can't simply take back, that is without file caches.

        None where the hierarchy has no memory controller, or there is no such cgroup: a limit then kills nobody.
        """
        folder = self._root / path
        try:
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            return None
        stat = dict(line.split(" ", 1) for line in lines if " " in line)
        caches = sum(int(stat.get(name, 0)) for name in ("active_file", "inactive_file"))
        return max(0, used - caches)
