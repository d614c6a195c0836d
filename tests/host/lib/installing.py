"""Installs the suite on a booted site as an administrator would: checkout copied in, `make install`, images loaded."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from lib import host, ready, session, talk
from lib.model import Plan, State
from lib.places import CHECKOUT, HOSTS, RECIPES, HostError

PRODUCT = ("pyproject.toml", "Makefile", "README.md", "services", "cli", "units", "packaging", "config", "docs")
SOURCE = "/usr/src/ds01"
ENGINE = "unix:///run/ds01-engine/engine.sock"
BUILDER = "image-build"


def make(folder: Path, *, site: Path, debian: Path) -> None:
    """Fills a folder with the disk of an installed host."""
    disk = folder / "disk.img"
    plan = Plan(BUILDER, str(site / "root"), str(site / "disk.img"), keep=str(disk))
    state = host.up(plan)
    try:
        _install(state, folder, debian)
        host.power_off(state)
    except BaseException:
        journal = CHECKOUT / "build/journal/image-build.log"
        host.save_journal(state, journal)
        talk.say(f"the journal of the failed installation is in '{journal}'")
        raise
    finally:
        host.down(BUILDER)
    if not disk.is_file():
        raise HostError(f"the installed host left no disk: see '{HOSTS}'")


def _install(state: State, folder: Path, debian: Path) -> None:
    copy_checkout(state)
    with talk.step("  make install"):
        _shown(state, ["make", "--no-print-directory", f"--directory={SOURCE}", "install"], log=folder / "install.log")
    ready.wait_until_active(state)
    with talk.step("  Docker images"):
        _load_images(state, debian)


def copy_checkout(state: State) -> None:
    """Lays the product's files in /usr/src/ds01, as a clone would."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in PRODUCT:
            if (CHECKOUT / path).exists():
                archive.add(CHECKOUT / path, path, filter=_plain)
    unpack = ["sh", "-c", f"rm -rf {SOURCE} && mkdir -p {SOURCE} && tar -x -C {SOURCE}"]
    subprocess.run(session.enter_argv(state.leader, unpack), input=packed.getvalue(), check=True)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name or member.name.endswith(".egg-info"):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _shown(state: State, argv: list[str], *, log: Path) -> None:
    command = session.session_argv(state.leader, "root", argv, tty=False, unit=host.new_unit())
    talk.run_showing(command, log=log, prefix="")


def _load_images(state: State, debian: Path) -> None:
    engine = ["env", f"DOCKER_HOST={ENGINE}"]
    host.call(state, [*engine, "sh", "-s"], text=(RECIPES / "make-images").read_text())
    with debian.open("rb") as layer:
        command = session.enter_argv(state.leader, [*engine, "docker", "import", "--change", "CMD bash", "-", "debian"])
        subprocess.run(command, stdin=layer, stdout=subprocess.DEVNULL, check=True)
