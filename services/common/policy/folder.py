"""Reads the policy's files: one YAML and the lists of members. Read only; knows nothing of what they say."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ds01.common.policy.tree import Content, Files, Unread

FOLDER = Path("/etc/ds01")
FILE_NAME = "resource-limits.yaml"
GROUPS = "groups"
SUFFIX = ".members"
MAX_BYTES = 4 * 1024 * 1024
_MOST_LISTS = 1000


def read_files(folder: Path = FOLDER) -> Files:
    """All files of the policy in `folder`."""
    return Files(str(folder / FILE_NAME), _content(folder / FILE_NAME), _lists(folder / GROUPS))


def read_one(path: Path) -> Files:
    """One YAML file by itself, with the lists of members in a folder `groups` beside it, if there is one."""
    return Files(str(path), _content(path), _lists(path.parent / GROUPS))


def _lists(folder: Path) -> dict[str, tuple[str, Content]]:
    """The lists of members by group. Where nobody can tell which there are, one without a name says why."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIX))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        return {"": (str(folder), Unread(f"can't be read: {exc.strerror}"))}
    if len(names) > _MOST_LISTS:
        return {"": (str(folder), Unread(f"has {len(names)} lists of members, and {_MOST_LISTS} are the most"))}
    return {_told(name.removesuffix(SUFFIX)): (_told(str(folder / name)), _content(folder / name)) for name in names}


def _told(name: str) -> str:
    """A name as text, also where it is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _content(path: Path) -> Content:
    """A regular file's bytes; a file that is too long is not read at all."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Unread("does not exist")
    except OSError as exc:
        return Unread(f"can't be read: {exc.strerror}")
    try:
        return _regular(descriptor)
    except OSError as exc:
        return Unread(f"can't be read: {exc.strerror}")
    finally:
        os.close(descriptor)


def _regular(descriptor: int) -> Content:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        return Unread("is not a file: put one there")
    if found.st_size > MAX_BYTES:
        size = f"{found.st_size / 2**20:.0f} MiB, and {MAX_BYTES // 2**20} MiB is the most"
        return Unread(f"has {size}: remove what is not policy")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_BYTES + 1)
