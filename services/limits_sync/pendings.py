"""Lowered memory limits that wait for their grace: kept in /run/ds01, so that a restart of ours does not begin it anew.

Everybody may read it: `ds01 policy show` tells a user what is about to happen to him. It says limits, never use.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ds01.limits_sync.shrink import Pending

PENDING_FILE = Path("/run/ds01/shrinking.json")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whose limit waits. `what` is for people."""

    pending: Pending
    uid: int | None
    user: str
    what: str


class Pendings:
    """By unit name or container id."""

    def __init__(self, path: Path = PENDING_FILE) -> None:
        self._path = path
        self._waiting = _read(path)

    @property
    def until(self) -> float | None:
        """When the first grace is over."""
        return min((one.pending.until for one in self._waiting.values()), default=None)

    @property
    def names(self) -> list[str]:
        """What waits."""
        return sorted(self._waiting)

    def of(self, name: str) -> Pending | None:
        """What waits for this unit or container."""
        found = self._waiting.get(name)
        return None if found is None else found.pending

    def put(self, name: str, waiting: Waiting | None) -> bool:
        """Keep or forget; True if something waits now that did not before, or for another limit."""
        before = self._waiting.get(name)
        if waiting is None:
            if self._waiting.pop(name, None) is not None:
                self._write()
            return False
        if before != waiting:
            self._waiting[name] = waiting
            self._write()
        return before is None or before.pending.to_bytes != waiting.pending.to_bytes

    def _write(self) -> None:
        units = {
            name: {"uid": one.uid, "user": one.user, "what": one.what, **asdict(one.pending)}
            for name, one in self._waiting.items()
        }
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({"units": units}, indent=1), encoding="utf-8")
            temporary.chmod(0o644)
            os.replace(temporary, self._path)
        except OSError:
            _logger.exception("'%s' can't be written", self._path)


def _read(path: Path) -> dict[str, Waiting]:
    try:
        units = json.loads(path.read_text(encoding="utf-8"))["units"]
        return {
            name: Waiting(
                Pending(one["from_bytes"], one["to_bytes"], one["until"]), one["uid"], one["user"], one["what"]
            )
            for name, one in units.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError):
        _logger.warning("'%s' can't be read: what waits there begins its grace anew", path)
        return {}
