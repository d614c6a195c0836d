"""A host's file systems: the image's tree below, the host's own disk above, /var and /home straight on that disk.

The disk is ext4 on a loop file, so that power can be cut, and so that the engine can lay an overlay on it.
Must run in private mounts.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from lib.places import HostError, HostPlaces
from lib.talk import run

_DETACHED_WITHIN_S = 10.0


def copy_disk(source: Path, target: Path) -> None:
    """A sparse copy."""
    run(["cp", "--sparse=always", "--reflink=auto", source, target])


def mount_all(places: HostPlaces, tree: Path) -> None:
    """Puts the root together at `places.root`."""
    places.disk.mkdir(exist_ok=True)
    places.root.mkdir(exist_ok=True)
    run(["mount", "-o", "loop", places.disk_image, places.disk])
    layers = f"lowerdir={tree},upperdir={places.disk}/upper,workdir={places.disk}/work"
    run(["mount", "-t", "overlay", "-o", f"{layers},redirect_dir=off,metacopy=off,index=off", "overlay", places.root])
    for folder in ("var", "home"):
        run(["mount", "--bind", places.disk / folder, places.root / folder])


def unmount_all(places: HostPlaces) -> None:
    """Takes the root apart; returns when the loop device has let go of the disk's file.

    Raises:
        HostError: something still holds the disk.
    """
    for path in (places.root / "var", places.root / "home", places.root, places.disk):
        subprocess.run(["umount", "--recursive", path], check=False, capture_output=True)
    deadline = time.monotonic() + _DETACHED_WITHIN_S
    while is_attached(places.disk_image):
        if time.monotonic() > deadline:
            raise HostError(f"'{places.disk_image}' is still in use: 'losetup -a' shows the device")
        time.sleep(0.01)


def is_attached(image: Path) -> bool:
    """Whether some loop device has the file open."""
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if device.read_text().strip() == str(image):
                return True
    return False
