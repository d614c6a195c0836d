from __future__ import annotations

from pathlib import Path

import pytest

from ds01.limits_sync.places import Hint, Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("ds01/groups", "transient", "etc/system.control"):
        (tmp_path / name).mkdir(parents=True)
    return Places(tmp_path / "ds01", (str(tmp_path / "transient"), str(tmp_path / "etc/system.control")))


@pytest.mark.parametrize(
    ("folder", "name", "hint"),
    [
        ("ds01", "resource-limits.yaml", Hint(policy=True, folders=True)),
        ("ds01", ".resource-limits.yaml.swp", None),
        ("ds01", "groups", Hint(policy=True, folders=True)),
        ("ds01/groups", "student.members", Hint(policy=True)),
        ("ds01/groups", "student.members~", None),
        ("transient", "ds01-student-alice.slice", Hint(unit="ds01-student-alice.slice")),
        ("transient", "ds01-student-alice.slice.d", Hint(unit="ds01-student-alice.slice", folders=True)),
        ("transient", "docker-1.scope", None),
        ("transient/ds01.slice.d", "50-MemoryMax.conf", Hint(unit="ds01.slice")),
        ("etc/system.control/ds01.slice.d", "50-MemoryMax.conf", Hint(unit="ds01.slice")),
        ("etc", "system.control", Hint(unit="", folders=True)),
        ("elsewhere", "x", None),
    ],
)
def test_what_a_change_may_mean(places: Places, tmp_path: Path, folder: str, name: str, hint: Hint | None) -> None:
    assert places.hint(str(tmp_path / folder), name) == hint


def test_accounts_change_groups(places: Places) -> None:
    assert places.hint("/etc", "group") == Hint(policy=True)
    assert places.hint("/etc", "motd") is None


def test_an_overflow_may_mean_anything(places: Places) -> None:
    assert places.hint("", "") == Hint(policy=True, unit="", folders=True)


def test_drop_ins_of_our_units_are_watched_and_no_others(places: Places, tmp_path: Path) -> None:
    for name in ("ds01.slice.d", "ssh.service.d"):
        (tmp_path / "transient" / name).mkdir()
    found = places.folders({"ds01.slice"})
    assert str(tmp_path / "transient/ds01.slice.d") in found
    assert str(tmp_path / "transient/ssh.service.d") not in found


def test_a_file_that_is_a_link_is_watched_at_every_step(places: Places, tmp_path: Path) -> None:
    (tmp_path / "site/v2").mkdir(parents=True)
    (tmp_path / "site/v2/limits.yaml").touch()
    (tmp_path / "site/current").symlink_to("v2")
    (tmp_path / "ds01/resource-limits.yaml").symlink_to("../site/current/limits.yaml")
    found = places.folders(())
    assert {str(tmp_path / "site"), str(tmp_path / "site/v2")} <= set(found)
    assert places.hint(str(tmp_path / "site/v2"), "limits.yaml") == Hint(policy=True, folders=True)
