"""Cached steps of a build: a folder per step and content of its inputs, made under another name and renamed when whole.

A half-made step is never used; a change of an input makes a new one; old ones go when nobody stands on them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib import talk
from lib.places import CACHE, IMAGES

KEPT = 2


@dataclass(frozen=True, slots=True)
class Stage:
    """One step. key: digest of everything that decides its content; make: fills an empty folder."""

    name: str
    key: str
    text: str
    make: Callable[[Path], None]

    @property
    def folder(self) -> Path:
        return IMAGES / f"{self.name}-{self.key}"


def digest(*parts: str | bytes) -> str:
    """The key of some inputs; where one ends and the next begins counts."""
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        whole.update(f"{len(content)}:".encode() + content)
    return whole.hexdigest()[:16]


def digest_of_files(top: Path, paths: Iterable[Path]) -> str:
    """The key of files or whole folders: names below `top`, modes and contents; byte code does not count."""
    parts: list[str | bytes] = []
    for path in sorted(file for given in paths for file in _files(given)):
        mode = path.lstat().st_mode & 0o111
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        parts += [str(path.relative_to(top)), str(bool(mode)), content]
    return digest(*parts)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        yield from (file for file in path.rglob("*") if not file.is_dir() and "__pycache__" not in file.parts)
    elif path.exists():
        yield path


@contextmanager
def exclusive() -> Iterator[None]:
    """One build at a time on this machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            talk.say("waiting for another build to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure(stage: Stage) -> Path:
    """The folder of a step, made now if need be. Call it under `exclusive()`."""
    if not stage.folder.is_dir():
        scratch = IMAGES / f".making-{stage.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        with talk.step(stage.text):
            stage.make(scratch)
        scratch.rename(stage.folder)
    os.utime(stage.folder)
    return stage.folder


def prune(stage: Stage, in_use: set[str]) -> None:
    """Removes a step's older versions but for the newest few and those that something below `in_use` stands on."""
    versions = sorted(IMAGES.glob(f"{stage.name}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in versions[KEPT:]:
        if not any(path.startswith(f"{folder}/") for path in in_use):
            shutil.rmtree(folder, ignore_errors=True)
