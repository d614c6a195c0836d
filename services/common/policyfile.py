"""The compiled policy as it lies on disk. Read-only; limits_sync alone publishes it."""

from __future__ import annotations

import os
from pathlib import Path

from ds01.common.errors import PolicyInvalid
from ds01.common.limits import Policy, parse_policy

POLICY_FILE = Path("/run/ds01/policy.json")
LAST_GOOD = Path("/var/lib/ds01/policy.json")


def load_policy(path: Path = POLICY_FILE) -> Policy:
    """The policy in file `path`.

    Raises:
        PolicyInvalid: missing, unreadable or not usable.
    """
    try:
        return parse_policy(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise PolicyInvalid(f"the compiled policy '{path}' can't be read: {exc.strerror}") from exc


class PolicyFile:
    """The policy as of now: re-read when the file is replaced; a file that turns bad leaves the last good one."""

    def __init__(self, path: Path = POLICY_FILE) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._policy: Policy | None = None

    def current(self) -> Policy:
        """The newest usable policy.

        Raises:
            PolicyInvalid: there has never been one.
        """
        try:
            found = os.stat(self._path)
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._policy, self._stamp = load_policy(self._path), stamp
        except (OSError, PolicyInvalid) as exc:
            if self._policy is None:
                raise PolicyInvalid(f"there is no usable policy at '{self._path}': {exc}") from exc
        assert self._policy is not None
        return self._policy
