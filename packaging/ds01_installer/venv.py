"""The virtual environment with the services: made again only when its sources, dependencies or Python changed."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ds01_installer import machine

PACKAGES = ("services", "cli")


def install(checkout: Path, venv: Path, wheels: Path | None) -> bool:
    """Brings the environment up to date, without a network when `wheels` is given; whether anything changed."""
    base, ours = _fingerprint_of_base(checkout, venv), _fingerprint_of_sources(checkout)
    stamp = venv / "ds01-installed"
    former = stamp.read_text().split() if stamp.is_file() else []
    if former == [base, ours]:
        return False
    stamp.unlink(missing_ok=True)
    if former[:1] != [base]:
        machine.run(sys.executable, "-m", "venv", "--clear", str(venv))
        _pip_install(checkout, venv, wheels, ())
    else:
        _pip_install(checkout, venv, wheels, ("--no-deps", "--force-reinstall"))
    stamp.write_text(f"{base} {ours}\n")
    return True


def _pip_install(checkout: Path, venv: Path, wheels: Path | None, options: Iterable[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ds01-install-") as scratch:
        # A build writes beside its sources, and the checkout may be read-only or somebody's.
        for name in PACKAGES:
            shutil.copytree(checkout / name, Path(scratch, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(checkout / "pyproject.toml", scratch)
        offline = ("--no-index", "--find-links", str(wheels)) if wheels is not None else ()
        quiet = ("--quiet", "--disable-pip-version-check", "--no-cache-dir", "--root-user-action=ignore")
        machine.run(str(venv / "bin/python"), "-m", "pip", "install", *quiet, *offline, *options, scratch)


def _fingerprint_of_base(checkout: Path, venv: Path) -> str:
    return _digest([str(venv).encode(), sys.version.encode(), (checkout / "pyproject.toml").read_bytes()])


def _fingerprint_of_sources(checkout: Path) -> str:
    files = (path for name in PACKAGES for path in sorted((checkout / name).rglob("*.py")))
    return _digest(part for path in files for part in (str(path.relative_to(checkout)).encode(), path.read_bytes()))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
