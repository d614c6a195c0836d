from __future__ import annotations

import os
import pwd

import pytest

from ds01.common.processes import Place, gpu_nodes, judge, place_of

ID = "ab" * 32
ALICE, BOB = pwd.getpwnam("daemon"), pwd.getpwnam("nobody")
"""Accounts that every machine has."""

HIS = f"/ds01.slice/ds01-student.slice/ds01-student-{ALICE.pw_name}.slice"
BY_UID = f"/ds01.slice/ds01-student.slice/ds01-student-u{ALICE.pw_uid}.slice"


def place(owner: pwd.struct_passwd, container: str = "", scope: str = "", *, is_service: bool = False) -> Place:
    return Place(owner.pw_uid, owner.pw_name, container, scope, is_service)


ROOT = pwd.getpwuid(0)


@pytest.mark.parametrize(
    ("uid", "cgroup", "expected"),
    [
        (ALICE.pw_uid, "/user.slice/user-1.slice/session-3.scope", place(ALICE)),
        (ALICE.pw_uid, "", place(ALICE)),
        (ALICE.pw_uid, "/", place(ALICE)),
        (165536, f"{HIS}/docker-{ID}.scope", place(ALICE, ID)),
        (0, f"{HIS}/docker-{ID}.scope", place(ALICE, ID)),
        (165536, f"{HIS}/docker-{ID}.scope/init.scope", place(ALICE, ID)),
        (BOB.pw_uid, f"{HIS}/ds01-l1.scope", place(ALICE, scope="ds01-l1.scope")),
        (BOB.pw_uid, f"{HIS}/ds01-l1.scope/deeper", place(ALICE, scope="ds01-l1.scope")),
        (ALICE.pw_uid, f"{HIS}/run-1.scope", place(ALICE)),
        (165536, f"{BY_UID}/docker-{ID}.scope", place(ALICE, ID)),
        (ALICE.pw_uid, "/user.slice/user-1.slice/ds01-l1.scope", place(ALICE)),
        (ALICE.pw_uid, "/user.slice/user-1.slice/x/ds01-l1.scope", place(ALICE)),
        (0, f"/system.slice/docker-{ID}.scope", place(ROOT, ID)),
        (0, "/system.slice/nvidia-persistenced.service", place(ROOT, is_service=True)),
        (ALICE.pw_uid, "/system.slice/cron.service", place(ALICE)),
        (0, "/user.slice/user-0.slice/session-1.scope", place(ROOT)),
        (0, "/docker.slice/x.service", place(ROOT)),
        (3_000_000, "/user.slice/user-3000000.slice", Place(3_000_000, "uid 3000000", "", "")),
        (5, "/ds01.slice/ds01-student.slice/ds01-student-gone.slice/x.scope", Place(5, "uid 5", "", "")),
        (5, "/ds01.slice/ds01-student.slice/ds01-student-u3000000.slice/x.scope", Place(5, "uid 5", "", "")),
    ],
)
def test_the_slice_says_whose_a_process_is_and_its_uid_otherwise(uid: int, cgroup: str, expected: Place) -> None:
    assert judge(uid, cgroup) == expected


def test_a_short_or_odd_container_name_is_none() -> None:
    assert judge(ALICE.pw_uid, f"{HIS}/docker-{'ab' * 8}.scope").container == ""
    assert judge(ALICE.pw_uid, f"{HIS}/docker-{ID.upper()}.scope").container == ""


def test_a_process_that_lives_has_a_place() -> None:
    found = place_of(os.getpid())
    assert found is not None
    assert found.user


def test_a_process_that_is_gone_has_none() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    assert place_of(child) is None
    assert gpu_nodes(child) is None


def test_a_process_without_gpus_has_no_nodes() -> None:
    assert gpu_nodes(os.getpid()) == frozenset()
