"""The Varlink server against clients that misbehave, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from echo_interface import Echo

from ds01.common import varlink
from ds01.common.errors import PeerRefused, Unavailable
from ds01.common.hangups import Hangups
from ds01.common.peer import Peer
from ds01.common.varlink import (
    MAX_CALLS_PER_UID,
    MAX_CONNECTIONS_PER_UID,
    MAX_MESSAGE_BYTES,
    Link,
    VarlinkServer,
    call,
)

ALICE = Peer(1001, "alice", frozenset(), 1, "", False)
SHIM = Peer(0, "root", frozenset(), 1, "ds01-docker-shim.service", False)


class Service:
    """A server on a socket, and raw clients for it."""

    def __init__(self, path: Path, echo: Echo, server: VarlinkServer) -> None:
        self.path = str(path)
        self.echo = echo
        self.server = server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def call(self, text: str) -> Any:
        return (await call(self.path, "io.ds01.Echo.Say", text=text))["text"]


@asynccontextmanager
async def serving(tmp_path: Path, who: Callable[[socket.socket], Peer]) -> AsyncIterator[Service]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.setblocking(False)
    echo = Echo()
    server = VarlinkServer(listener, lambda peer, _: echo, who)
    server.start()
    try:
        yield Service(tmp_path / "s", echo, server)
    finally:
        server.close()
        listener.close()


def message(text: str) -> bytes:
    return json.dumps({"method": "io.ds01.Echo.Say", "parameters": {"text": text}}).encode() + b"\0"


def run(tmp_path: Path, scene: Callable[[Service], Any], peer: Peer = ALICE) -> None:
    async def play() -> None:
        async with serving(tmp_path, lambda _: peer) as service:
            await asyncio.wait_for(scene(service), 20)

    asyncio.run(play())


def test_a_call_is_answered(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        assert await service.call("hello") == "hello"

    run(tmp_path, scene)


def test_a_call_that_fails_names_its_reason(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        with pytest.raises(Unavailable, match=r"InvalidParameter|invalid"):
            await call(service.path, "io.ds01.Echo.Say", text=7)
        with pytest.raises(Unavailable):
            await call(service.path, "io.ds01.Echo.Nothing")

    run(tmp_path, scene)


@pytest.mark.parametrize(
    "bad",
    [
        b"x\0",
        b"[]\0",
        b"7\0",
        b'"io.ds01.Echo.Say"\0',
        b"{}\0",
        b'{"method": 7}\0',
        b"\xff\xfe\0",
        b"\0",
        b"{" * 5000 + b"\0",
    ],
)
def test_nothing_after_a_malformed_message_is_done(tmp_path: Path, bad: bytes) -> None:
    async def scene(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(bad + message("after"))
        assert b"after" not in await rest_of(reader)
        assert service.echo.said == []
        assert await service.call("others") == "others"

    run(tmp_path, scene)


def test_a_message_without_end_closes_and_does_not_hold_up_others(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        reader, writer = await service.connect()
        flood = asyncio.ensure_future(_write_all(writer, b"a" * (10 << 20)))
        assert await service.call("meanwhile") == "meanwhile"
        assert await rest_of(reader) == b""
        await flood
        assert await service.call("still") == "still"

    run(tmp_path, scene)


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes, in order or by a reset."""
    received = b""
    try:
        while chunk := await reader.read(4096):
            received += chunk
    except ConnectionError:
        return received
    return received


async def _write_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        writer.write(data)
        await writer.drain()
    except OSError:
        return  # the server closed, as it should


