from __future__ import annotations

import os
import stat
from pathlib import Path

from ds01.limits_sync.devicelinks import missing_links


def node(path: Path, minor: int) -> None:
    path.parent.mkdir(exist_ok=True)
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, minor))  # memory devices: no driver is needed to make a node


def test_each_gpu_node_needs_its_link(tmp_path: Path) -> None:
    node(tmp_path / "nvidia0", 3)
    node(tmp_path / "nvidiactl", 5)
    node(tmp_path / "nvidia-caps/nvidia-cap1", 7)
    node(tmp_path / "sda", 8)
    (tmp_path / "char").mkdir()
    (tmp_path / "char/1:3").symlink_to("../nvidia0")
    assert missing_links(tmp_path) == [str(tmp_path / "nvidiactl"), str(tmp_path / "nvidia-caps/nvidia-cap1")]


def test_a_link_that_leads_nowhere_is_none(tmp_path: Path) -> None:
    node(tmp_path / "nvidia0", 3)
    (tmp_path / "char").mkdir()
    (tmp_path / "char/1:3").symlink_to("../gone")
    assert missing_links(tmp_path) == [str(tmp_path / "nvidia0")]


def test_without_gpus_nothing_is_missing(tmp_path: Path) -> None:
    assert missing_links(tmp_path) == []
