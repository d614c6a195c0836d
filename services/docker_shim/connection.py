"""One connection of a client: one request is read from it, and one answer written. Knows nothing of what is asked.

A connection carries one request. Bytes that come after it are never read as a second one; before an upgrade they are
not read at all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from http import HTTPStatus

import h11

from ds01.docker_shim.head import END, MAX_HEAD, parse_head
from ds01.docker_shim.model import Answer, Head, Reason, Refused
from ds01.docker_shim.strictjson import MAX_BODY

READ_BYTES = 64 * 1024
EVENTS_AT_ONCE = 64
MAX_CHUNKS = 4096
"""How many chunks a body that is read whole may come in; clients send a few."""
BODY_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 30.0
LINGER_S = 1.0
LINGER_BYTES = 32 * 1024 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientGone(Exception):
    """The client closed, or broke off in the middle of its request: nobody is left to answer."""


class ClientConnection:
    """Reads with limits and time-outs of its own; frames answers with h11. `begun`: an answer is under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.early = b""
        self.begun = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._is_head = False
        self._unread_body = False
        self._body_done = False

    @classmethod
    async def open(cls, connection: socket.socket) -> ClientConnection:
        """Take over an accepted socket."""
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=READ_BYTES)
        return cls(reader, writer)

    @property
    def fileno(self) -> int:
        """The socket's descriptor."""
        number: int = self.writer.get_extra_info("socket").fileno()
        return number

    async def read_head(self, timeout_s: float) -> Head | Refused:
        """The request's head. Raises `ClientGone`."""
        received = bytearray()
        end = -1
        try:
            async with asyncio.timeout(timeout_s):
                while end < 0:
                    if len(received) > MAX_HEAD:
                        return Refused(431, Reason.MALFORMED, f"the request's head is longer than {MAX_HEAD} bytes")
                    seen = max(0, len(received) - len(END))
                    received += await self._some()
                    end = received.find(END, seen)
        except TimeoutError:
            return Refused(408, Reason.TOO_SLOW, f"no whole request came within {timeout_s:g} s", "connect again")
        raw, self.early = bytes(received[: end + len(END)]), bytes(received[end + len(END) :])
        head = parse_head(raw, self._http)
        if isinstance(head, Head):
            self._is_head = head.method == "HEAD"
            self._unread_body = head.length != 0
        return head

    async def read_body(self, head: Head, limit: int = MAX_BODY) -> bytes | Refused:
        """The whole body, which must be small. Raises `ClientGone`."""
        too_long = Refused(
            413,
            Reason.MALFORMED,
            f"the body is longer than {limit} bytes or in more than {MAX_CHUNKS} pieces",
            "send a smaller one",
        )
        if head.length is not None and head.length > limit:
            return too_long
        received, pieces = bytearray(), 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in self.chunks(head):
                    received += chunk
                    pieces += 1
                    if len(received) > limit or pieces > MAX_CHUNKS:
                        return too_long
        except TimeoutError:
            return Refused(408, Reason.TOO_SLOW, f"the body did not come within {BODY_TIMEOUT_S:g} s", "try again")
        except h11.RemoteProtocolError as exc:
            return Refused(400, Reason.MALFORMED, f"the body is not what its head says: {exc}")
        return bytes(received)

    async def chunks(self, head: Head) -> AsyncIterator[bytes]:
        """The body as it comes. Raises `ClientGone`, or h11's error where it is malformed."""
        left = head.length
        events = 0
        if head.expects_continue and left != 0 and not self.early:
            self.writer.write(CONTINUE)
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = self.early or await self._some()
                taken = data if left is None else data[:left]
                self.early = data[len(taken) :]
                left = None if left is None else left - len(taken)
                self._http.receive_data(taken)
            elif isinstance(event, h11.Data):
                events += 1
                if events % EVENTS_AT_ONCE == 0:
                    await asyncio.sleep(0)  # tiny chunks cost time and are few bytes: others are served between
                yield bytes(event.data)
            else:
                self.early = bytes(self._http.trailing_data[0]) + self.early
                self._unread_body = False
                return

    async def send(self, answer: Answer) -> None:
        """A whole answer."""
        self.begun = True
        bodiless = answer.status in (204, 304) or answer.status < 200
        lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
        lines += [f"{name}: {value}" for name, value in answer.headers if not bodiless or name != "Content-Type"]
        if not bodiless:
            lines.append(f"Content-Length: {len(answer.body)}")
        lines += ["Connection: close", "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))
        if not bodiless and not self._is_head:
            self.writer.write(answer.body)
        await self.writer.drain()

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The head of a streamed answer."""
        self.begun = True
        await self._write(h11.Response(status_code=status, headers=[*headers, (b"Connection", b"close")]))

    async def data(self, chunk: bytes) -> None:
        """A part of a streamed answer; waits while the client does not read."""
        await self._write(h11.Data(data=chunk))

    async def end(self) -> None:
        """A streamed answer is complete."""
        await self._write(h11.EndOfMessage())

    async def begin_raw(self, status_line: str, headers: list[tuple[bytes, bytes]]) -> None:
        """The head after which the connection is a raw stream."""
        self.begun = True
        fields = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.writer.write(status_line.encode("ascii") + b"\r\n" + fields + b"\r\n")
        await self.writer.drain()

    def abort(self) -> None:
        """Break off, so that the client sees that its answer is not whole."""
        self._unread_body, self.early = False, b""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Send what is left and close; a client that is still sending may do so for a moment, so that it reads us."""
        try:
            if self._unread_body or self.early:
                await self._linger()
            self.writer.close()
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.writer.wait_closed()
        except (OSError, TimeoutError):
            self.writer.transport.abort()

    async def _linger(self) -> None:
        discarded = 0
        try:
            self.writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while discarded < LINGER_BYTES:
                    data = await self.reader.read(READ_BYTES)
                    if not data:
                        return
                    discarded += len(data)
        except TimeoutError:
            return

    async def _some(self) -> bytes:
        try:
            data = await self.reader.read(READ_BYTES)
        except OSError as exc:
            raise ClientGone from exc
        if not data:
            raise ClientGone
        return data

    async def _write(self, event: h11.Event) -> None:
        self.writer.write(self._http.send(event) or b"")
        await self.writer.drain()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
