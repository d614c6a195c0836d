"""The command on a host's file tree: boot, MIG unit, nodes, CDI file. Making device nodes takes root."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from fakehost import HERE, FakeHost


def test_boot_loads_a_driver_without_instances(host: FakeHost) -> None:
    host.fakegpu("boot")
    status = host.status()
    assert [gpu["mig"] for gpu in status["gpus"]] == [1, 1, 0, 0]
    assert status["instances"] == []


def test_boot_leaves_the_cdi_file_of_the_run_before(host: FakeHost) -> None:
    before = (host.root / "etc/cdi/nvidia.yaml").read_text()
    host.fakegpu("boot")
    assert (host.root / "etc/cdi/nvidia.yaml").read_text() == before


def test_instances_made_again_have_new_uuids_and_minors(host: FakeHost) -> None:
    before = host.status()["instances"]
    host.boot()
    after = host.status()["instances"]
    assert [(i["gpu"], i["profile"], i["start"]) for i in after] == [
        (i["gpu"], i["profile"], i["start"]) for i in before
    ]
    for key in ("uuid", "gicap", "cicap"):
        assert {i[key] for i in before}.isdisjoint(i[key] for i in after)
    cdi_text = (host.root / "etc/cdi/nvidia.yaml").read_text()
    assert all(i["uuid"] in cdi_text for i in after)
    assert all(i["uuid"] not in cdi_text for i in before)


def test_gpu_uuids_outlive_a_reboot(host: FakeHost) -> None:
    before = [gpu["uuid"] for gpu in host.status()["gpus"]]
    host.boot()
    assert [gpu["uuid"] for gpu in host.status()["gpus"]] == before


def test_nodes_and_links_follow_the_instances(host: FakeHost) -> None:
    dev = host.root / "dev"
    host.fakegpu("mig", "0", "1x7g.40gb")
    status = host.status()
    caps = {minor for i in status["instances"] for minor in (i["gicap"], i["cicap"])} | {1, 2}
    assert {path.name for path in (dev / "nvidia-caps").iterdir()} == {f"nvidia-cap{minor}" for minor in caps}
    assert {path.name for path in dev.glob("char/421:*")} == {f"421:{minor}" for minor in caps}
    for path in (*dev.glob("nvidia[0-9c]*"), *dev.glob("char/*")):
        found = path.stat()
        if path.is_dir():
            continue
        assert stat.S_ISCHR(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o666
    assert (dev / "char/195:3").stat().st_rdev == os.makedev(195, 3)


def test_a_gpu_in_use_is_not_cut(host: FakeHost) -> None:
    host.fakegpu("process", "0:1", str(os.getpid()), "100")
    refused = host.attempt("mig", "0", "full")
    assert refused.returncode == 1
    assert f"in use by process {os.getpid()}" in refused.stderr
    host.fakegpu("process", "clear")
    host.fakegpu("mig", "0", "full")


def test_a_gpu_in_use_is_not_reset(host: FakeHost) -> None:
    host.fakegpu("process", "0:1", str(os.getpid()), "100")
    assert "it can't be reset" in host.attempt("reset", "0").stderr
    host.fakegpu("process", "clear")
    host.fakegpu("reset", "0")
    status = host.status()
    assert {i["gpu"] for i in status["instances"]} == {1}
    assert not any(i["uuid"] not in (host.root / "etc/cdi/nvidia.yaml").read_text() for i in status["instances"])
    assert (host.root / "etc/cdi/nvidia.yaml").read_text().count('name: "0:') == 0
    host.fakegpu("mig-apply")
    assert len(host.status()["instances"]) == 6


def test_a_host_without_gpus_has_no_library_nodes_or_cdi_file(host: FakeHost) -> None:
    folder = host.root / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "libnvidia-ml.so.570.124.06").touch()
    host.boot()
    assert (folder / "libnvidia-ml.so.1").is_symlink()
    host.configure("none")
    host.boot()
    assert not (folder / "libnvidia-ml.so.1").exists()
    assert list((host.root / "dev").glob("nvidia[0-9c-]*[!s]")) == []
    assert not (host.root / "etc/cdi/nvidia.yaml").exists()
    assert "no driver is loaded" in host.attempt("status").stderr


def test_without_root_it_says_so() -> None:
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        (root / "etc/fakegpu").mkdir(parents=True)
        (root / "etc/fakegpu/site").write_text("full\n")
        (root / "tests").mkdir()
        shutil.copytree(HERE / "fakesite", root / "tests/fakesite")
        shutil.copy(HERE / "fakegpu", root / "tests/fakegpu")
        for path in (root, *root.rglob("*")):
            path.chmod(0o777)
        command = ["/usr/bin/env", "python3", str(root / "tests/fakegpu"), "--root", str(root), "boot"]
        done = subprocess.run(command, user=65534, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert "it takes root with CAP_MKNOD" in done.stderr
    finally:
        shutil.rmtree(root)


def test_wrong_words_are_answered_with_what_to_write(host: FakeHost) -> None:
    for words in (
        ["set", "2", "util"],
        ["process", "0"],
        ["process", "2", "1", "1", "other"],
        ["lost", "7"],
        ["mig", "0", "3x9g.90gb"],
        ["xid", "9", "79"],
        ["reset", "9"],
        ["ecc", "2", "mem=1"],
        ["recovery", "2", "magic"],
    ):
        refused = host.attempt(*words)
        assert refused.returncode == 1
        assert refused.stderr.startswith("fakegpu: ")
        assert "Traceback" not in refused.stderr


def test_it_needs_nothing_but_python() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", HERE / "fakegpu", "--help"], capture_output=True, timeout=60)
    assert done.returncode == 0
