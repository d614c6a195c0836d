"""Progress on stderr: what is being done and how long it has taken. stdout is left to data."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.places import HostError

_TAIL = 15
_started = time.monotonic()


def say(text: str) -> None:
    """One line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - _started:6.1f}s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Says what begins, and how long it took when it has ended well."""
    say(f"{text} …")
    begin = time.monotonic()
    yield
    say(f"{text}: {time.monotonic() - begin:.1f} s")


def run(argv: Sequence[str | Path], *, env: dict[str, str] | None = None, stdin: str | None = None) -> str:
    """Runs a program and gives its stdout.

    Raises:
        HostError: it failed; the text ends with its last lines.
    """
    done = subprocess.run([str(word) for word in argv], env=env, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()[-_TAIL:]
        raise HostError(f"'{argv[0]}' failed with status {done.returncode}:\n  " + "\n  ".join(lines))
    return done.stdout


def run_showing(argv: Sequence[str | Path], *, log: Path, prefix: str, label: str = "") -> None:
    """Runs a long program, writes all it says to `log`, and shows its lines that start with `prefix` as progress.

    Raises:
        HostError: it failed; the text ends with its last lines.
    """
    words = [str(word) for word in argv]
    lines: list[str] = []
    with (
        log.open("w") as file,
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            lines = [*lines[-_TAIL:], line.rstrip()]
            if line.startswith(prefix):
                say(f"  {label}{line.removeprefix(prefix).strip()}")
    if process.returncode != 0:
        raise HostError(f"'{words[0]}' failed with status {process.returncode}:\n  " + "\n  ".join(lines))
