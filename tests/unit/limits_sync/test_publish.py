from __future__ import annotations

import json
from pathlib import Path

import pytest
from sync_world import MACHINE

from ds01.common.policy.build import built_in
from ds01.limits_sync.pendings import Pendings, Waiting
from ds01.limits_sync.publish import Publisher
from ds01.limits_sync.shrink import Pending

GOOD = built_in(MACHINE).text


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "policy.json", tmp_path / "last.json")


def test_everybody_may_read_what_is_published_and_nobody_else_the_last_good(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.publish(GOOD)
    publisher.keep(GOOD)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("policy.json", "last.json")]
    assert modes == [0o644, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.json", "policy.json"]


def test_what_is_the_same_is_not_written_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish(GOOD)
    before = (tmp_path / "policy.json").stat().st_ino
    publisher.publish(GOOD)
    assert (tmp_path / "policy.json").stat().st_ino == before


def test_the_former_is_what_is_published(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    publisher.keep(GOOD)
    former = publisher.former()
    assert former is not None
    assert former[0] == GOOD


@pytest.mark.parametrize("published", ["", "{", None])
def test_else_the_last_good_one(publisher: Publisher, tmp_path: Path, published: str | None) -> None:
    publisher.keep(GOOD)
    if published is not None:
        (tmp_path / "policy.json").write_text(published)
    assert publisher.former() is not None


def test_what_was_shipped_is_nobodys_last_good_policy(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    assert publisher.former() is None


def test_what_waits_survives_a_restart_and_tells_no_use(tmp_path: Path) -> None:
    waiting = Waiting(Pending(64, 32, 5.0), 1001, "alice", "all containers of alice")
    assert Pendings(tmp_path / "s.json").put("a.slice", waiting)
    again = Pendings(tmp_path / "s.json")
    assert again.of("a.slice") == waiting.pending
    assert again.until == 5.0
    assert set(json.loads((tmp_path / "s.json").read_text())["units"]["a.slice"]) == {
        *("uid", "user", "what", "from_bytes", "to_bytes", "until")
    }
    assert (tmp_path / "s.json").stat().st_mode & 0o777 == 0o644


def test_a_broken_file_is_nothing_that_waits(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{")
    assert Pendings(tmp_path / "s.json").names == []
