"""How a "no" looks on the wire, and how many of them are worth an event. Pure.

Refusals of one user for one reason within ten seconds become one event with a count, so that a loop of refused
requests costs the journal and the ledger a line now and then.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ds01.docker_shim.model import Answer, Json, Refused
from ds01.docker_shim.strictjson import dump

WINDOW_S = 10.0
MAX_WINDOWS = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """One refusal, or several alike, for the journal and the ledger. The text is that of the first."""

    uid: int
    user: str
    refused: Refused
    request: str
    count: int = 1


def answer(refused: Refused, request: str) -> Answer:
    """The refusal as the Docker API says no, with the numbers beside for programs."""
    details: dict[str, Json] = {
        "reason": str(refused.reason),
        "limit": refused.limit,
        "used": refused.used,
        "requested": refused.requested,
        "hint": refused.hint,
        "request": request,
        "to_end": [asdict(one) for one in refused.to_end],
    }
    return Answer(refused.status, dump({"message": refused.sentence, "ds01": details}))


def printable(text: str) -> str:
    """What a client wrote, fit for an administrator's terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


class Coalescer:
    """The first refusal of a window is told at once, the others when the window ends, as a number."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._open: dict[tuple[int, str], tuple[float, Note]] = {}

    def add(self, note: Note, now: float) -> Note | None:
        """`note` itself if it is to be told now."""
        key = (note.uid, str(note.refused.reason))
        known = self._open.get(key)
        if known is not None:
            self._open[key] = (known[0], replace(known[1], count=known[1].count + note.count))
            return None
        if len(self._open) >= MAX_WINDOWS:
            return None
        self._open[key] = (now + self._window_s, replace(note, count=0))
        return note

    def due(self, now: float) -> list[Note]:
        """What was held back in windows that have ended."""
        ended = [key for key, (end, _) in self._open.items() if end <= now]
        return [note for note in (self._open.pop(key)[1] for key in ended) if note.count]

    def next_end(self) -> float | None:
        """When the first open window ends."""
        return min((end for end, _ in self._open.values()), default=None)
