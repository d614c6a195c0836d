"""Who is at the other end of a Unix socket. The one rule for every socket that DS01 serves.

The kernel's word is taken for the process (SO_PEERPIDFD, Linux 6.5) and for its uid at connect time (SO_PEERCRED);
the process's cgroup says where it runs, and is read between two checks that the process still lives, since a pid may
be dead or somebody else's by now. `origin` is the rule itself, a pure function of what was read.
"""

from __future__ import annotations

import grp
import os
import pwd
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from ds01.common.errors import PeerRefused
from ds01.common.unitnames import owner_of

SO_PEERPIDFD = 77
"""include/uapi/asm-generic/socket.h; Python has no name for it yet."""

ADMIN_GROUP = "ds01-admin"

ACCOUNTS_AGE_S = 1.0
"""How old an account may be when it is decided on."""

INITIAL_UID_MAP = ("0", "0", "4294967295")
"""/proc/PID/uid_map of a process in the initial user namespace; only root over everything can make another like it."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What the kernel says of the peer, unjudged."""

    uid: int
    cgroup: str
    uid_map: tuple[str, ...]
    pid_namespaces: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a peer runs: `top` is the slice below the root, `unit` the unit in it, `owner` set under a user's slice."""

    top: str
    unit: str
    owner: int | str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A caller whose identity is established. `service` is the unit name if it runs as a system service, else ''."""

    uid: int
    user: str
    groups: frozenset[str]
    pid: int
    service: str
    is_admin: bool


def origin(facts: PeerFacts) -> Origin:
    """Where the peer runs.

    Raises:
        PeerRefused: a place from which nobody may ask.
    """
    if facts.uid_map != INITIAL_UID_MAP or facts.pid_namespaces != 1:
        raise PeerRefused("the caller is in a container or in a namespace of its own; ask from the host")
    parts = [part for part in facts.cgroup.split("/") if part]
    if not parts or ".." in parts:
        raise PeerRefused(f"the caller's cgroup '{facts.cgroup}' is outside every slice; ask from a login session")
    if parts[0] == "ds01.slice":
        owner = owner_of(parts[2]) if len(parts) > 2 else None
        if owner is None:
            raise PeerRefused(f"the caller's slice '{facts.cgroup}' has no owner")
        return Origin("ds01.slice", parts[2], owner)
    if parts[0] == "system.slice":
        return Origin("system.slice", parts[1] if len(parts) > 1 else "")
    if parts[0] == "user.slice":
        return Origin("user.slice", parts[2] if len(parts) > 2 else "")
    raise PeerRefused(f"nobody may ask from '{parts[0]}'; ask from a login session")


def identify(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket.

    Raises:
        PeerRefused: it is dead, can't be read, or runs where nobody may ask from.
    """
    uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    pidfd = peer_pidfd(connection)
    try:
        return _identify(uid, pidfd)
    finally:
        os.close(pidfd)


def peer_pidfd(connection: socket.socket) -> int:
    """A new descriptor of the process that connected.

    Raises:
        PeerRefused: it is gone.
    """
    try:
        return int(struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0])
    except OSError as exc:
        raise PeerRefused("the caller is gone") from exc


def _identify(uid: int, pidfd: int) -> Peer:
    pid = _living(pidfd)
    try:
        facts = _read_facts(uid, pid)
    except (OSError, ValueError, KeyError) as exc:
        raise PeerRefused("the caller can't be read") from exc
    if _living(pidfd) != pid:
        raise PeerRefused("the caller changed while it was looked at")
    place = origin(facts)
    entry = _account(place.owner if place.owner is not None else uid)
    groups = frozenset(_groups(entry))
    in_session = place.top == "user.slice"
    return Peer(
        uid=entry.pw_uid,
        user=entry.pw_name,
        groups=groups,
        pid=pid,
        service=place.unit if place.top == "system.slice" and uid == 0 else "",
        is_admin=place.owner is None and ((uid == 0 and in_session) or ADMIN_GROUP in groups),
    )


def account(uid: int) -> tuple[str, frozenset[str]]:
    """Name and Unix groups of `uid` by NSS.

    Raises:
        PeerRefused: no such account.
    """
    entry = _account(uid)
    return entry.pw_name, frozenset(_groups(entry))


class Accounts:
    """The same, asked of NSS once a second at most: it may be a server far away, and every decision asks again."""

    def __init__(self, clock: Callable[[], float], look: Callable[[int], tuple[str, frozenset[str]]] = account) -> None:
        self._clock = clock
        self._look = look
        self._known: dict[int, tuple[str, frozenset[str]]] = {}
        self._since = 0.0

    def __call__(self, uid: int) -> tuple[str, frozenset[str]]:
        """Name and Unix groups of `uid`, as they were within the last second. Raises as `account` does."""
        now = self._clock()
        if now - self._since >= ACCOUNTS_AGE_S:
            self._known, self._since = {}, now
        if uid not in self._known:
            self._known[uid] = self._look(uid)
        return self._known[uid]


def uid_of(user: str) -> int:
    """The uid of an account by its name.

    Raises:
        PeerRefused: no such account.
    """
    return _account(user).pw_uid


def _living(pidfd: int) -> int:
    """The pid behind a pidfd whose process has not exited."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(0):
        raise PeerRefused("the caller has exited")
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    pid = int(fields["Pid"])
    if pid <= 0:
        raise PeerRefused("the caller has exited")
    return pid


def _read_facts(uid: int, pid: int) -> PeerFacts:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as lines:
        cgroup = next((line[3:].rstrip("\n") for line in lines if line.startswith("0::")), "")
    with open(f"/proc/{pid}/uid_map", encoding="ascii") as text:
        uid_map = tuple(text.read().split())
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        namespaces = next((line for line in lines if line.startswith("NSpid:")), "").split()[1:]
    return PeerFacts(uid, cgroup, uid_map, len(namespaces))


def _account(who: int | str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(who) if isinstance(who, int) else pwd.getpwnam(who)
    except KeyError as exc:
        raise PeerRefused(f"there is no account '{who}'") from exc


def _groups(entry: pwd.struct_passwd) -> list[str]:
    names = []
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return names
