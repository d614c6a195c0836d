"""Copies files in and out through a tar pipe whose far end runs inside, so that no link in the host leads out of it."""

from __future__ import annotations

import subprocess
from pathlib import PurePosixPath

from lib import session
from lib.model import State
from lib.places import HostError

_HERE, _THERE = "", ":"


def copy(state: State, source: str, target: str) -> None:
    """Copies a file or folder; a path with a leading ':' is the host's, a target ending in '/' is a folder.

    Raises:
        HostError: both sides are here, or tar failed.
    """
    if not source.startswith(_THERE) and not target.startswith(_THERE):
        target = _THERE + target
    from_path = PurePosixPath(source.removeprefix(_THERE))
    to_path = target.removeprefix(_THERE)
    to = PurePosixPath(to_path) / from_path.name if to_path.endswith("/") else PurePosixPath(to_path)
    pack = ["tar", "--create", f"--directory={from_path.parent}", "--", from_path.name]
    unpack = ["sh", "-ec", _UNPACK, "sh", str(to), str(to.parent), from_path.name]
    _pipe(_at(state, source, pack), _at(state, target, unpack))


# tar has no "unpack under this name" that is safe for every name: unpack beside the target, then rename.
_UNPACK = """
mkdir -p -- "$2"
scratch=$(mktemp -d -- "$2/.copy-XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
tar --extract --directory="$scratch" --no-same-owner
if [ -d "$1" ] && [ -d "$scratch/$3" ]; then cp -a -- "$scratch/$3/." "$1/"; else mv -T -- "$scratch/$3" "$1"; fi
"""


def _at(state: State, path: str, argv: list[str]) -> list[str]:
    return session.enter_argv(state.leader, argv) if path.startswith(_THERE) else argv


def _pipe(producer: list[str], consumer: list[str]) -> None:
    with subprocess.Popen(producer, stdout=subprocess.PIPE) as sending:
        received = subprocess.run(consumer, stdin=sending.stdout)
    if sending.returncode != 0 or received.returncode != 0:
        raise HostError("the copy failed, see above")
