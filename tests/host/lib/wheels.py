"""The wheels that the host installs from, having no network. The lock file says which; PyPI's hashes are checked."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from lib import talk
from lib.places import CHECKOUT, RECIPES, HostError

LOCK = RECIPES / "requirements.txt"
PYTHON = "3.13"  # Debian 13's
_BUILD_TOOLS = ("setuptools>=68", "wheel", "pip")
_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
_SDISTS = "# source only"


def make(folder: Path) -> None:
    """Downloads or builds every wheel of the lock file into a folder.

    Raises:
        HostError: the lock file lacks a dependency of pyproject.toml, or PyPI has not what it names.
    """
    binary, _, source = LOCK.read_text().partition(_SDISTS)
    _check(binary + source)
    for text, options in ((binary, ["download", *_target()]), (source, ["wheel"])):
        scratch = folder / ".requirements"
        scratch.write_text(text)
        hashes = ["--require-hashes"] if "--hash" in text else []
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *options, "--no-deps", *hashes]
        where = ["--dest" if options[0] == "download" else "--wheel-dir", folder]
        talk.run([*pip, *where, "--requirement", scratch])
        scratch.unlink()


def write_lock() -> None:
    """Resolves pyproject.toml's dependencies anew for the host's Python and writes the lock file."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "in.txt"
        lines = [*_dependencies(), *_BUILD_TOOLS]
        binary = [line for line in lines if not line.startswith(_source_only())]
        wanted.write_text("\n".join(binary))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
        talk.run([*pip, *_target(), "--dest", f"{scratch}/wheels", "--requirement", wanted])
        wanted.write_text("\n".join(set(lines) - set(binary)))
        talk.run([*pip, "--no-deps", "--no-binary=:all:", "--dest", f"{scratch}/sdists", "--requirement", wanted])
        pinned = [_pins(Path(scratch) / kind) for kind in ("wheels", "sdists")]
    head = "# Made by `make lock` from pyproject.toml: what the test host installs, with PyPI's hashes."
    LOCK.write_text("\n".join([head, *pinned[0], _SDISTS, *pinned[1], ""]))


def _target() -> list[str]:
    platforms = [f"--platform={name}_x86_64" for name in _PLATFORMS]
    return ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *platforms, "--platform=any"]


def _source_only() -> tuple[str, ...]:
    return ("sdnotify",)


def _dependencies() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [str(line) for line in project["dependencies"]]


def _check(lock: str) -> None:
    pinned = {_normal(match) for match in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    for line in _dependencies():
        name = _normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0])
        if name not in pinned:
            raise HostError(f"'{name}' of pyproject.toml is not in '{LOCK}': run 'make lock'")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins(folder: Path) -> list[str]:
    return sorted(_pin(path) for path in folder.iterdir())


def _pin(path: Path) -> str:
    name, version = path.name.removesuffix(".tar.gz").split("-")[:2]
    said = subprocess.run(
        [sys.executable, "-m", "pip", "hash", path], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    return f"{_normal(name)}=={version} {said.strip()}"
