"""An engine for tests: speaks HTTP on a Unix socket, records every byte it gets, and misbehaves on request."""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

JSON = "application/json"
RAW = "application/vnd.docker.raw-stream"


@dataclass
class Container:
    """One container of the fake."""

    id: str
    name: str
    body: dict[str, Any]
    running: bool = False

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body.get("Labels") or {})

    def inspected(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Config": {"Labels": self.labels},
            "State": {"Running": self.running, "Restarting": False, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"},
            "HostConfig": self.body.get("HostConfig", {}),
        }


@dataclass
class Received:
    """One request as its bytes came, and what came after it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    rest: bytearray = field(default_factory=bytearray)

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    def json(self) -> Any:
        return json.loads(self.body)


class FakeEngine:
    """Containers, images and the ways in which an engine can fail.

    `close_on`, `hang_on`: path endings at which the connection is closed, or nothing is ever said.
    `released`: set when what hangs is closed. `grant`: set when a waiting upgrade may be granted.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.received: list[Received] = []
        self.containers: dict[str, Container] = {}
        self.images: dict[str, dict[str, Any]] = {"busybox": {}}
        self.execs: dict[str, str] = {}
        self.info = {"CpuCfsQuota": True, "CPUShares": True, "MemoryLimit": True, "SwapLimit": True, "PidsLimit": True}
        self.close_on: set[str] = set()
        self.hang_on: set[str] = set()
        self.grant = asyncio.Event()
        self.grant.set()
        self.asked_upgrade = asyncio.Event()
        self.gone = asyncio.Event()
        self.released = asyncio.Event()
        self.log_lines = [b"one\n", b"two\n"]
        self.endless_logs = False
        self.truncate_logs = False
        self.create_status = 201
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    def add(self, name: str, labels: dict[str, str], identity: str = "") -> Container:
        made = Container(identity or secrets.token_hex(32), name, {"Labels": labels})
        self.containers[made.id] = made
        return made

    def requests(self, ending: str) -> list[Received]:
        return [item for item in self.received if item.path.endswith(ending)]

    def find(self, reference: str) -> Container | None:
        for item in self.containers.values():
            if reference in (item.id, item.name):
                return item
        found = [item for item in self.containers.values() if item.id.startswith(reference)]
        return found[0] if len(found) == 1 else None

    # --- the wire -------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._read(reader)
            self.received.append(request)
            await self._answer(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {key.lower(): value.strip() for key, value in (line.split(":", 1) for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while (size := int(await reader.readline(), 16)) or await reader.readline() is None:
                body += await reader.readexactly(size)
                await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Received(method, target, headers, body)

    async def _answer(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if any(request.path.endswith(ending) for ending in self.close_on):
            return
        if any(request.path.endswith(ending) for ending in self.hang_on):
            hung = asyncio.create_task(reader.read())
            released = asyncio.create_task(self.released.wait())
            await asyncio.wait({hung, released}, return_when=asyncio.FIRST_COMPLETED)
            released.cancel()
            hung.cancel()
            self.gone.set()
            return
        if request.path.endswith(("/attach", "/start")) and ("/exec/" in request.path or "/attach" in request.path):
            await self._upgrade(request, reader, writer)
        elif request.path.endswith("/logs"):
            await self._logs(reader, writer)
        else:
            status, value = self._state(request)
            payload = b"" if value is None or request.method == "HEAD" else json.dumps(value).encode()
            extra = "Api-Version: 1.45\r\nBuilder-Version: 2\r\n" if request.path.endswith("_ping") else ""
            kind = f"Content-Type: {JSON}\r\n{extra}Content-Length: {len(payload)}\r\n"
            writer.write(f"HTTP/1.1 {status} X\r\n{kind}\r\n".encode() + payload)
            await writer.drain()

    async def _upgrade(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Grant the stream when told to, then echo what comes, and what came before is recorded."""
        self.asked_upgrade.set()
        granted = asyncio.create_task(self.grant.wait())
        early = asyncio.create_task(reader.read(65536))
        await asyncio.wait({granted, early}, return_when=asyncio.FIRST_COMPLETED)
        if early.done():
            request.rest += early.result()
            granted.cancel()
            return
        if "upgrade" in request.headers:
            writer.write(f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {RAW}\r\nConnection: Upgrade\r\n".encode())
            writer.write(b"Upgrade: tcp\r\n\r\nhello ")
        else:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\nhello ".encode())
        await writer.drain()
        data = await early
        while data:
            request.rest += data
            writer.write(data)
            await writer.drain()
            data = await reader.read(65536)
        writer.write(b"bye")
        self.gone.set()

    async def _logs(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for line in self.log_lines:
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        await writer.drain()
        if self.endless_logs:
            await reader.read()
            self.gone.set()
            return
        if not self.truncate_logs:
            writer.write(b"0\r\n\r\n")

    # --- what it knows --------------------------------------------------------------------------------------------

    def _state(self, request: Received) -> tuple[int, Any]:
        parts = request.path.strip("/").split("/")[1:]
        match [request.method, *parts]:
            case ["GET" | "HEAD", "_ping"]:
                return 200, "OK"
            case ["GET", "info"]:
                return 200, self.info
            case ["GET", "version"]:
                return 200, {"ApiVersion": "1.45"}
            case ["GET", "images", *names, "json"] if names:
                found = self.images.get("/".join(names))
                return (200, {"Config": found}) if found is not None else (404, {"message": "No such image: x"})
            case ["POST", "containers", "create"]:
                return self._create(request)
            case ["GET", "containers", "json"]:
                return 200, self._listed(json.loads(request.query.get("filters", "{}")))
            case ["GET", "exec", identity, "json"] if identity in self.execs:
                return 200, {"ContainerID": self.execs[identity]}
            case [method, "containers", reference, *rest]:
                return self._container(method, reference, rest)
        return 404, {"message": "page not found"}

    def _create(self, request: Received) -> tuple[int, Any]:
        if self.create_status != 201:
            return self.create_status, {"message": f"failed: {self.create_status}"}
        name = request.query.get("name", secrets.token_hex(4) + "-x")
        if self.find(name) is not None:
            taken = self.find(name)
            assert taken is not None
            return 409, {"message": f'Conflict. The container name "/{name}" is already in use by "{taken.id}"'}
        made = Container(secrets.token_hex(32), name, request.json())
        self.containers[made.id] = made
        return 201, {"Id": made.id, "Warnings": ["from the engine"]}

    def _listed(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = [label.split("=", 1) for label in filters.get("label", [])]
        return [
            {"Id": item.id, "Names": [f"/{item.name}"], "Labels": item.labels, "State": "created"}
            for item in self.containers.values()
            if all(item.labels.get(pair[0]) == pair[1] for pair in wanted)
        ]

    def _container(self, method: str, reference: str, rest: list[str]) -> tuple[int, Any]:
        item = self.find(reference)
        if item is None:
            return 404, {"message": f"No such container: {reference}"}
        match [method, *rest]:
            case ["GET", "json"]:
                return 200, item.inspected()
            case ["POST", "start"]:
                item.running = True
                return 204, None
            case ["DELETE"]:
                del self.containers[item.id]
                return 204, None
            case ["POST", "exec"]:
                identity = secrets.token_hex(32)
                self.execs[identity] = item.id
                return 201, {"Id": identity}
            case ["POST", "wait"]:
                return 200, {"StatusCode": 0}
        return 204, None
