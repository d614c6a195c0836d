"""The allocator's "no" as a Docker error: its status, its words, and who would have to end. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ds01.docker_shim.model import Refused, ToEnd

NONE_FREE, OVER_GROUP = "none-free", "over-group-total"
WAIT_HINT = (
    "'ds01 status' shows who holds what; try again later, or wait for your turn: docker run --label ds01.wait=1h …, "
    "or 'container deploy NAME --wait'"
)
MOST_NAMED = 3

_NOW_NOT = frozenset({NONE_FREE, "waited-in-vain"})
_BAD = frozenset({"not-a-request", "no-such-unit"})


def refused_of(untrusted: Any) -> Refused:
    """The denial of an answer. Raises `KeyError` or `TypeError` where it is none."""
    reason, hint = str(untrusted["reason"]), str(untrusted["hint"])
    to_end = tuple(_to_end(one) for one in untrusted["to_end"])
    return Refused(
        409 if reason in _NOW_NOT else 400 if reason in _BAD else 403,
        reason,
        str(untrusted["message"]) + _said(to_end),
        WAIT_HINT if reason in (NONE_FREE, OVER_GROUP) else hint,
        limit=str(untrusted["limit"]),
        used=str(untrusted["used"]),
        requested=str(untrusted["requested"]),
        to_end=to_end,
    )


def _to_end(untrusted: Any) -> ToEnd:
    """A name goes to its owner alone, whatever we are told: the allocator may take us for an administrator."""
    mine, until = untrusted["mine"] is True, untrusted["until"]
    return ToEnd(
        mine=mine,
        user=str(untrusted["user"]) if mine else "",
        group=str(untrusted["group"]),
        name=str(untrusted["name"]) if mine else "",
        units=str(untrusted["units"]),
        state=str(untrusted["state"]),
        until=None if until is None else math.ceil(until),
    )


def _said(to_end: Sequence[ToEnd]) -> str:
    if not to_end:
        return ""
    more = len(to_end) - MOST_NAMED
    named = [_words(one) for one in to_end[:MOST_NAMED]]
    return f"; would have to end: {', '.join([*named, *([f'{more} more'] if more > 0 else [])])}"


def _words(one: ToEnd) -> str:
    whose = f"your '{one.name}'" if one.mine else f"somebody's of group '{one.group}'"
    until = "" if one.until is None else f" until {datetime.fromtimestamp(one.until):%Y-%m-%d %H:%M}"
    return f"{whose} ({one.units}, {one.state}{until})"
