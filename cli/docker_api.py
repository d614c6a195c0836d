"""The Docker socket as a command sees it: blocking, one connection per call, the standard library only."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ds01.cli.exits import CommandError, Exit, status_of

SOCKET = "/run/docker.sock"
TIMEOUT_S = 120.0


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(_socket())


def request(method: str, path: str, query: Mapping[str, str] | None = None, body: object = None) -> Any:
    """One call; the decoded JSON answer, None where there is none.

    Raises:
        CommandError: refused, not found, or the socket does not answer; the words are the server's.
    """
    target = f"/v1.45{path}" + (f"?{urlencode(query)}" if query else "")
    connection = _Connection("docker")
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, target, payload, {"Content-Type": "application/json"} if payload else {})
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException) as exc:
        hint = "ask an administrator, or try again in a moment"
        raise CommandError(Exit.DOWN, f"Docker does not answer on {_socket()}: {exc}", hint) from exc
    finally:
        connection.close()
    answer = _decoded(raw)
    if response.status >= 400:
        raise _refused(response.status, answer)
    return answer


def _socket() -> str:
    return os.environ.get("DS01_DOCKER_SOCKET", SOCKET)


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except ValueError:
        return None


def _refused(status: int, answer: Any) -> CommandError:
    message = str(answer.get("message", "")) if isinstance(answer, dict) else ""
    detail = answer.get("ds01") if isinstance(answer, dict) else None
    detail = detail if isinstance(detail, dict) else {}
    exit_status = status_of(status, str(detail.get("reason", "")))
    return CommandError(exit_status, message or f"Docker answered {status}", str(detail.get("hint", "")))
