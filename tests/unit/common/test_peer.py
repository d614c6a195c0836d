from __future__ import annotations

import os
import socket

import pytest

from ds01.common.errors import PeerRefused
from ds01.common.peer import ACCOUNTS_AGE_S, INITIAL_UID_MAP, Accounts, PeerFacts, identify, origin


def facts(cgroup: str, uid: int = 0, uid_map: tuple[str, ...] = INITIAL_UID_MAP, namespaces: int = 1) -> PeerFacts:
    return PeerFacts(uid, cgroup, uid_map, namespaces)


@pytest.mark.parametrize(
    ("cgroup", "top", "unit", "owner"),
    [
        ("/user.slice/user-1001.slice/session-3.scope", "user.slice", "session-3.scope", None),
        ("/system.slice/ds01-docker-shim.service", "system.slice", "ds01-docker-shim.service", None),
        ("/system.slice/cron.service", "system.slice", "cron.service", None),
        ("/ds01.slice/ds01-student.slice/ds01-student-bob.slice/ds01-l1.scope", "ds01.slice", None, "bob"),
        ("/ds01.slice/ds01-student.slice/ds01-student-u7.slice/ds01-l1.scope", "ds01.slice", None, 7),
    ],
)
def test_who_may_ask(cgroup: str, top: str, unit: str | None, owner: int | str | None) -> None:
    place = origin(facts(cgroup))
    assert (place.top, place.owner) == (top, owner)
    assert unit is None or place.unit == unit


@pytest.mark.parametrize(
    "refused",
    [
        facts("/docker.slice/docker.service"),
        facts("/docker.slice/docker-unmanaged.slice/docker-1.scope"),
        facts("/machine.slice/x.scope"),
        facts("/init.scope"),
        facts("/"),
        facts(""),
        facts("/../../evil"),
        facts("/ds01.slice"),
        facts("/ds01.slice/ds01-student.slice"),
        facts("/system.slice/ds01-docker-shim.service", uid_map=("0", "100000", "65536")),
        facts("/system.slice/ds01-docker-shim.service", uid_map=()),
        facts("/system.slice/ds01-docker-shim.service", namespaces=2),
        facts("/user.slice/user-1001.slice/session-3.scope", uid_map=("0", "1001", "1")),
    ],
)
def test_who_may_not_ask(refused: PeerFacts) -> None:
    with pytest.raises(PeerRefused):
        origin(refused)


def test_a_users_own_manager_can_not_pose_as_a_system_service() -> None:
    path = "/user.slice/user-1001.slice/user@1001.service/system.slice/ds01-docker-shim.service"
    assert origin(facts(path, 1001)).top == "user.slice"


def test_a_dead_peer_is_refused() -> None:
    """Connect, hand the socket to nobody, exit: the kernel still has the credentials, but of a dead process."""
    ours, theirs = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0ds01-test-{os.getpid()}")
    listener.listen()
    child = os.fork()
    if child == 0:
        client = socket.socket(socket.AF_UNIX)
        client.connect(f"\0ds01-test-{os.getppid()}")
        socket.send_fds(theirs, [b"x"], [client.fileno()])
        os._exit(0)
    os.waitpid(child, 0)
    _, kept, _, _ = socket.recv_fds(ours, 1, 1)
    connection, _ = listener.accept()
    with pytest.raises(PeerRefused):
        identify(connection)
    os.close(kept[0])
    for item in (ours, theirs, listener, connection):
        item.close()


def test_an_account_is_asked_for_once_a_second() -> None:
    asked: list[int] = []
    now = [100.0]

    def look(uid: int) -> tuple[str, frozenset[str]]:
        asked.append(uid)
        return f"user{len(asked)}", frozenset({"student"})

    accounts = Accounts(lambda: now[0], look)
    assert [accounts(1001)[0], accounts(1001)[0], accounts(1002)[0]] == ["user1", "user1", "user2"]
    now[0] += ACCOUNTS_AGE_S
    assert accounts(1001)[0] == "user3"
