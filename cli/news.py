"""What somebody who waits in the queue sees: on a terminal one line, written anew; else a line for every change."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ds01.cli import render

LEAVE = "Ctrl-C leaves the queue"
_CLEAR = "\r\x1b[K"


class News:
    """Tells on stderr. `waited` is whether a place in the queue was ever seen."""

    def __init__(self) -> None:
        self.waited = False
        self._began = time.monotonic()
        self._live = sys.stderr.isatty()
        self._last: tuple[object, ...] = ()

    @property
    def waited_s(self) -> float:
        """Seconds since the request was made."""
        return time.monotonic() - self._began

    def place(self, waiters: list[dict[str, Any]], request_id: str) -> None:
        """The queue as it is now; what one's own request waits for."""
        mine = next((one for one in waiters if one["request"] == request_id), None)
        if mine is None:
            return
        self.waited = True
        place, reason = f"place {mine['position']} of {len(waiters)}", render.printable(mine["reason"])
        turn = render.turn(mine["estimate"], time.time())
        whole = "; ".join(part for part in (f"waiting: {place}", reason, turn, LEAVE) if part)
        if not self._live:
            self._once((mine["position"], reason), whole)
        elif len(whole) < _columns():
            self._draw(whole)
        else:
            self._once((reason,), f"waiting: {reason}; {LEAVE}")
            self._draw(f"waiting: {place}; {turn}")

    def trouble(self, sentence: str) -> None:
        """Something that may pass."""
        self._once((sentence,), f"waiting: {sentence}")

    def end(self) -> None:
        """Nothing is waited for any more: the line goes."""
        if self._live:
            self._write(_CLEAR)

    def _once(self, what: tuple[object, ...], line: str) -> None:
        """A line that stays, unless it was the last one."""
        if what != self._last:
            self._last = what
            self._write(f"{_CLEAR if self._live else ''}{line}\n")

    def _draw(self, line: str) -> None:
        room = _columns() - 1
        self._write(_CLEAR + (line if len(line) <= room else line[: room - 1] + "…"))

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _columns() -> int:
    """How wide the terminal behind stderr is at the moment."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
