"""A running host as a test holds it: run as a user, edit its GPUs, cut its power, read its journal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from lib import copying, host, session
from lib.model import State
from lib.places import TESTHOST, HostError
from lib.ready import Call

Entry = dict[str, str]
_WARNING = 4


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    argv: tuple[str, ...]
    status: int
    raw_out: bytes
    raw_err: bytes

    @property
    def out(self) -> str:
        return self.raw_out.decode(errors="replace")

    @property
    def err(self) -> str:
        return self.raw_err.decode(errors="replace")


class Machine(Protocol):
    """What tests ask of a running host, whichever way it is run."""

    def run(
        self,
        user: str,
        argv: Sequence[str] | str,
        *,
        stdin: str | bytes = b"",
        check: bool = True,
        timeout_s: float = 60,
    ) -> Result: ...
    def root(self, argv: Sequence[str] | str, *, stdin: str | bytes = b"", check: bool = True) -> Result: ...
    def write(self, path: str, text: str | bytes) -> None: ...
    def read(self, path: str) -> str: ...


class RunningHost:
    """One host. Every method speaks to the boot that is up now."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def boot(cls, name: str, *options: str) -> RunningHost:
        """`testhost up` with these options."""
        _testhost("up", "--name", name, *options)
        return cls(name)

    @property
    def state(self) -> State:
        return host.leader_of(self.name)

    def run(
        self,
        user: str,
        argv: Sequence[str] | str,
        *,
        stdin: str | bytes = b"",
        check: bool = True,
        timeout_s: float = 60,
    ) -> Result:
        """Runs a command, or a line for `sh -c`, in a login session of the user.

        Raises:
            AssertionError: it failed although `check` is set, or ran longer than `timeout_s`.
        """
        process = self.start(user, argv)
        try:
            out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            process.end("KILL")
            out, err = process.communicate()
            raise AssertionError(f"{process.argv} took more than {timeout_s} s; it said:\n{said(out, err)}") from exc
        result = Result(process.argv, process.returncode, out, err)
        if check:
            assert result.status == 0, f"{user}: {result.argv} ended with {result.status}:\n{said(out, err)}"
        return result

    def root(self, argv: Sequence[str] | str, *, stdin: str | bytes = b"", check: bool = True) -> Result:
        """Runs a command as root in no session: quick, for looking and arranging."""
        words = words_of(argv)
        raw_in = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(session.enter_argv(self.state.leader, words), input=raw_in, capture_output=True)
        if check:
            assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{said(done.stdout, done.stderr)}"
        return Result(words, done.returncode, done.stdout, done.stderr)

    def start(self, user: str, argv: Sequence[str] | str) -> Session:
        """Starts a command in a login session of the user; its pipes are the caller's."""
        return Session(self.state, user, words_of(argv))

    def copy_in(self, source: Path, target: str) -> None:
        """Copies a file or folder to a path in the host."""
        copying.copy(self.state, str(source), f":{target}")

    def write(self, path: str, text: str | bytes) -> None:
        """Writes a file as root."""
        self.root(["sh", "-c", 'cat > "$1"', "sh", path], stdin=text)

    def read(self, path: str) -> str:
        """A file's text, as root."""
        return self.root(["cat", "--", path]).out

    def gpu(self, *words: str) -> None:
        """Changes the simulated GPUs, as `testhost gpu` does."""
        _testhost("gpu", "--name", self.name, *words)

    def cut_power(self) -> None:
        """Pulls the plug and waits until every unit is active again."""
        _testhost("kill", "--name", self.name, "--power")

    def reboot(self) -> None:
        """A clean reboot; returns when every unit is active again."""
        _testhost("kill", "--name", self.name)

    def journal(self, *matches: str, since_s: float | None = None) -> list[Entry]:
        """The entries of this boot, our namespace included, that match; `since_s` is a Unix time."""
        return read_journal(partial(host.call, self.state), matches, since_s)

    def warnings(self, since_s: float) -> list[Entry]:
        """What our units said, or systemd of them, at priority warning or above."""
        return ours(self.journal("--priority=warning", since_s=since_s))

    def save_journal(self, file: Path) -> None:
        """Writes the journal of this boot to a file outside."""
        host.save_journal(self.state, file)

    def end(self) -> None:
        """Takes the host down."""
        host.down(self.name)


class Session(subprocess.Popen[bytes]):
    """A command in a login session. `end` signals it inside; killing the Popen alone would leave it running."""

    def __init__(self, state: State, user: str, argv: tuple[str, ...]) -> None:
        self.argv = argv
        self._leader, self._unit = state.leader, host.new_unit()
        super().__init__(
            session.session_argv(state.leader, user, argv, tty=False, unit=self._unit),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self, signal_name: str = "TERM") -> None:
        """Sends a signal to the command and its process group."""
        subprocess.run(session.signal_argv(self._leader, self._unit, signal_name), check=False, capture_output=True)


def read_journal(call: Call, matches: Iterable[str], since_s: float | None) -> list[Entry]:
    """The entries of this boot, our namespace included, on the host that `call` reaches."""
    for sync in (["--sync"], ["--namespace=ds01", "--sync"]):
        call(["journalctl", *sync])
    lines = call(["journalctl", "--namespace=+ds01", "--boot", "--output=json", "--all", *matches]).splitlines()
    entries: list[Entry] = [json.loads(line) for line in lines]
    first_us = 0 if since_s is None else int(since_s * 1e6)
    return [entry for entry in entries if int(entry["__REALTIME_TIMESTAMP"]) >= first_us]


def ours(entries: Iterable[Entry]) -> list[Entry]:
    """Those from or about our units."""
    return [entry for entry in entries if unit_of(entry).startswith("ds01")]


def unit_of(entry: Entry) -> str:
    """Which unit an entry is from or about."""
    return entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or ""


def words_of(argv: Sequence[str] | str) -> tuple[str, ...]:
    """A command as words; a line is one for `sh -c`."""
    return ("sh", "-c", argv) if isinstance(argv, str) else tuple(argv)


def said(out: bytes, err: bytes) -> str:
    """Both streams, for people."""
    return f"{out.decode(errors='replace')}\n{err.decode(errors='replace')}"


def _testhost(*words: str) -> None:
    done = subprocess.run([sys.executable, "-P", TESTHOST, *words], stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise HostError(f"testhost {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
