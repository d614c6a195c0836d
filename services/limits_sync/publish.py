"""The compiled policy on disk: published in /run/ds01 for everybody, the last good one kept for the next boot."""

from __future__ import annotations

import os
from pathlib import Path

from ds01.common.errors import PolicyInvalid
from ds01.common.limits import Policy, parse_policy
from ds01.common.policyfile import LAST_GOOD, POLICY_FILE


class Publisher:
    """Replaces both files by rename: a reader sees the old or the new one, also after a power cut."""

    def __init__(self, published: Path = POLICY_FILE, last_good: Path = LAST_GOOD) -> None:
        self._published = published
        self._last_good = last_good

    def former(self) -> tuple[str, Policy] | None:
        """What is published, else the last good policy; None where neither can be used.

        What tmpfiles.d put there at boot is no policy of ours while there is no last good one beside it.
        """
        for path in (self._published, self._last_good) if self._last_good.exists() else ():
            try:
                text = path.read_text(encoding="utf-8")
                return text, parse_policy(text)
            except (OSError, PolicyInvalid):
                continue
        return None

    def publish(self, text: str) -> None:
        """Let everybody see it. Raises OSError."""
        if _is(self._published, text):
            return
        _replace(self._published, text, 0o644, durable=False)

    def keep(self, text: str) -> None:
        """Keep it for the next boot. Raises OSError."""
        if _is(self._last_good, text):
            return
        _replace(self._last_good, text, 0o600, durable=True)


def _is(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, ValueError):
        return False


def _replace(path: Path, text: str, mode: int, *, durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
