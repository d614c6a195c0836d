"""Sends a request that we wrote to the engine, on a connection of its own, and streams the answer back.

Until the engine has granted an upgrade, by its 101 or by a 200 with a raw stream, not one byte of the client goes
further than the body that was vetted. After it both directions are copied, and a half-close stays a half-close.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import h11

from ds01.common.engine import ENGINE_SOCKET
from ds01.common.errors import Unavailable
from ds01.common.hangups import Hangups
from ds01.docker_shim.connection import READ_BYTES, ClientConnection, ClientGone
from ds01.docker_shim.hangups import unless
from ds01.docker_shim.model import Head, Relay

CONNECT_TIMEOUT_S = 1.5
LAST_BYTES_S = 10.0
"""How long the last input of a client that is gone may take to reach the engine."""

MAX_ENGINE_HEAD = 256 * 1024
RAW_STREAMS = (b"application/vnd.docker.raw-stream", b"application/vnd.docker.multiplexed-stream")
_OURS = frozenset({b"connection", b"keep-alive", b"upgrade"})


class Relayer:
    """Carries relays to the engine's socket."""

    def __init__(self, hangups: Hangups, socket_path: str = ENGINE_SOCKET) -> None:
        self._hangups = hangups
        self._socket_path = socket_path

    async def run(self, client: ClientConnection, head: Head, relay: Relay) -> None:
        """The whole exchange. Raises `Unavailable` if the engine breaks off, `ClientGone` if nobody listens."""
        upstream = await _Upstream.open(self._socket_path)
        try:
            with self._hangups.watch(client.fileno) as gone:
                is_raw = await unless(gone, self._exchange(client, head, relay, upstream))
            if is_raw:
                await self._copy_both_ways(client, upstream)
        except OSError as exc:
            raise ClientGone from exc
        finally:
            upstream.close()

    async def _exchange(self, client: ClientConnection, head: Head, relay: Relay, upstream: _Upstream) -> bool:
        """Request and answer; True if the connection is a raw stream from now on."""
        sending = asyncio.create_task(upstream.send(relay, head, client))
        try:
            answer = await upstream.receive_head()
            headers = _answer_headers(answer, relay)
            if _is_raw(answer, relay):
                await sending
                await client.begin_raw(f"HTTP/1.1 {answer.status_code} {_reason(answer)}", _raw_headers(answer))
                return True
            await client.begin(answer.status_code, headers)
            async for chunk in upstream.chunks():
                await client.data(chunk)
            await client.end()
            return False
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, ClientGone, OSError, h11.ProtocolError):
                await sending

    async def _copy_both_ways(self, client: ClientConnection, upstream: _Upstream) -> None:
        early, client.early = client.early, b""
        inward = asyncio.create_task(_copy(client.reader, upstream.writer, early))
        outward = asyncio.create_task(_copy(upstream.reader, client.writer, upstream.early()))
        with self._hangups.watch(client.fileno) as gone, self._hangups.watch(upstream.fileno) as ended:
            client_gone = asyncio.create_task(gone.wait())
            engine_ended = asyncio.create_task(ended.wait())
            try:
                await asyncio.wait({outward, client_gone}, return_when=asyncio.FIRST_COMPLETED)
                if outward.done():
                    await asyncio.wait({inward, client_gone, engine_ended}, return_when=asyncio.FIRST_COMPLETED)
                else:
                    waiting = {inward, engine_ended}
                    await asyncio.wait(waiting, timeout=LAST_BYTES_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (inward, outward, client_gone, engine_ended):
                    task.cancel()
                await asyncio.gather(inward, outward, client_gone, engine_ended, return_exceptions=True)


class _Upstream:
    """One request on one connection to the engine."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ENGINE_HEAD)

    @classmethod
    async def open(cls, socket_path: str) -> _Upstream:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return cls(*await asyncio.open_unix_connection(socket_path, limit=READ_BYTES))
        except (OSError, TimeoutError) as exc:
            raise Unavailable(f"the Docker engine does not answer: {str(exc) or 'no connection in time'}") from exc

    @property
    def fileno(self) -> int:
        number: int = self.writer.get_extra_info("socket").fileno()
        return number

    def close(self) -> None:
        self.writer.close()

    def early(self) -> bytes:
        """What came after the head that granted the raw stream."""
        return bytes(self._http.trailing_data[0])

    async def send(self, relay: Relay, head: Head, client: ClientConnection) -> None:
        """The request: its head is ours; its body was vetted, or is an administrator's, and may break off."""
        try:
            await self._send(relay, head, client)
        except (ClientGone, OSError, h11.ProtocolError):
            self.writer.transport.abort()
            raise

    async def _send(self, relay: Relay, head: Head, client: ClientConnection) -> None:
        length = head.length if relay.streams_body else len(relay.body)
        headers = [("Host", "docker"), *relay.headers]
        headers.append(("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length)))
        if relay.body:
            headers.append(("Content-Type", "application/json"))
        if relay.upgrade:
            headers += [("Connection", "Upgrade"), ("Upgrade", relay.upgrade)]
        else:
            headers.append(("Connection", "close"))
        await self._write(h11.Request(method=relay.method, target=relay.target, headers=headers))
        if relay.body:
            await self._write(h11.Data(data=relay.body))
        if relay.streams_body:
            async for chunk in client.chunks(head):
                await self._write(h11.Data(data=chunk))
        await self._write(h11.EndOfMessage())

    async def receive_head(self) -> h11.Response | h11.InformationalResponse:
        """The final head, or the 101. Raises `Unavailable`."""
        while True:
            event = await self._next()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return event

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._next()
            if not isinstance(event, h11.Data):
                return
            yield bytes(event.data)

    async def _next(self) -> object:
        try:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self.reader.read(READ_BYTES))
                elif isinstance(event, h11.ConnectionClosed):
                    raise Unavailable("the Docker engine closed the connection without an answer")
                else:
                    return event
        except (OSError, h11.RemoteProtocolError) as exc:
            raise Unavailable(f"the Docker engine broke off: {exc}") from exc

    async def _write(self, event: h11.Event) -> None:
        self.writer.write(self._http.send(event) or b"")
        await self.writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes) -> None:
    """Copy to the end, then say that it ended."""
    with suppress(OSError):
        if first:
            writer.write(first)
        while True:
            await writer.drain()
            data = await reader.read(READ_BYTES)
            if not data:
                break
            writer.write(data)
        writer.write_eof()


def _is_raw(answer: h11.Response | h11.InformationalResponse, relay: Relay) -> bool:
    if answer.status_code == 101:
        return bool(relay.upgrade)
    headers = dict(answer.headers)
    framed = b"content-length" in headers or b"transfer-encoding" in headers
    kind = headers.get(b"content-type", b"").split(b";")[0].strip()
    return relay.takes_over and answer.status_code == 200 and kind in RAW_STREAMS and not framed


def _raw_headers(answer: h11.Response | h11.InformationalResponse) -> list[tuple[bytes, bytes]]:
    return [(name.title(), value) for name, value in answer.headers]


def _reason(answer: h11.Response | h11.InformationalResponse) -> str:
    return bytes(answer.reason).decode("latin-1") or ("UPGRADED" if answer.status_code == 101 else "OK")


def _answer_headers(answer: h11.Response | h11.InformationalResponse, relay: Relay) -> list[tuple[bytes, bytes]]:
    """The engine's headers without the connection's own, with ours in their places."""
    ours = [(name.encode(), value.encode()) for name, value in relay.answer_headers]
    replaced = {name.lower() for name, _ in ours}
    kept = [(name.title(), value) for name, value in answer.headers if name not in _OURS | replaced]
    return [*kept, *ours]
