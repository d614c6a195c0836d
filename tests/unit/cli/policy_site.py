"""A machine of 128 CPUs and 1 TiB whose rules are files below tmp_path, and a shell on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import click
from click.testing import CliRunner, Result

from ds01.cli import container
from ds01.cli.ds01 import main
from ds01.common.adapters.yamltree import read_tree
from ds01.common.policy.build import build
from ds01.common.policy.folder import read_one
from ds01.common.policy.kinds import Machine

MACHINE = Machine(cpus=128, memory_bytes=2**40, tasks=2**22)


class Site:
    """Files, and what the commands say of them."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "etc"
        self.folder.mkdir()
        self.file = self.folder / "resource-limits.yaml"
        self.published = tmp_path / "policy.json"
        self.shrinking = tmp_path / "shrinking.json"
        self.docker = tmp_path / "docker.sock"
        self.tmp_path = tmp_path

    def write(self, path: str, text: str) -> Path:
        """A file below tmp_path."""
        file = self.tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def publish(self, yaml: str = "{}") -> None:
        """The rules of this machine, in force."""
        self.file.write_text(yaml, encoding="utf-8")
        built = build(read_one(self.file), read_tree, MACHINE)
        assert not built.problems
        self.published.write_text(built.text, encoding="utf-8")

    def run(self, *args: str | Path) -> Result:
        """`ds01 policy …`."""
        return self.ds01("policy", *args)

    def ds01(self, *args: str | Path) -> Result:
        """`ds01 …`."""
        return self._invoke(main, *args)

    def container(self, *args: str) -> Result:
        """`container …`."""
        return self._invoke(container.main, *args)

    def _invoke(self, command: click.Group, *args: str | Path) -> Result:
        env = {
            "DS01_POLICY_FOLDER": str(self.folder),
            "DS01_POLICY_FILE": str(self.published),
            "DS01_SHRINKING_FILE": str(self.shrinking),
            "DS01_DOCKER_SOCKET": str(self.docker),
            "DS01_ALLOCATOR_SOCKET": str(self.tmp_path / "no-allocator"),
        }
        return CliRunner().invoke(command, [str(arg) for arg in args], env=env)


class _Engine(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    containers: list[dict[str, Any]]


class _Answer(BaseHTTPRequestHandler):
    server: _Engine

    def do_GET(self) -> None:
        found = self.server.containers if self.path.partition("?")[0].endswith("/containers/json") else None
        body = json.dumps(found).encode()
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """In silence."""


@contextmanager
def engine_at(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Docker on a socket; what is put into the list runs."""
    with _Engine(str(path), _Answer) as server:
        server.containers = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.containers
        server.shutdown()
        thread.join()
