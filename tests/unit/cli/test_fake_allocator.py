"""The allocator of these tests says what the real one can say."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any, cast

import pytest
from commands import Shell
from fake_allocator import blocker, denial, unit, waiter

from ds01.common.errors import PeerRefused, Unavailable
from ds01.common.model import Denied, Reason
from ds01.common.peer import Peer
from ds01.common.varlink import Link, VarlinkServer
from ds01.gpu_allocator.interface import (
    Allocator,
    AllocatorInterface,
    BlockerView,
    Denial,
    HostWish,
    LoginWish,
    UnitView,
    WaiterView,
)


@pytest.mark.parametrize(
    ("made", "real"),
    [
        (blocker("0:1"), BlockerView),
        (denial("none-free", "no"), Denial),
        (unit("0:1"), UnitView),
        (waiter(1), WaiterView),
    ],
)
def test_rows_have_the_fields_of_the_interface(made: dict[str, Any], real: type) -> None:
    assert list(made) == [field.name for field in fields(real)]


class Stub:
    """Decides nothing; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def run(self, peer: Peer, wish: HostWish, link: Link) -> Denied:
        self.asked.append(wish)
        return Denied(Reason.NONE_FREE, "0 of 6 are free", "6", "6", "1", "wait")

    async def open_login(self, peer: Peer, wish: LoginWish) -> Denied:
        raise PeerRefused(f"there is no account '{wish.user}'")

    async def queue(self, peer: Peer) -> list[WaiterView]:
        return [WaiterView(**waiter(1, "r1", estimate=5.0))]

    async def snapshot(self, peer: Peer) -> str:
        raise Unavailable("NVML does not answer")


class Served:
    """The real interface on the shell's socket, in a thread with a loop of its own."""

    def __init__(self, shell: Shell, *, is_admin: bool) -> None:
        self.stub = Stub()
        self._peer = Peer(1001, "alice", frozenset(), 1, "", is_admin)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(shell.allocator))
        self._listener.setblocking(False)
        self._stop = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._up.wait(10)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._listener.close()

    async def _serve(self) -> None:
        def interface(peer: Peer, link: Link) -> AllocatorInterface:
            return AllocatorInterface(peer, cast(Allocator, self.stub), link)

        server = VarlinkServer(self._listener, interface, lambda connection: self._peer)
        server.start()
        self._up.set()
        await asyncio.to_thread(self._stop.wait)
        server.close()


@pytest.fixture(params=[False, True], ids=["user", "admin"])
def served(shell: Shell, request: pytest.FixtureRequest) -> Iterator[Served]:
    made = Served(shell, is_admin=request.param)
    yield made
    made.stop()


def test_the_real_interface_understands_the_commands(shell: Shell, served: Served) -> None:
    told = shell.ds01("run", "--wait=10m", "--gpus", "full", "true")
    assert (told.returncode, told.stderr) == (75, "0 of 6 are free\n  → wait\n")
    (wish,) = served.stub.asked
    assert isinstance(wish, HostWish)
    assert (wish.command, wish.gpus, wish.wait_s) == ("true", "full", 600.0)
    (row,) = json.loads(shell.ds01("queue", "--json").stdout)
    assert row == {**asdict(WaiterView(**waiter(1, "r1", estimate=5.0))), "since": row["since"]}


def test_the_commands_understand_its_errors(shell: Shell, served: Served, request: pytest.FixtureRequest) -> None:
    is_admin = "admin" in request.node.name
    told = shell.ds01("grant", "adda", "--until", "4h")
    assert told.returncode == (2 if is_admin else 77)
    assert told.stderr.startswith("there is no account 'adda'\n" if is_admin else "only administrators may do this\n")
    told = shell.ds01("status", "--snapshot")
    assert (told.returncode, told.stderr) == (69, "the GPU allocator can't tell: NVML does not answer\n")
