"""Whether a container that has a GPU may be changed: only where each of its nodes has a link in /dev/char.

Changing a container makes runc name its devices to systemd anew, as /dev/char/MAJOR:MINOR; a name that leads nowhere
takes the device away from a running container. The links are made by udev and by the installer.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_PATTERNS = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "nvidia-modeset", "nvidia-caps/*")


def missing_links(dev: Path = Path("/dev")) -> list[str]:
    """The GPU nodes below `dev` that have no link."""
    missing = []
    for pattern in _PATTERNS:
        for node in sorted(dev.glob(pattern)):
            try:
                found = os.stat(node)
            except OSError:
                continue
            if not stat.S_ISCHR(found.st_mode):
                continue
            link = dev / "char" / f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
            if not link.exists():
                missing.append(str(node))
    return missing
