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
    members = {}
    try:
        names = sorted(name for name in os.listdir(folder / GROUPS) if name.endswith(SUFFIX))[:_MOST_LISTS]
    except OSError:
        names = []
    for name in names:
        path = folder / GROUPS / name
        members[name.removesuffix(SUFFIX)] = (str(path), _content(path))
    return Files(str(folder / FILE_NAME), _content(folder / FILE_NAME), members)


def read_one(path: Path) -> Files:
    """One YAML file by itself, with the lists of members in a folder `groups` beside it, if there is one."""
    beside = read_files(path.parent)
    return Files(str(path), _content(path), beside.members)


def _content(path: Path) -> Content:
    """A regular file's bytes; a file that is too long is not read at all."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        return Unread("does not exist" if isinstance(exc, FileNotFoundError) else f"can't be read: {exc.strerror}")
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return Unread("is not a file: put one there")
        if found.st_size > MAX_BYTES:
            size = f"{found.st_size / 2**20:.0f} MiB, and {MAX_BYTES // 2**20} MiB is the most"
            return Unread(f"has {size}: remove what is not policy")
        try:
            return file.read(MAX_BYTES + 1)[: MAX_BYTES + 1]
        except OSError as exc:
            return Unread(f"can't be read: {exc.strerror}")
