"""A decision in a world from a file, with the keys that the allocator's answer has on the wire."""

from __future__ import annotations

from typing import Any

from ds01.cli.exits import CommandError, Exit
from ds01.common.errors import Malformed
from ds01.common.model import Blocker, Denied, Granted
from ds01.gpu_allocator.snapshot import parse_snapshot, replay


def explanation(snapshot: str, gpus: str) -> dict[str, Any]:
    """What the request would get there.

    Raises:
        CommandError: the text is no snapshot.
    """
    try:
        asker, _, _ = parse_snapshot(snapshot)
        lines, verdict, against = replay(snapshot, gpus)
    except Malformed as exc:
        raise CommandError(Exit.USAGE, str(exc), "'ds01 status --snapshot FILE' writes one") from exc
    return {
        "lines": lines,
        "grant": _grant(verdict) if isinstance(verdict, Granted) else None,
        "denial": _denial(verdict, asker.uid) if isinstance(verdict, Denied) else None,
        "against": [_denial(one, asker.uid) for one in against],
    }


def _grant(verdict: Granted) -> dict[str, Any]:
    units = [{"name": unit.name, "profile": unit.profile, "uuid": unit.uuid} for unit in verdict.units]
    state = "would-be-granted"
    return {"lease": "", "state": state, "units": units, "warnings": list(verdict.warnings), "until": None}


def _denial(verdict: Denied, uid: int) -> dict[str, Any]:
    return {
        "reason": verdict.reason.value,
        "message": verdict.message,
        "limit": verdict.limit,
        "used": verdict.used,
        "requested": verdict.requested,
        "hint": verdict.hint,
        "to_end": [_blocker(one, uid) for one in verdict.to_end],
    }


def _blocker(one: Blocker, uid: int) -> dict[str, Any]:
    return {
        "mine": one.uid == uid,
        "user": one.user,
        "group": one.group,
        "name": one.name,
        "units": one.units,
        "state": one.state.value,
        "until": one.until,
    }
