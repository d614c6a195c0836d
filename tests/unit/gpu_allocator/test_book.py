"""Memory, ledger, device entries and journal follow one another; what could not be made durable is taken back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from engine_world import DeviceFolder, Journal
from worlds import ALICE, BOB, REFERENCE_SITE, instance, lease, waiter, whole

from ds01.common.errors import LedgerBroken
from ds01.common.events import Event
from ds01.common.ledger import Ledger
from ds01.common.model import Entry, Lease, LeaseState
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.lifecycle import Change, release

HALF_LIFE_S = 1000.0


class Disk:
    """A ledger that writes when it is let, or fails."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger.open(path)
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()
        self.full = False
        self.holding, self.waiters, self.shares = self.ledger.holding, self.ledger.waiters, self.ledger.shares
        self.by_request, self.by_id = self.ledger.by_request, self.ledger.by_id

    def write(self, entries: Iterable[Entry]) -> None:
        self.begun.set()
        assert self.go.wait(10)
        if self.full:
            raise LedgerBroken("the disk is full")
        self.ledger.write(entries)


class Stage:
    def __init__(self, path: Path) -> None:
        self.now = 1_000_000.0
        self.disk, self.devices, self.journal = Disk(path), DeviceFolder(), Journal()
        self.book = Book(self.disk, self.devices, self.journal, lambda: self.now, lambda: HALF_LIFE_S)
        self.book.see_units(REFERENCE_SITE)

    async def begin_slowly(self, change: Change) -> asyncio.Future[None]:
        """A change that is on its way to the disk, and stays there."""
        self.disk.go.clear()
        done = self.book.commit(change)
        while not self.disk.begun.is_set():
            await asyncio.sleep(0.001)
        return done


def play(folder: Path, story: Callable[[Stage], Awaitable[None]]) -> None:
    async def scene() -> None:
        stage = Stage(folder / "ledger.sqlite")
        try:
            await asyncio.wait_for(story(stage), 10)
        finally:
            stage.disk.go.set()
            stage.book.close()
            stage.disk.ledger.close()

    asyncio.run(scene())


def granted(held: Lease) -> Change:
    return Change(held, "gpu.granted", "free")


FIRST, SECOND = lease(ALICE, instance(0, 0), name="l1"), lease(BOB, instance(0, 1), name="l2")


