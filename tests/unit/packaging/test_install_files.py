"""Changes of files by the installer, in a folder that stands for the machine's root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ds01_installer.files import Tree

TARGET = "/etc/docker/daemon.json"


@pytest.fixture(autouse=True)
def _tight_umask() -> Iterator[None]:
    former = os.umask(0o077)
    yield
    os.umask(former)


def installed(root: Path, content: bytes = b"ours") -> Tree:
    tree = Tree(root)
    tree.claim([TARGET])
    tree.put(TARGET, content)
    tree.save()
    return tree


def with_former(root: Path, content: bytes, mode: int) -> Path:
    path = root / TARGET.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_what_is_written_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    installed(tmp_path)
    assert (tmp_path / "etc/docker/daemon.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "etc/docker").stat().st_mode & 0o777 == 0o755


def test_the_former_file_comes_back_byte_for_byte_with_its_mode(tmp_path: Path) -> None:
    path = with_former(tmp_path, b'{"former" :1}', 0o640)
    installed(tmp_path)
    assert path.read_bytes() == b"ours"
    Tree(tmp_path).drop(TARGET)
    assert path.read_bytes() == b'{"former" :1}'
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_second_installation_keeps_the_first_copy(tmp_path: Path) -> None:
    path = with_former(tmp_path, b"former", 0o600)
    installed(tmp_path)
    installed(tmp_path, b"ours, newer")
    Tree(tmp_path).drop(TARGET)
    assert path.read_bytes() == b"former"


def test_a_former_link_comes_back_as_a_link(tmp_path: Path) -> None:
    path = tmp_path / "usr/local/bin/ds01"
    path.parent.mkdir(parents=True)
    path.symlink_to("/opt/old/ds01")
    tree = Tree(tmp_path)
    tree.claim(["/usr/local/bin/ds01"])
    tree.link("/usr/local/bin/ds01", "/usr/lib/ds01/venv/bin/ds01")
    tree.drop("/usr/local/bin/ds01")
    assert os.readlink(path) == "/opt/old/ds01"


def test_nothing_is_left_of_what_was_not_there_before(tmp_path: Path) -> None:
    tree = installed(tmp_path)
    tree.drop(TARGET)
    tree.drop_folders()
    assert not (tmp_path / "etc").exists()


def test_a_claim_that_was_never_fulfilled_is_undone_too(tmp_path: Path) -> None:
    path = with_former(tmp_path, b"former", 0o644)
    Tree(tmp_path).claim([TARGET])
    Tree(tmp_path).drop(TARGET)
    assert path.read_bytes() == b"former"


def test_what_was_edited_since_is_kept_at_uninstall(tmp_path: Path) -> None:
    tree = installed(tmp_path)
    (tmp_path / "etc/docker/daemon.json").write_text("edited")
    assert tree.edited() == (TARGET,)
    tree.drop(TARGET)
    assert (tmp_path / "var/lib/ds01/install/edited/etc-docker-daemon.json").read_text() == "edited"


def test_put_says_whether_anything_changed(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.claim([TARGET])
    assert tree.put(TARGET, b"one")
    assert not tree.put(TARGET, b"one")
    assert tree.put(TARGET, b"two")


def test_forgetting_leaves_no_manifest(tmp_path: Path) -> None:
    tree = installed(tmp_path)
    tree.drop(TARGET)
    tree.forget()
    assert not Tree(tmp_path).installed
