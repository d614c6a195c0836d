from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from ds01.common.errors import PolicyInvalid
from ds01.common.limits import parse_policy
from ds01.common.policyfile import PolicyFile

SHIPPED = Path(__file__).parents[3] / "config" / "policy.json"


def shipped() -> dict[str, Any]:
    return dict(json.loads(SHIPPED.read_text()))


def test_the_shipped_policy_can_be_read() -> None:
    policy = parse_policy(SHIPPED.read_text())
    student = policy.limits_for("alice", ["student"])
    assert student.max_mig_instances == 2
    assert not student.allow_full_gpu
    assert policy.limits_for("rita", ["researcher"]).allow_full_gpu
    assert policy.limits_for("ada", ["ds01-admin"]).max_gpu_equivalents is None


@pytest.mark.parametrize(
    ("user", "unix_groups", "group"),
    [("alice", ["student"], "student"), ("x", [], "student"), ("r", ["researcher"], "researcher")],
)
def test_group_of(user: str, unix_groups: list[str], group: str) -> None:
    assert parse_policy(SHIPPED.read_text()).group_of(user, unix_groups) == group


def test_a_named_member_beats_a_unix_group() -> None:
    raw = shipped()
    raw["groups"]["researcher"]["members"] = ["alice"]
    assert parse_policy(json.dumps(raw)).group_of("alice", ["student"]) == "researcher"


def test_a_users_own_limits_lie_on_his_groups() -> None:
    raw = shipped()
    raw["users"] = {"alice": {"group": "student", "limits": {"max_gpu_equivalents": "4/7"}}}
    limits = parse_policy(json.dumps(raw)).limits_for("alice", ["student"])
    assert limits.max_gpu_equivalents == Fraction(4, 7)
    assert limits.max_mig_instances == 2


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{}", '{"schema": 2}', '{"schema": 1, "groups": null}'],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(PolicyInvalid):
        parse_policy(text)


@pytest.mark.parametrize("key", ["memory_bytes", "pids", "shm_bytes", "max_connections"])
def test_a_container_limit_can_not_be_absent_or_unlimited(key: str) -> None:
    raw = shipped()
    raw["groups"]["student"]["limits"][key] = None
    with pytest.raises(PolicyInvalid):
        parse_policy(json.dumps(raw))


def test_an_unknown_limit_is_refused_and_not_ignored() -> None:
    raw = shipped()
    raw["groups"]["student"]["limits"]["max_gpus"] = 7
    with pytest.raises(PolicyInvalid, match="max_gpus"):
        parse_policy(json.dumps(raw))


def test_a_file_that_turns_bad_leaves_the_last_good_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(SHIPPED.read_text())
    file = PolicyFile(path)
    good = file.current()
    path.write_text("{")
    assert file.current() is good
    raw = shipped()
    raw["default_group"] = "researcher"
    (tmp_path / "new").write_text(json.dumps(raw))
    os.replace(tmp_path / "new", path)
    assert file.current().default_group == "researcher"


def test_without_any_policy_there_are_no_limits_to_guess(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid):
        PolicyFile(tmp_path / "absent.json").current()
