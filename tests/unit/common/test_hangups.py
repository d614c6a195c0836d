from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from ds01.common.hangups import Hangups

Story = Callable[[Hangups, socket.socket, socket.socket], Awaitable[None]]


def play(story: Story) -> None:
    async def scene() -> None:
        hangups = Hangups()
        ours, theirs = socket.socketpair()
        try:
            await asyncio.wait_for(story(hangups, ours, theirs), 5)
        finally:
            ours.close()
            theirs.close()
            hangups.close()

    asyncio.run(scene())


def test_a_peer_that_closes_is_gone() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        with hangups.watch(ours.fileno()) as gone:
            await asyncio.sleep(0.01)
            assert not gone.is_set()
            theirs.close()
            await gone.wait()

    play(story)


def test_a_peer_that_closed_before_is_gone_too() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        theirs.close()
        with hangups.watch(ours.fileno()) as gone:
            await gone.wait()

    play(story)


def test_a_peer_that_has_said_everything_still_listens() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        with hangups.watch(ours.fileno()) as gone:
            theirs.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.02)
            assert not gone.is_set()
            theirs.shutdown(socket.SHUT_RD)
            await gone.wait()

    play(story)


def test_what_the_peer_says_is_no_hangup_and_stays_unread() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        with hangups.watch(ours.fileno()) as gone:
            theirs.send(b"more")
            await asyncio.sleep(0.02)
            assert not gone.is_set()
        assert ours.recv(10) == b"more"

    play(story)


def test_two_who_watch_are_both_told() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        with hangups.watch(ours.fileno()) as one, hangups.watch(ours.fileno()) as other:
            theirs.close()
            await asyncio.gather(one.wait(), other.wait())

    play(story)


def test_one_peer_of_many() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        mine, his = socket.socketpair()
        with mine, his, hangups.watch(ours.fileno()) as one, hangups.watch(mine.fileno()) as other:
            his.close()
            await other.wait()
            assert not one.is_set()

    play(story)


def test_a_number_that_comes_back_as_another_socket_is_not_taken_for_the_old_one() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        with hangups.watch(ours.fileno()) as gone:
            number = ours.fileno()
            ours.close()
            mine, his = socket.socketpair()
            with mine, his:
                assert number in (mine.fileno(), his.fileno())
                mine.close()
                his.close()
                await asyncio.sleep(0.02)
                assert not gone.is_set()
            theirs.close()
            await gone.wait()

    play(story)


def test_nothing_is_left_when_the_watch_ends() -> None:
    async def story(hangups: Hangups, ours: socket.socket, theirs: socket.socket) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            with hangups.watch(ours.fileno()):
                await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
        with hangups.watch(ours.fileno()) as gone:
            pass
        theirs.close()
        await asyncio.sleep(0.02)
        assert not gone.is_set()

    play(story)
