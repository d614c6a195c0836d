"""Where a process of the host runs, and as whom: read from /proc, judged by its cgroup."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass

from ds01.common.errors import PeerRefused
from ds01.common.unitnames import owner_of

_CONTAINER = re.compile(r"docker-([0-9a-f]{64})\.scope")


@dataclass(frozen=True, slots=True)
class Place:
    """A process's owner (by the slice that it runs in, else by its uid), his name, and its container or scope.

    `is_service`: root's own service of the system, such as the driver's persistence daemon.
    """

    owner: int
    user: str
    container: str
    scope: str
    is_service: bool = False


def place_of(pid: int) -> Place | None:
    """Where process `pid` runs; None if it is gone or can't be read."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as lines:
            cgroup = next((line[3:].rstrip("\n") for line in lines if line.startswith("0::")), "")
    except OSError:
        return None
    return judge(uid, cgroup)


def judge(uid: int, cgroup: str) -> Place:
    """The place that a uid and a cgroup come to."""
    parts = [part for part in cgroup.split("/") if part]
    container = next((found for part in parts if (found := _CONTAINER.fullmatch(part))), None)
    scope = parts[3] if len(parts) > 3 and parts[0] == "ds01.slice" and parts[3].startswith("ds01-") else ""
    owner, user = _owner(uid, parts)
    is_service = uid == 0 and parts[:1] == ["system.slice"] and container is None
    return Place(owner, user, container[1] if container else "", scope, is_service)


def _owner(uid: int, parts: list[str]) -> tuple[int, str]:
    """A container's processes have uids of its own; the slice says whose they are."""
    try:
        said = owner_of(parts[2]) if len(parts) > 2 and parts[0] == "ds01.slice" else None
        entry = pwd.getpwuid(uid if said is None else said) if not isinstance(said, str) else pwd.getpwnam(said)
    except (KeyError, PeerRefused):
        return uid, f"uid {uid}"
    return entry.pw_uid, entry.pw_name


def gpu_nodes(pid: int) -> frozenset[str] | None:
    """The host's nodes below /dev that are mounted into the process's file system; None if that can't be told.

    Containers of remapped users have devices as mounts of the host's nodes, since they may not make any themselves.
    """
    try:
        host = os.stat("/dev").st_dev
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as lines:
            mounts = [line.split(" ", 5) for line in lines]
    except OSError:
        return None
    here = f"{os.major(host)}:{os.minor(host)}"
    return frozenset(f"/dev{root}" for _, _, device, root, _, _ in mounts if device == here and "nvidia" in root)
