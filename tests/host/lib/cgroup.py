"""The cgroup that a host runs in, on a hierarchy of our own where the machine has none. Needs private mounts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from lib import kernel
from lib.places import CGROUP, SYSTEMD

_MOUNT = Path("/sys/fs/cgroup")
_EMPTY_WITHIN_S = 10.0


def prepare(name: str) -> Path:
    """The host's cgroup, made anew, with every controller that can be had."""
    _see_unified()
    group = _parent() / name
    remove(group)
    while not group.is_dir():  # the last host to go may take our parent away in between
        with contextlib.suppress(FileNotFoundError):
            group.parent.mkdir(exist_ok=True)
            _enable_controllers(group.parent)
            group.mkdir()
    return group


def existing(name: str) -> Path:
    """The host's cgroup as an earlier supervisor left it; it need not be there."""
    _see_unified()
    return _parent() / name


def enter(group: Path) -> None:
    """Puts the calling process in the cgroup."""
    (group / "cgroup.procs").write_text("0")


def freeze(group: Path) -> None:
    """Stops every process of the host, so that none sees what is done to it next."""
    (group / "cgroup.freeze").write_text("1")


def kill(group: Path) -> None:
    """SIGKILL for every process of the host at once; returns when none is left."""
    if not group.is_dir():
        return
    (group / "cgroup.kill").write_text("1")
    with contextlib.suppress(OSError):
        (group / "cgroup.freeze").write_text("0")
    deadline = time.monotonic() + _EMPTY_WITHIN_S
    while "populated 1" in (group / "cgroup.events").read_text() and time.monotonic() < deadline:
        _reap()
        time.sleep(0.005)


def remove(group: Path) -> None:
    """Kills what is in the cgroup and removes its tree, and our parent when this was its last child."""
    kill(group)
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    with contextlib.suppress(OSError):
        group.parent.rmdir()


def _see_unified() -> None:
    if kernel.is_cgroup2(_MOUNT):
        return
    subprocess.run(["umount", "--lazy", "--recursive", _MOUNT], check=False, capture_output=True)
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", _MOUNT], check=True)


def _parent() -> Path:
    """Below the root where nobody manages the tree, else below the scope that systemd gave us."""
    if not SYSTEMD.is_dir():
        return _MOUNT / CGROUP
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return _MOUNT / own.lstrip("/").removesuffix("/supervisor")


def _enable_controllers(parent: Path) -> None:
    if parent.name != CGROUP:  # a delegated scope: no process may stay where controllers are handed down
        (parent / "supervisor").mkdir(exist_ok=True)
        enter(parent / "supervisor")
    for group in (parent.parent, parent) if parent.name == CGROUP else (parent,):
        for controller in (group / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
