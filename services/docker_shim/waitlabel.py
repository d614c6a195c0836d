"""The label `ds01.wait`: the one `ds01.*` label that a user may set. Pure.

It says how long a create, and each start of the container, may wait in the queue for GPUs. What a user writes is
refused unless it is understood; what is kept on the container is always a duration, and empty is "does not wait".
"""

from __future__ import annotations

import math

from ds01.common.quantity import duration_text, parse_duration
from ds01.docker_shim.model import Json, Reason, Refused

WAIT_LABEL = "ds01.wait"
LONGEST_S = 7 * 86400.0
"""What "without end" comes to: whoever waits longer than a week asks anew."""

MAX_TEXT = 40
_WITHOUT_END = ("", "true")


def parse_wait(untrusted: Json) -> float | Refused:
    """How long the label of a new container says to wait, in whole seconds; 0.0 where there is none (None)."""
    if untrusted is None:
        return 0.0
    if not isinstance(untrusted, str) or len(untrusted) > MAX_TEXT:
        return _refused(f"it must be a text of at most {MAX_TEXT} characters")
    if untrusted in _WITHOUT_END:
        return LONGEST_S
    try:
        return _whole(parse_duration(untrusted))
    except ValueError as exc:
        return _refused(str(exc))


def wait_text(wait_s: float) -> str:
    """The label as it is kept on the container."""
    return duration_text(wait_s) if wait_s else ""


def kept_wait_s(label: str) -> float:
    """How long a container with this label waits for its start; 0.0 where the label is none of ours."""
    try:
        return _whole(parse_duration(label)) if 0 < len(label) <= MAX_TEXT else 0.0
    except ValueError:
        return 0.0


def _whole(seconds: float) -> float:
    return float(math.ceil(min(seconds, LONGEST_S)))


def _refused(why: str) -> Refused:
    return Refused(
        400,
        Reason.MALFORMED,
        f"the label '{WAIT_LABEL}' can't be read: {why}",
        f"write '--label {WAIT_LABEL}' to wait for your turn, or '--label {WAIT_LABEL}=1h' for an hour at most",
    )
