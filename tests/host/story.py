"""Tells a story on a test host: a heading, the command as its user typed it, what came back, what that shows."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TESTHOST = Path(__file__).resolve().parent / "testhost"


@dataclass(frozen=True, slots=True)
class Told:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, as somebody at a terminal sees them."""
        return self.out + self.err


class Story:
    """One host and the people on it. `check` ends the story at the first claim that does not hold."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._scene = 0
        self._bold, self._dim, self._plain = ("\033[1m", "\033[2m", "\033[0m") if _colour() else ("", "", "")

    def scene(self, title: str) -> None:
        """A new heading."""
        self._scene += 1
        print(f"\n{self._bold}{self._scene}. {title}{self._plain}", flush=True)

    def quietly(self, user: str, *argv: str, stdin: str | None = None) -> Told:
        """Run a command in a login session of `user`, telling nothing."""
        done = subprocess.run(
            [str(TESTHOST), "exec", "--name", self.name, "--user", user, "--", *argv],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
        )
        return Told(done.returncode, done.stdout, done.stderr)

    def types(self, user: str, line: str, most: int = 12) -> Told:
        """`user` types `line`; at most `most` lines of the answer are shown."""
        self._prompt(user, line)
        told = self.quietly(user, "sh", "-c", line)
        self._answer(told, most)
        return told

    def says(self, user: str, line: str, told: Told, most: int = 12) -> None:
        """Show what `user` typed some time ago, and was answered now."""
        self._prompt(user, line)
        self._answer(told, most)

    def _prompt(self, user: str, line: str) -> None:
        print(f"{self._dim}{user}@host:~${self._plain} {line}", flush=True)

    def _answer(self, told: Told, most: int) -> None:
        self._show(told.text, most)
        if told.status:
            print(f"{self._dim}    [exit {told.status}]{self._plain}", flush=True)

    def host(self, *argv: str) -> Told:
        """A testhost command."""
        command, *rest = argv
        done = subprocess.run([str(TESTHOST), command, "--name", self.name, *rest], text=True, capture_output=True)
        if done.returncode:
            sys.exit(f"testhost {shlex.join(argv)} failed: {done.stderr}")
        return Told(done.returncode, done.stdout, done.stderr)

    def check(self, holds: object, claim: str) -> None:
        """A claim that must hold."""
        if not holds:
            print(f"  ✗ {claim}", flush=True)
            raise SystemExit(1)
        print(f"  ✓ {claim}", flush=True)

    @staticmethod
    def _show(text: str, most: int) -> None:
        lines = [line for line in text.rstrip().splitlines() if line.strip()]
        for line in lines[:most]:
            print(f"    {line}")
        if len(lines) > most:
            print(f"    … {len(lines) - most} more lines")
        sys.stdout.flush()


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
