"""The commands as processes: to the end, in the background, or on a terminal whose screen can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fake_allocator import WITHIN_S, eventually

TYPING = Path(__file__).parents[3] / "build" / "typing"
_CODE = "import sys; sys.argv[0] = '{0}'; from ds01.cli.{0} import main; main()"


class Shell:
    """Starts commands whose sockets lie below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allocator = folder / "allocator.sock"
        self.docker = folder / "docker.sock"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TYPING),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
            "DS01_ALLOCATOR_SOCKET": str(self.allocator),
            "DS01_DOCKER_SOCKET": str(self.docker),
            "DS01_SHRINKING_FILE": str(folder / "shrinking.json"),
        }
        self._started: list[subprocess.Popen[str]] = []
        self._terminals: list[Terminal] = []

    def ds01(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self._run("ds01", words, stdin)

    def container(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run("container", words, "")

    def start(self, program: str, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            argv(program, words),
            env=self.env,
            cwd=self.folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_interruptible,
        )
        self._started.append(process)
        return process

    def terminal(self, program: str, *words: str, columns: int = 160) -> Terminal:
        terminal = Terminal(argv(program, words), self.env, self.folder, columns)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        for terminal in self._terminals:
            terminal.close()

    def _run(self, program: str, words: tuple[str, ...], stdin: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv(program, words),
            env=self.env,
            cwd=self.folder,
            text=True,
            input=stdin,
            capture_output=True,
            timeout=WITHIN_S,
        )


def argv(program: str, words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-c", _CODE.format(program), *words]


def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A process on a terminal of its own, and what that showed."""

    def __init__(self, words: list[str], env: Mapping[str, str], folder: Path, columns: int) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            _interruptible()
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            os.execve(words[0], words, {**env, "TERM": "xterm"})
        self._shown = b""
        self._status: int | None = None
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def screen(self) -> list[str]:
        """The lines as they stand there now."""
        return screen(self._shown.decode(errors="replace"))

    @property
    def text(self) -> str:
        return "\n".join(self.screen)

    @property
    def raw(self) -> str:
        """All that was ever written."""
        return self._shown.decode(errors="replace")

    def shows(self, text: str) -> None:
        """Wait until it does."""
        eventually(lambda: text in self.text, f"the screen shows {text!r}, it shows\n{self.text}")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def ended(self) -> int:
        """The exit status, waited for."""
        eventually(self._has_ended, "it ends")
        self._reader.join(WITHIN_S)
        assert self._status is not None
        return self._status

    def close(self) -> None:
        if not self._has_ended():
            os.kill(self.pid, signal.SIGKILL)
            eventually(self._has_ended, "it was killed")
        self._reader.join(WITHIN_S)
        os.close(self._terminal)

    def _has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is not None

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._terminal, 65536)
            except OSError:  # EIO: nobody has the other end open any more
                return
            if not chunk:
                return
            self._shown += chunk


def screen(written: str) -> list[str]:
    """What a terminal makes of text with returns and 'erase to the end of the line'."""
    lines, column = [""], 0
    for part in re.findall(r"\x1b\[K|\x1b\[[0-9;]*[A-Za-z]|.", written, re.DOTALL):
        match part:
            case "\r":
                column = 0
            case "\n":
                lines.append("")
                column = 0
            case "\x1b[K":
                lines[-1] = lines[-1][:column]
            case _ if part.startswith("\x1b"):
                continue
            case _:
                lines[-1] = lines[-1][:column].ljust(column) + part + lines[-1][column + 1 :]
                column += 1
    return lines


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
