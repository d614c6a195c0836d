"""The Docker socket as a command sees it: blocking, one connection per call, the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ds01.cli.denials import would_have_to_end
from ds01.cli.exits import CommandError, Exit, status_of

SOCKET = "/run/docker.sock"
TIMEOUT_S = 120.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(_socket())


class Pending:
    """One request that was sent, whose answer may take long. A file for select().

    Raises:
        OSError: nobody takes it.
    """

    def __init__(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        target = f"/v1.45{path}" + (f"?{urlencode(query)}" if query else "")
        payload = None if body is None else json.dumps(body)
        typed = {"Content-Type": "application/json"} if payload else {}
        self._connection = _Connection("docker")
        try:
            self._connection.request(method, target, payload, {**typed, **(headers or {})})
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The socket's."""
        return int(self._connection.sock.fileno())

    def answer(self) -> Answer:
        """The whole answer, waited for.

        Raises:
            OSError: the connection broke, or what comes is not HTTP.
            CommandError: refused, not found; the words are the server's.
        """
        try:
            response = self._connection.getresponse()
            raw = response.read()
        except http.client.HTTPException as exc:
            raise OSError(str(exc) or type(exc).__name__) from exc
        decoded = _decoded(raw)
        if response.status >= 400:
            raise _refused(response.status, decoded)
        return Answer(decoded)

    def close(self) -> None:
        """Hang up: a create that waits leaves the queue."""
        self._connection.close()


class Answer(NamedTuple):
    """What came: decoded JSON, None where there was none."""

    value: Any


def request(method: str, path: str, query: Mapping[str, str] | None = None, body: object = None) -> Any:
    """One call; the decoded JSON answer, None where there is none.

    Raises:
        CommandError: refused, not found, or the socket does not answer; the words are the server's.
    """
    try:
        with closing(Pending(method, path, query, body)) as pending:
            return pending.answer().value
    except OSError as exc:
        raise down(exc) from exc


def down(cause: OSError) -> CommandError:
    """That Docker does not answer."""
    hint = "ask an administrator, or try again in a moment"
    return CommandError(Exit.DOWN, f"Docker does not answer on {_socket()}: {cause}", hint)


def _socket() -> str:
    return os.environ.get("DS01_DOCKER_SOCKET", SOCKET)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except ValueError:
        return None


def _refused(status: int, answer: Any) -> CommandError:
    """The refusal in its parts: the server's sentence has all of them in one line."""
    message = str(answer.get("message", "")) if isinstance(answer, dict) else ""
    detail = answer.get("ds01") if isinstance(answer, dict) else None
    detail = detail if isinstance(detail, dict) else {}
    exit_status = status_of(status, str(detail.get("reason", "")))
    hint, to_end = str(detail.get("hint", "")), detail.get("to_end")
    more = would_have_to_end(to_end if isinstance(to_end, list) else [])
    if hint:
        message = message.removesuffix(f"; {hint}")
    if more:
        message = message.partition("; would have to end: ")[0]
    return CommandError(exit_status, message or f"Docker answered {status}", hint, more)
