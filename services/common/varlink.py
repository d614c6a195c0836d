"""Varlink as DS01 speaks it: asyncvarlink with limits, no file descriptors, and the peer known to every method.

One registry per connection, so that an interface is built for the caller it serves. What a caller may not do to us:
send more than 64 KiB without an end, dawdle, leave 256 KiB of answers unread, open more than 16 connections or queue
more than 32 calls per uid, go on after a malformed message, or make us hold descriptors.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import socket
import struct
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

from asyncvarlink import (
    FileDescriptorArray,
    GenericVarlinkErrorReply,
    VarlinkClientProtocol,
    VarlinkErrorReply,
    VarlinkInterface,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkMethodCall,
    VarlinkTransport,
)
from asyncvarlink.serviceinterface import PermissionDenied, VarlinkServiceInterface

from ds01.common.errors import PeerRefused, Unavailable
from ds01.common.hangups import Hangups
from ds01.common.peer import Peer, identify, peer_pidfd
from ds01.common.rates import Rates

MAX_MESSAGE_BYTES = 64 * 1024
MAX_CONNECTIONS_PER_UID = 16
MAX_CALLS_PER_UID = 32
MAX_UNREAD_BYTES = 256 * 1024
MESSAGE_TIMEOUT_S = 10.0
BACKLOG = 4096
ACCEPTS_AT_ONCE = 64
DEATH_LOOKS, DEATH_LOOK_S = 5, 0.05
"""A process that is killed closes its sockets a moment before it is dead."""

CONNECTIONS_PER_S, CONNECTIONS_BURST = 50.0, 100.0
"""How often one user may connect: who does nothing but connect must not keep others out."""

_logger = logging.getLogger(__name__)


class _PlainTransport(VarlinkTransport):
    """Reads with read(2), so that the kernel itself drops any descriptor sent along."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, protocol: _ServerProtocol) -> None:
        super().__init__(loop, connection, connection, protocol)
        self._handle_read = self._handle_read_fd

    @property
    def unread_bytes(self) -> int:
        """Answers that the caller has not taken yet."""
        return sum(len(chunk) for chunks, _, _ in self._sendqueue for chunk in chunks)


class _ServerProtocol(VarlinkInterfaceServerProtocol):
    """One connection."""

    def __init__(
        self, registry: VarlinkInterfaceRegistry, uid: int, server: VarlinkServer, *, is_service: bool
    ) -> None:
        super().__init__(registry)
        self._uid = uid
        self._is_service = is_service
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._calls = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait_for_message()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._calls = 0
        self._server.forget(self)
        super().connection_lost(exc)

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        if len(self._recv_buffer) + len(data.split(b"\0", 1)[0]) > MAX_MESSAGE_BYTES:
            self._abort("a message is longer than 64 KiB")
            return
        super().message_received(data, fds)
        self._calls = len(self._consumer_queue)
        if not self._is_service and self._server.queued_calls(self._uid) > MAX_CALLS_PER_UID:
            self._abort("too many calls are queued")
        elif b"\0" in data:
            self._wait_for_message()

    def error_received(self, err: Exception, data: bytes, fds: FileDescriptorArray | None) -> None:
        self._abort("a message is not a JSON object")

    def request_received(self, obj: Any, fds: FileDescriptorArray | None) -> asyncio.Future[None] | None:
        self._calls = len(self._consumer_queue)
        if isinstance(self._transport, _PlainTransport) and self._transport.unread_bytes > MAX_UNREAD_BYTES:
            self._abort("answers are not read")
            return None
        try:
            VarlinkMethodCall.fromjson(obj)
        except (TypeError, ValueError):
            self._abort("a message is not a Varlink call")
            return None
        answer: asyncio.Future[None] | None = super().request_received(obj, fds)
        if answer is not None:
            self._cancel_deadline()
            answer.add_done_callback(lambda _: self._wait_for_message())
        return answer

    @property
    def queued(self) -> int:
        return self._calls

    @property
    def uid(self) -> int:
        return self._uid

    def _wait_for_message(self) -> None:
        self._cancel_deadline()
        if self._transport is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(MESSAGE_TIMEOUT_S, self._abort, "no complete message in 10 s")

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort(self, why: str) -> None:
        _logger.debug("connection of uid %d closed: %s", self._uid, why)
        self._cancel_deadline()
        self._consumer_queue.clear()
        self._calls = 0
        self._recv_buffer = b""
        if self._transport is not None:
            self._transport.abort()


def connecting_uid(connection: socket.socket) -> int:
    """The uid that connected: cheap, and good for nothing but keeping floods out. 0 where it can't be told."""
    try:
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    except OSError:
        return 0


class Link:
    """A caller's connection, for what goes beyond his call: is he still there, and which process is he?"""

    def __init__(self, connection: socket.socket, hangups: Hangups) -> None:
        self._connection = connection
        self._hangups = hangups

    def hung_up(self) -> bool:
        """The caller has closed: whatever is decided now, nobody waits for it."""
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def gone(self) -> AbstractContextManager[asyncio.Event]:
        """While a call takes long: an event that is set when the caller closes."""
        return self._hangups.watch(self._connection.fileno())

    async def died(self) -> bool:
        """After a hang-up: whether the process that connected has ended with it, or only closed."""
        try:
            pidfd = self.pidfd()
        except PeerRefused:
            return True
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            for _ in range(DEATH_LOOKS):
                if poll.poll(0):
                    return True
                await asyncio.sleep(DEATH_LOOK_S)
            return False
        finally:
            os.close(pidfd)

    def pidfd(self) -> int:
        """A descriptor of the process that connected, to be closed by whoever takes it.

        Raises:
            PeerRefused: it is gone.
        """
        return peer_pidfd(self._connection)


