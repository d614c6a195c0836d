"""A small client for the Docker Engine on its Unix socket: one request per connection, asyncio and h11.

For calls of our own whose answers are small, and for the stream of events. Users' bytes never pass through here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode

import h11

from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.model import API_VERSION, ContainerFacts, EngineFacts, Listed

ENGINE_SOCKET = "/run/ds01-engine/engine.sock"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. `headers` keys are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; raises `Unavailable` if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as exc:
            raise Unavailable("the engine's answer is not JSON") from exc

    def message(self) -> str:
        """The engine's own words in an error answer."""
        try:
            return str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            return self.body.decode(errors="replace")[:300]


def target(path: str, query: Mapping[str, str] | None = None) -> str:
    """A request target at the engine's newest API version."""
    encoded = f"?{urlencode(query)}" if query else ""
    return f"/v{API_VERSION}{quote(path)}{encoded}"


class Engine:
    """Calls to the engine behind `socket_path`. Every call raises `Unavailable` when it does not answer in time."""

    def __init__(self, socket_path: str = ENGINE_SOCKET, timeout_s: float = 10.0) -> None:
        self._socket_path = socket_path
        self._timeout_s = timeout_s

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Response:
        """One request with an optional JSON body; the whole answer, whatever its status."""
        try:
            async with asyncio.timeout(self._timeout_s), self._exchange(method, target(path, query), body) as answer:
                chunks = [chunk async for chunk in answer.chunks()]
                return Response(answer.status, answer.headers, b"".join(chunks))
        except (OSError, TimeoutError, h11.RemoteProtocolError) as exc:
            raise Unavailable(f"the Docker engine does not answer: {str(exc) or 'no answer in time'}") from exc

    async def inspect(self, reference: str) -> ContainerFacts | None:
        """What the engine says of the container with this id; None if there is none."""
        response = await self.request("GET", f"/containers/{reference}/json")
        if response.status == 404:
            return None
        return container_facts(_successful(response).json())

    async def listed(self) -> list[Listed]:
        """All containers, in any state, with what a list tells of them."""
        response = _successful(await self.request("GET", "/containers/json", {"all": "1"}))
        return [_listed(item) for item in response.json()]

    async def raw(self, container: str) -> Mapping[str, Any] | None:
        """The engine's whole answer on the container with this id; None if there is none."""
        response = await self.request("GET", f"/containers/{container}/json")
        return None if response.status == 404 else cast("Mapping[str, Any]", _successful(response).json())

    async def find_leased(self, lease: str) -> ContainerFacts | None:
        """The container, in any state, that was made for this lease; None if there is none."""
        query = {"all": "1", "filters": json.dumps({"label": [f"ds01.lease={lease}"]})}
        listed = _successful(await self.request("GET", "/containers/json", query)).json()
        return await self.inspect(listed[0]["Id"]) if listed else None

    async def start(self, container: str) -> None:
        """Start the container with this id; one that runs already is no error."""
        response = await self.request("POST", f"/containers/{container}/start")
        if response.status != 304:
            _successful(response)

    async def facts(self) -> EngineFacts:
        """Which limits the engine applies itself."""
        return engine_facts(_successful(await self.request("GET", "/info")).json())

    async def answers(self) -> None:
        """Return if the engine answers at all."""
        _successful(await self.request("GET", "/_ping"))

    async def events(self, since: float) -> AsyncIterator[dict[str, Any]]:
        """Container events from `since` (seconds of the epoch) on, without end."""
        query = {"since": f"{since:.6f}", "filters": json.dumps({"type": ["container"]})}
        pending = b""
        try:
            async with self._exchange("GET", target("/events", query), None) as answer:
                async for chunk in answer.chunks():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield json.loads(line)
        except (OSError, ValueError, h11.RemoteProtocolError) as exc:
            raise Unavailable(f"the engine's events ended: {exc}") from exc

    @asynccontextmanager
    async def _exchange(self, method: str, request_target: str, body: object) -> AsyncIterator[_Answer]:
        reader, writer = await asyncio.open_unix_connection(self._socket_path)
        try:
            answer = _Answer(reader)
            writer.write(answer.head(method, request_target, body))
            await writer.drain()
            await answer.receive_head()
            yield answer
        finally:
            writer.close()


class _Answer:
    """One exchange, read as it comes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._connection = h11.Connection(h11.CLIENT)
        self.status = 0
        self.headers: dict[str, str] = {}

    def head(self, method: str, request_target: str, body: object) -> bytes:
        payload = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "docker"), ("Content-Length", str(len(payload))), ("Connection", "close")]
        if payload:
            headers.append(("Content-Type", "application/json"))
        send = self._connection.send
        sent = [
            send(h11.Request(method=method, target=request_target, headers=headers)),
            send(h11.Data(data=payload)) if payload else b"",
            send(h11.EndOfMessage()),
        ]
        return b"".join(part or b"" for part in sent)

    async def receive_head(self) -> None:
        while True:
            event = await self._next()
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                return

    async def chunks(self) -> AsyncIterator[bytes]:
        received = 0
        while True:
            event = await self._next()
            if not isinstance(event, h11.Data):
                return
            received += len(event.data)
            if received > MAX_ANSWER_BYTES and self.headers.get("content-length"):
                raise h11.RemoteProtocolError("the answer is longer than 64 MiB")
            yield bytes(event.data)

    async def _next(self) -> object:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                self._connection.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, h11.ConnectionClosed):
                raise h11.RemoteProtocolError("the engine closed the connection")
            else:
                return event


def container_facts(raw: Mapping[str, Any]) -> ContainerFacts:
    """The facts in an answer to inspect. An empty label is an absent one."""
    labels = raw["Config"].get("Labels") or {}
    state = raw["State"]
    uid = labels.get("ds01.uid", "")
    return ContainerFacts(
        id=cast(str, raw["Id"]),
        name=cast(str, raw["Name"]).removeprefix("/"),
        owner_uid=int(uid) if uid.isdecimal() else None,
        lease=labels.get("ds01.lease", ""),
        running=bool(state["Running"]),
        restarting=bool(state["Restarting"]),
        ever_started=not str(state.get("StartedAt", "")).startswith("0001-"),
        pid=int(state.get("Pid") or 0),
        cgroup_parent=raw["HostConfig"].get("CgroupParent", ""),
        restart_policy=(raw["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no",
        error=str(state.get("Error") or ""),
    )


def _listed(raw: Mapping[str, Any]) -> Listed:
    names, labels = raw.get("Names") or [""], raw.get("Labels") or {}
    state = str(raw.get("State", ""))
    uid = labels.get("ds01.uid", "")
    return Listed(
        id=str(raw["Id"]),
        name=str(names[0]).removeprefix("/"),
        running=state in ("running", "paused", "restarting"),
        owner_uid=int(uid) if uid.isdecimal() else None,
        lease=labels.get("ds01.lease", ""),
        request=labels.get("ds01.gpus", ""),
    )


def engine_facts(raw: Mapping[str, Any]) -> EngineFacts:
    """The facts in an answer to info."""
    return EngineFacts(
        cpu_quota=bool(raw.get("CpuCfsQuota")),
        cpu_shares=bool(raw.get("CPUShares")),
        memory=bool(raw.get("MemoryLimit")),
        swap=bool(raw.get("SwapLimit")),
        pids=bool(raw.get("PidsLimit")),
        cpus=int(raw.get("NCPU") or 0),
    )


def _successful(response: Response) -> Response:
    if response.status >= 400:
        raise EngineRefused(response.status, response.message())
    return response
