"""Group commit, with a disk that is as slow and as full as a test wants it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence

import pytest

from ds01.common.errors import LedgerBroken
from ds01.common.model import Entry
from ds01.gpu_allocator.writer import MOST_AT_ONCE, LedgerWriter


class Disk:
    """Writes what it is given when `go` is set; `full` fails the next so many writes."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.full = 0
        self.writes: list[list[Entry]] = []

    def write(self, entries: Iterable[Entry]) -> None:
        self.begun.set()
        assert self.go.wait(10)
        if self.full:
            self.full -= 1
            raise LedgerBroken("the disk is full")
        self.writes.append(list(entries))

    def written(self) -> list[Entry]:
        return [entry for batch in self.writes for entry in batch]


class Told:
    """What the writer said, in its order."""

    def __init__(self) -> None:
        self.all: list[tuple[list[Entry], str]] = []
        self.then: Callable[[], None] = lambda: None

    def settle(self, entries: Sequence[Entry], error: LedgerBroken | None) -> None:
        self.all.append((list(entries), "" if error is None else str(error)))
        self.then()

    def of(self, *, failed: bool) -> list[Entry]:
        return [entry for entries, error in self.all for entry in entries if bool(error) is failed]


def entry(number: int) -> Entry:
    return Entry(gone=((number, "r"),))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


def play(story: Callable[[LedgerWriter, Disk, Told], Awaitable[None]]) -> None:
    async def scene() -> None:
        disk, told = Disk(), Told()
        writer = LedgerWriter(disk, told.settle)
        try:
            await story(writer, disk, told)
        finally:
            disk.go.set()
            writer.close()

    asyncio.run(scene())


async def begin_slowly(writer: LedgerWriter, disk: Disk) -> None:
    """Entry 0 is on its way, and stays there."""
    disk.go.clear()
    writer.write(entry(0))
    await until(disk.begun.is_set)


def test_what_comes_while_the_disk_works_becomes_one_write() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        await begin_slowly(writer, disk)
        for number in range(1, 6):
            writer.write(entry(number))
        disk.go.set()
        await until(lambda: len(told.of(failed=False)) == 6)
        assert [len(batch) for batch in disk.writes] == [1, 5]

    play(story)


def test_nothing_is_told_before_it_is_durable() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        await begin_slowly(writer, disk)
        await asyncio.sleep(0.02)
        assert told.all == []

    play(story)


@pytest.mark.parametrize("count", [1, MOST_AT_ONCE, 3 * MOST_AT_ONCE + 1])
def test_order_is_kept_and_no_write_is_endless(count: int) -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        for number in range(count):
            writer.write(entry(number))
        await until(lambda: len(told.of(failed=False)) == count)
        assert disk.written() == told.of(failed=False) == [entry(number) for number in range(count)]
        assert max(map(len, disk.writes)) <= MOST_AT_ONCE

    play(story)


def test_a_failure_fails_what_was_decided_on_it() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        disk.full = 1
        await begin_slowly(writer, disk)
        writer.write(entry(1))
        writer.write(entry(2))
        disk.go.set()
        await until(lambda: len(told.of(failed=True)) == 3)
        assert disk.writes == []

    play(story)


def test_a_failure_fails_nothing_that_comes_when_it_is_known() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        disk.full = 1
        await begin_slowly(writer, disk)
        disk.go.set()
        await until(lambda: bool(told.all))
        writer.write(entry(1))
        await until(lambda: len(told.all) == 2)
        assert told.of(failed=True) == [entry(0)]
        assert disk.written() == [entry(1)]

    play(story)


def test_what_is_handed_over_the_moment_a_failure_is_told_is_written() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        disk.full = 1
        await begin_slowly(writer, disk)
        writer.write(entry(1))

        def retry() -> None:
            told.then = lambda: None
            writer.write(entry(9))

        told.then = retry
        disk.go.set()
        await until(lambda: bool(told.of(failed=False)))
        assert told.of(failed=True) == [entry(0), entry(1)]
        assert disk.written() == [entry(9)]

    play(story)


def test_one_failure_after_the_other() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        disk.full = 2
        for number in range(3):
            writer.write(entry(number))
            await until(lambda: len(told.all) == number + 1)  # noqa: B023 (it is awaited here)
        assert told.of(failed=True) == [entry(0), entry(1)]
        assert disk.written() == [entry(2)]

    play(story)


def test_closing_writes_the_rest() -> None:
    async def story(writer: LedgerWriter, disk: Disk, told: Told) -> None:
        await begin_slowly(writer, disk)
        for number in range(1, 4):
            writer.write(entry(number))
        threading.Timer(0.02, disk.go.set).start()
        writer.close()
        assert disk.written() == [entry(number) for number in range(4)]
        writer.close = lambda: None  # type: ignore[method-assign]  # it is closed

    play(story)


def test_a_writer_outlives_its_loop() -> None:
    """The daemon ends while the disk works: nobody is told any more, and nothing hangs."""
    disk, told = Disk(), Told()

    async def scene() -> LedgerWriter:
        writer = LedgerWriter(disk, told.settle)
        await begin_slowly(writer, disk)
        return writer

    writer = asyncio.run(scene())
    disk.go.set()
    writer.close()
    assert disk.written() == [entry(0)]
    assert told.all == []