class VarlinkServer:
    """Serves one listening socket.

    `make_interface` builds the interface for one caller, given who he is and the link to him, or raises PeerRefused.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_interface: Callable[[Peer, Link], VarlinkInterface],
        who: Callable[[socket.socket], Peer] = identify,
    ) -> None:
        self._listener = listener
        self._make_interface = make_interface
        self._who = who
        self._connections: Counter[int] = Counter()
        self._protocols: weakref.WeakSet[_ServerProtocol] = weakref.WeakSet()
        self._rates = Rates(CONNECTIONS_PER_S, CONNECTIONS_BURST)
        self._hangups: Hangups | None = None

    def start(self) -> None:
        """Begin to accept."""
        self._hangups = Hangups()
        self._listener.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Stop accepting; the listening socket stays systemd's."""
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._hangups is not None:
            self._hangups.close()

    def queued_calls(self, uid: int) -> int:
        """Calls received but not begun, over all connections of `uid`."""
        return sum(protocol.queued for protocol in self._protocols if protocol.uid == uid)

    def forget(self, protocol: _ServerProtocol) -> None:
        """A connection ended."""
        self._connections[protocol.uid] -= 1

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            uid = connecting_uid(connection)
            if uid and not self._rates.allows(uid, asyncio.get_running_loop().time()):
                connection.close()
            else:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            peer = self._who(connection)
            if self._connections[peer.uid] >= MAX_CONNECTIONS_PER_UID and not peer.service:
                raise PeerRefused(f"uid {peer.uid} has {MAX_CONNECTIONS_PER_UID} connections already; close one")
            assert self._hangups is not None
            registry = _registry(self._make_interface(peer, Link(connection, self._hangups)))
        except PeerRefused as exc:
            _refuse(connection, str(exc))
            return
        protocol = _ServerProtocol(registry, peer.uid, self, is_service=bool(peer.service))
        self._connections[peer.uid] += 1
        self._protocols.add(protocol)
        _PlainTransport(asyncio.get_running_loop(), connection, protocol)


def _registry(interface: VarlinkInterface) -> VarlinkInterfaceRegistry:
    registry = VarlinkInterfaceRegistry()
    registry.register_interface(interface)
    registry.register_interface(VarlinkServiceInterface("DS01", "DS01", "1", "https://ds01.io", registry))
    return registry


def _refuse(connection: socket.socket, why: str) -> None:
    """Say so in one message, as far as the socket takes it without waiting, and close."""
    reply = GenericVarlinkErrorReply("io.ds01.PeerRefused", {"message": why}).tojson()
    try:
        connection.send(json.dumps(reply).encode() + b"\0")
    except OSError:
        pass
    finally:
        connection.close()


def require_service(peer: Peer, *units: str) -> None:
    """Refuse a caller that is not one of our own `units`.

    Raises:
        PermissionDenied: it is not.
    """
    if peer.service not in units:
        raise PermissionDenied()


async def call(path: str, method: str, timeout_s: float = 10.0, **parameters: Any) -> dict[str, Any]:
    """Call `method` (interface.Method) on the service at socket `path`; the reply's parameters.

    Raises:
        Unavailable: nobody answers in time, or the service says that it can't.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _call(path, method, parameters)
    except VarlinkErrorReply as exc:
        raise Unavailable(f"{method.rsplit('.', 1)[-1]} failed: {_said(exc)}") from exc
    except (OSError, TimeoutError) as exc:
        raise Unavailable(f"'{os.path.basename(path)}' does not answer: {str(exc) or 'no answer in time'}") from exc


async def _connect(connection: socket.socket, path: str) -> None:
    """Connect, again while the queue of the socket is full: asyncio takes that EAGAIN for a connection in progress."""
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            await asyncio.sleep(0.02)
        else:
            return


async def _call(path: str, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        await _connect(connection, path)
    except BaseException:
        connection.close()
        raise
    protocol = VarlinkClientProtocol()
    transport = VarlinkTransport(loop, connection, connection, protocol)
    try:
        await asyncio.sleep(0)
        # Shielded: a send that was cancelled would be settled once more by asyncvarlink, and fail there.
        asking = asyncio.ensure_future(protocol.call(VarlinkMethodCall(method, parameters)))
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        answer = await asyncio.shield(asking)
        assert answer is not None
        reply, _ = answer
        if reply.error is not None:
            raise GenericVarlinkErrorReply(reply.error, reply.parameters)
        return cast(dict[str, Any], reply.parameters)
    finally:
        transport.abort()


def _said(error: VarlinkErrorReply) -> str:
    parameters = error.paramstojson()
    message = parameters.get("message")
    return message if isinstance(message, str) else str(error)
