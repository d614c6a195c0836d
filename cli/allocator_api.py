"""The allocator as a command sees it: Varlink over a Unix socket, one connection per call."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from ds01.cli.exits import CommandError, Exit

SOCKET = "/run/ds01/allocator.sock"
TIMEOUT_S = 10.0
_INTERFACE = "io.ds01.Allocator"


class Pending:
    """One call that was sent, and its answer as it comes in. A file for select().

    Raises:
        OSError: nobody takes the call.
    """

    def __init__(self, method: str, parameters: Mapping[str, object]) -> None:
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(TIMEOUT_S)
            _connect(self._socket, os.environ.get("DS01_ALLOCATOR_SOCKET", SOCKET))
            message = json.dumps({"method": f"{_INTERFACE}.{method}", "parameters": parameters})
            with suppress(BrokenPipeError):  # refused at once: the reason is there to be read
                self._socket.sendall(message.encode() + b"\0")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The socket's."""
        return self._socket.fileno()

    def wait(self, timeout_s: float) -> None:
        """Let `answer` wait for so long."""
        self._socket.settimeout(timeout_s)

    def answer(self) -> dict[str, Any] | None:
        """What the allocator says, None while that is not whole.

        Raises:
            OSError: the connection broke, or what comes is no answer.
            CommandError: it says that it can't, or that the caller may not.
        """
        chunk = self._socket.recv(65536)
        if not chunk:
            raise OSError("it closed the connection")
        self._received += chunk
        return _parameters(self._received[:-1]) if chunk.endswith(b"\0") else None

    def close(self) -> None:
        """Hang up: a call that waits leaves the queue."""
        self._socket.close()


def call(method: str, timeout_s: float = TIMEOUT_S, **parameters: object) -> dict[str, Any]:
    """Call `method` of the allocator.

    Raises:
        CommandError: it does not answer, says that it can't, or that the caller may not.
    """
    try:
        with closing(Pending(method, parameters)) as pending:
            pending.wait(timeout_s)
            while (answer := pending.answer()) is None:
                pass
            return answer
    except OSError as exc:
        raise down(exc) from exc


def down(cause: OSError) -> CommandError:
    """That it does not answer."""
    return CommandError(
        Exit.DOWN,
        f"the GPU allocator does not answer: {cause}",
        "try again in a moment; administrators see 'systemctl status ds01-gpu-allocator'",
    )


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, again for a moment while the socket's queue is full."""
    for wait_s in (0.02, 0.1, 0.3, 0.5, 1.0, 1.0):
        try:
            connection.connect(path)
        except BlockingIOError:
            time.sleep(wait_s)
        else:
            return
    raise OSError("too many callers at the moment")


def _parameters(raw: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(raw)
    except ValueError as exc:
        raise OSError(f"its answer is not JSON: {exc}") from exc
    if not isinstance(reply, dict):
        raise OSError("its answer is not an object")
    parameters = dict(reply.get("parameters") or {})
    if "error" in reply:
        raise _error(str(reply["error"]), str(parameters.get("message") or reply["error"]))
    return parameters


def _error(name: str, message: str) -> CommandError:
    match name.rpartition(".")[2]:
        case "NotPossible":
            return CommandError(Exit.USAGE, message)
        case "PermissionDenied":
            return CommandError(Exit.NOT_PERMITTED, "only administrators may do this", "ask one of them")
        case _:
            return CommandError(Exit.DOWN, f"the GPU allocator can't tell: {message}")