def test_a_message_of_just_the_limit_passes(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        text = "x" * (MAX_MESSAGE_BYTES - 200)
        assert await service.call(text) == text

    run(tmp_path, scene)


@pytest.mark.parametrize("sent", [b"", b'{"method": "io.'])
def test_silence_has_a_time_out_of_its_own(tmp_path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlink, "MESSAGE_TIMEOUT_S", 0.2)

    async def scene(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(sent)
        assert await rest_of(reader) == b""

    run(tmp_path, scene)


def test_one_user_has_few_connections_and_others_are_not_affected(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        kept = [await service.connect() for _ in range(MAX_CONNECTIONS_PER_UID)]
        for reader, writer in kept:
            writer.write(message("in"))
            assert b"in" in await reader.readuntil(b"\0")
        reader, _ = await service.connect()
        assert b"io.ds01.PeerRefused" in await reader.read()
        kept[0][1].close()
        for _ in range(100):
            try:
                assert await service.call("again") == "again"
                break
            except Unavailable:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("a closed connection was never given back")

    run(tmp_path, scene)


def test_a_service_of_ours_may_have_many_connections(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        kept = [await service.connect() for _ in range(3 * MAX_CONNECTIONS_PER_UID)]
        assert await service.call("one more") == "one more"
        for _, writer in kept:
            writer.close()

    run(tmp_path, scene, SHIM)


def test_a_flood_of_calls_closes_the_connection(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        service.echo.hold = asyncio.Event()
        reader, writer = await service.connect()
        writer.write(message("x") * 1000)
        assert await rest_of(reader) == b""
        service.echo.hold.set()

    run(tmp_path, scene)


def test_descriptors_sent_along_are_dropped(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        before = len(os.listdir("/proc/self/fd"))
        with socket.socket(socket.AF_UNIX) as client, open("/etc/hostname", "rb") as passed:
            client.connect(service.path)
            socket.send_fds(client, [message("with a descriptor")], [passed.fileno()] * 20)
            client.setblocking(False)
            answer = await asyncio.get_running_loop().sock_recv(client, 4096)
            assert b"with a descriptor" in answer
            assert len(os.listdir("/proc/self/fd")) <= before + 3

    run(tmp_path, scene)


def test_a_refused_peer_is_told_and_reaches_no_method(tmp_path: Path) -> None:
    def refuse(_: socket.socket) -> Peer:
        raise PeerRefused("not from there")

    async def scene() -> None:
        async with serving(tmp_path, refuse) as service:
            reader, _ = await service.connect()
            assert b"not from there" in await reader.read()
            assert service.echo.said == []

    asyncio.run(scene())


def test_a_client_that_dies_half_way_leaves_nothing(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            _, writer = await service.connect()
            writer.write(b'{"method": "io.ds01.Ec')
            await writer.drain()
            writer.transport.abort()
        for _ in range(200):
            if len(os.listdir("/proc/self/fd")) <= before:
                return
            await asyncio.sleep(0.01)
        pytest.fail("descriptors of dead clients stay open")

    run(tmp_path, scene)


def test_nobody_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(call(str(tmp_path / "absent"), "io.ds01.Echo.Say", text="x"))


def test_a_caller_who_has_gone_is_noticed() -> None:
    async def scene() -> None:
        ours, theirs = socket.socketpair()
        hangups = Hangups()
        link = Link(ours, hangups)
        with link.gone() as gone:
            assert not link.hung_up()
            theirs.send(b"more")
            assert not link.hung_up()
            ours.recv(4)
            assert not gone.is_set()
            theirs.close()
            await asyncio.wait_for(gone.wait(), 5)
        assert link.hung_up()
        ours.close()
        assert link.hung_up()
        hangups.close()

    asyncio.run(scene())


def test_a_caller_is_the_process_that_connected() -> None:
    ours, theirs = socket.socketpair()
    pidfd = Link(ours, cast(Hangups, None)).pidfd()
    with open(f"/proc/self/fdinfo/{pidfd}") as lines:
        assert f"Pid:\t{os.getpid()}\n" in list(lines)
    os.close(pidfd)
    ours.close(), theirs.close()


def test_calls_that_were_cut_off_are_not_counted_for_ever(tmp_path: Path) -> None:
    """What one connection had queued when it was closed must not keep the next ones of its uid out."""

    async def scene(service: Service) -> None:
        for _ in range(3):
            reader, writer = await service.connect()
            writer.write(message("again") * (MAX_CALLS_PER_UID + 8))
            await rest_of(reader)
        assert service.server.queued_calls(1001) == 0
        assert await service.call("after") == "after"

    run(tmp_path, scene)


def test_a_service_of_ours_may_queue_more(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        reader, writer = await service.connect()
        writer.write(message("many") * (MAX_CALLS_PER_UID + 8))
        for _ in range(MAX_CALLS_PER_UID + 8):
            assert b"many" in await reader.readuntil(b"\0")

    run(tmp_path, scene, SHIM)


def test_who_reads_no_answers_is_asked_no_more(tmp_path: Path) -> None:
    async def scene(service: Service) -> None:
        _, writer = await service.connect()
        message = json.dumps({"method": "io.ds01.Echo.Say", "parameters": {"text": "x" * 30_000}}).encode() + b"\0"
        try:
            for _ in range(1000):
                writer.write(message)
                await asyncio.wait_for(writer.drain(), 5)
        except (ConnectionError, TimeoutError):
            return
        pytest.fail("a thousand answers wait in memory")

    run(tmp_path, scene)
