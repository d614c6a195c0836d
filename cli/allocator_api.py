"""The allocator as a command sees it: one blocking Varlink call per question."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from ds01.cli.exits import CommandError, Exit

SOCKET = "/run/ds01/allocator.sock"
TIMEOUT_S = 10.0
_INTERFACE = "io.ds01.Allocator"


def call(method: str, **parameters: object) -> dict[str, Any]:
    """Call `method` of the allocator.

    Raises:
        CommandError: it does not answer, or says that it can't.
    """
    try:
        reply = _exchange(json.dumps({"method": f"{_INTERFACE}.{method}", "parameters": parameters}).encode())
    except (OSError, ValueError) as exc:
        raise CommandError(
            Exit.DOWN,
            f"the GPU allocator does not answer: {exc}",
            "try again in a moment; administrators see 'systemctl status ds01-gpu-allocator'",
        ) from exc
    if "error" in reply:
        said = (reply.get("parameters") or {}).get("message") or reply["error"]
        raise CommandError(Exit.DOWN, f"the GPU allocator can't tell: {said}")
    return dict(reply.get("parameters") or {})


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


def _exchange(message: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        _connect(connection, os.environ.get("DS01_ALLOCATOR_SOCKET", SOCKET))
        with suppress(BrokenPipeError):  # refused at once: the reason is there to be read
            connection.sendall(message + b"\0")
        received = b""
        while not received.endswith(b"\0"):
            chunk = connection.recv(65536)
            if not chunk:
                raise OSError("it closed the connection")
            received += chunk
    reply = json.loads(received[:-1])
    if not isinstance(reply, dict):
        raise ValueError("its answer is not an object")
    return reply
