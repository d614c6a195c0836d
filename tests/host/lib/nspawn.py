"""Boots a root with systemd-nspawn: which options make it as good as a machine. Owns the command line."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from lib import cgroup, kernel
from lib.places import HostPlaces

REBOOT = 133  # systemd-nspawn's status when the host inside asked for a reboot


def boot(places: HostPlaces, group: Path, notify: Path) -> subprocess.Popen[bytes]:
    """Starts the host in its cgroup; systemd-nspawn tells the leader's pid and readiness on `notify`."""

    forget_last_boot(places)

    def enter() -> None:
        kernel.die_with_parent()
        cgroup.enter(group)

    with places.console.open("ab") as console:
        return subprocess.Popen(
            _command(places),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": str(notify),
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
                "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            },
            start_new_session=True,
            preexec_fn=enter,
        )


def forget_last_boot(places: HostPlaces) -> None:
    """systemd-nspawn 256 and newer refuse to start where one that was killed has left its exported sockets."""
    for kind in ("unix-export", "propagate"):
        folder = Path("/run/systemd/nspawn") / kind / places.cgroup
        if folder.exists():
            subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


def _command(places: HostPlaces) -> list[str]:
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={places.root}",
        f"--machine={places.cgroup}",
        f"--hostname={places.name}",
        "--register=no",
        "--keep-unit",
        "--notify-ready=yes",
        "--private-network",
        "--capability=all",
        "--system-call-filter=add_key keyctl bpf",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--boot",
        "systemd.show_status=error",
    ]
