"""The developer's virtual environment: in the cache, one per pyproject.toml and Python, whole or made anew."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("DS01_CACHE", "/var/cache/ds01"))
KEPT = 2


def folder(project: bytes) -> Path:
    """Where the environment for this pyproject.toml lies."""
    key = hashlib.sha256(project + sys.version.encode()).hexdigest()[:16]
    return CACHE / "devenv" / key


def requirements(project: bytes) -> list[str]:
    """What the product needs and what its developers need."""
    table = tomllib.loads(project.decode())["project"]
    return [*table["dependencies"], *table["optional-dependencies"]["dev"]]


def make(target: Path, wanted: list[str]) -> None:
    """Makes the environment unless it is there whole; a mark is written last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = target / ".complete"
        if mark.exists():
            os.utime(target)
            return
        print(f"developer's environment: {len(wanted)} packages from PyPI into {target}", file=sys.stderr, flush=True)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", target], check=True)
        pip = [str(target / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, *wanted], check=True)
        mark.touch()
        prune(target.parent)


def prune(parent: Path) -> None:
    """Removes all but the newest few."""
    found = sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in found[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """`path` prints where it is, `make` makes it."""
    project = (CHECKOUT / "pyproject.toml").read_bytes()
    target = folder(project)
    if sys.argv[1:] == ["path"]:
        print(target)
    else:
        make(target, requirements(project))


if __name__ == "__main__":
    main()