def test_a_decision_is_seen_at_once_and_told_when_it_is_durable(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        done = await stage.begin_slowly(granted(FIRST))
        assert stage.book.leases == (FIRST,)
        assert stage.devices.nodes() == {}
        assert stage.journal.events == []
        assert not done.done()
        stage.disk.go.set()
        await done
        assert stage.devices.nodes() == {"l1": ["MIG-0-0"]}
        assert stage.journal.names() == ["gpu.granted"]
        assert stage.disk.ledger.holding() == (FIRST,)

    play(tmp_path, story)


def test_an_entry_is_gone_before_its_unit_is_anybody_elses(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.commit(granted(FIRST))
        await stage.book.commit(release(FIRST, "it was removed", stage.now))
        assert stage.devices.nodes() == {}
        assert stage.book.find("l1") is None
        found = stage.book.past("l1")
        assert found is not None
        assert found.state is LeaseState.RELEASED

    play(tmp_path, story)


def test_what_could_not_be_written_is_taken_back(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.commit(granted(FIRST))
        share = stage.book.share(BOB)
        stage.disk.full = True
        with pytest.raises(LedgerBroken):
            await stage.book.commit(granted(SECOND), gone=((1, "r"),))
        assert stage.book.leases == (FIRST,)
        assert stage.devices.nodes() == {"l1": ["MIG-0-0"]}
        assert stage.book.share(BOB) == share
        assert stage.journal.names() == ["gpu.granted", "ledger.broken"]

    play(tmp_path, story)


def test_a_waiter_whose_turn_could_not_be_written_waits_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        one = waiter(ALICE)
        await stage.book.wait(one)
        stage.disk.full = True
        with pytest.raises(LedgerBroken):
            await stage.book.commit(granted(FIRST), gone=((one.uid, one.request_id),))
        assert stage.book.waiters == stage.disk.ledger.waiters() == (one,)

    play(tmp_path, story)


def test_trouble_is_told_once_and_its_end_too(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.disk.full = True
        for _ in range(3):
            with pytest.raises(LedgerBroken):
                await stage.book.commit(granted(FIRST))
        assert stage.book.is_broken
        stage.disk.full = False
        await stage.book.commit(granted(FIRST))
        assert not stage.book.is_broken
        assert stage.journal.names() == ["ledger.broken", "ledger.mended", "gpu.granted"]

    play(tmp_path, story)


def test_what_was_decided_on_a_failure_is_seen_by_nobody_once_the_failure_is_known(tmp_path: Path) -> None:
    """Else the next decision is made on it, is written, and outlives what it was decided on."""

    async def story(stage: Stage) -> None:
        seen: list[tuple[Lease, ...]] = []
        emit = stage.journal.emit

        def look(event: Event) -> None:
            seen.append(stage.book.leases)
            emit(event)

        stage.journal.emit = look  # type: ignore[method-assign]
        stage.disk.full = True
        first = await stage.begin_slowly(granted(FIRST))
        second = stage.book.commit(granted(SECOND))
        stage.disk.go.set()
        for done in (first, second):
            with pytest.raises(LedgerBroken):
                await done
        assert seen[0] == ()
        assert stage.book.leases == ()

    play(tmp_path, story)


def test_settled_waits_for_the_last_decision(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        first = await stage.begin_slowly(granted(FIRST))
        second = stage.book.commit(granted(SECOND))
        stage.disk.go.set()
        await stage.book.settled()
        assert first.done()
        assert second.done()

    play(tmp_path, story)


def test_everybody_is_told_of_what_is_durable(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        calls: list[int] = []
        stage.book.changed = lambda: calls.append(len(stage.disk.ledger.holding()))
        await stage.book.commit(granted(FIRST))
        stage.disk.full = True
        with pytest.raises(LedgerBroken):
            await stage.book.commit(granted(SECOND))
        assert calls == [1]

    play(tmp_path, story)


def test_gpu_time_grows_with_what_is_held_and_is_kept(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.commit(granted(replace(FIRST, units=lease(ALICE, whole(2)).units)))
        stage.now += 1.0
        assert stage.book.share(ALICE).value == pytest.approx(1.0, rel=1e-3)
        stage.now += HALF_LIFE_S - 1.0
        before = stage.book.share(ALICE).value
        assert before == pytest.approx(HALF_LIFE_S / 2 / 0.6931, rel=1e-3)
        found = stage.book.find("l1")
        assert found is not None
        await stage.book.commit(release(found, "it was removed", stage.now))
        assert stage.disk.ledger.shares()[ALICE].value == pytest.approx(before)
        stage.now += HALF_LIFE_S
        assert stage.book.share(ALICE).value == pytest.approx(before / 2)

    play(tmp_path, story)


def test_gpu_time_is_each_users_own_and_half_a_gpu_is_half(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.commit(granted(FIRST))
        stage.now += 7.0
        assert stage.book.share(ALICE).value == pytest.approx(float(Fraction(2, 7) * 7), rel=1e-2)
        assert stage.book.share(BOB).value == 0.0

    play(tmp_path, story)


def test_an_event_that_is_kept_is_not_told(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.keep(Event("access.refused", "no", uid=ALICE))
        await stage.book.note(Event("gpu.denied", "no", uid=ALICE))
        assert stage.journal.names() == ["gpu.denied"]
        assert stage.disk.ledger.count_records("access.refused") == 1
        assert stage.disk.ledger.count_records("gpu.denied") == 1

    play(tmp_path, story)


def test_an_unknown_ledger_leaves_the_entries_as_they_are(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        await stage.book.commit(granted(FIRST))
        stage.book.is_known = False
        stage.book.see_units(())
        assert stage.devices.nodes() == {"l1": ["MIG-0-0"]}

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("seen", "strange"),
    [
        (None, ()),
        (frozenset(), ()),
        (frozenset({"/dev/nvidia-caps/MIG-0-0", "/dev/nvidiactl"}), ()),
        (frozenset({"/dev/nvidiactl"}), ()),
        (
            frozenset({"/dev/nvidia-caps/MIG-0-1"}),
            ("/dev/nvidia-caps/MIG-0-0", "/dev/nvidia-caps/MIG-0-1"),
        ),
        (frozenset({"/dev/nvidia-caps/MIG-0-0", "/dev/nvidia-caps/GPU-2"}), ("/dev/nvidia-caps/GPU-2",)),
    ],
)
def test_nodes_that_a_lease_does_not_account_for(
    tmp_path: Path, seen: frozenset[str] | None, strange: tuple[str, ...]
) -> None:
    async def story(stage: Stage) -> None:
        assert stage.book.strange_nodes(FIRST, seen) == strange

    play(tmp_path, story)
