"""Docker's socket as far as `container deploy` goes, that answers a create as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Create = Callable[["_Door"], None]


def created(door: _Door) -> None:
    door.say(201, {"Id": "c0ffee", "Warnings": []})


def breaks(door: _Door) -> None:
    """Not a word."""


def breaks_in_the_middle(door: _Door) -> None:
    door.wfile.write(b'HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{"Id": ')


def refuses(status: int, message: str, **details: object) -> Create:
    return lambda door: door.say(status, {"message": message, "ds01": details})


class FakeDocker(ThreadingMixIn, UnixStreamServer):
    """`creates` are the answers to creates, one after the other, the last one again and again."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Door)
        self.asked: list[Asked] = []
        self.creates: list[Create] = [created]
        self.turn = threading.Event()
        self.left = threading.Event()

    def of(self, method: str, ending: str) -> list[Asked]:
        return [one for one in self.asked if one.method == method and one.path.partition("?")[0].endswith(ending)]

    def in_turn(self, door: _Door) -> None:
        """Answers when it is the container's turn; notes who leaves before."""
        door.connection.settimeout(0.02)
        while not self.turn.is_set():
            try:
                if not door.connection.recv(1):
                    self.left.set()
                    return
            except TimeoutError:
                continue
        created(door)


class _Door(BaseHTTPRequestHandler):
    server: FakeDocker
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append(Asked(self.command, self.path, dict(self.headers), body))
        self.close_connection = True
        if self.path.partition("?")[0].endswith("/containers/create"):
            creates = self.server.creates
            (creates.pop(0) if len(creates) > 1 else creates[0])(self)
        else:
            self.say(204, None)

    def do_DELETE(self) -> None:
        self.do_POST()

    def say(self, status: int, body: object) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """In silence."""


@contextmanager
def docker_at(path: Path) -> Iterator[FakeDocker]:
    with FakeDocker(path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.turn.set()
            server.shutdown()
            thread.join()
