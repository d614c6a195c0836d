"""What the administrator sees: one line for each step with its time, notes below it, and a refusal in full."""

from __future__ import annotations

import sys
import time


class Refused(Exception):
    """The machine or its state does not allow it; nothing is half done. `status` is the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Talk:
    """Progress on stderr."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.current = ""

    def step(self, name: str) -> None:
        """A step begins."""
        self.current = name
        print(f"[{time.monotonic() - self.started:5.1f} s] {name}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something to know about the step."""
        print(f"          {text}", file=sys.stderr, flush=True)
