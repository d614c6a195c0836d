"""Waiting for a turn, from the call to the lease, with the ledger below."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from scene import Caller, Scene, play
from worlds import ALICE, BOB, REFERENCE_SITE, RITA, STUDENT, waiter

from ds01.common.errors import LedgerBroken, Unavailable
from ds01.common.model import Denied, Entry, Lease, LeaseState, Reason, Share
from ds01.gpu_allocator.queue import MAX_WAITING_PER_USER
from ds01.gpu_allocator.waiting import REJOIN_S

ONE = REFERENCE_SITE[:1]
TWO = REFERENCE_SITE[:2]

Turn = asyncio.Task[Lease | Denied]


async def wait(
    scene: Scene,
    uid: int,
    gpus: str = "1",
    request: str = "",
    wait_s: float = 3600.0,
    caller: Caller | None = None,
) -> Turn:
    """Somebody waits from now on; the clock goes on by a second, so that everybody has a `since` of his own."""
    turn = asyncio.create_task(scene.lease(uid, gpus, request or f"w{uid}", wait_s, caller))
    await scene.settle()
    scene.now += 1
    return turn


def waiting(scene: Scene) -> list[str]:
    return sorted(one.request_id for one in scene.book.waiters)


async def die(scene: Scene, *turns: Turn) -> None:
    """The allocator dies with everybody who waits, and comes back."""
    scene.crash()
    for turn in turns:
        turn.cancel()
    await asyncio.gather(*turns, return_exceptions=True)
    await scene.allocator.look()
    await scene.side.reconcile()


async def taken(scene: Scene, turn: Turn) -> Lease:
    lease = await asyncio.wait_for(turn, 5)
    assert isinstance(lease, Lease), lease
    await scene.settle()
    return lease


def test_a_turn_comes_when_a_lease_ends(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turn = await wait(scene, ALICE)
        assert not turn.done()
        assert [one.request_id for one in scene.ledger.waiters()] == [f"w{ALICE}"]
        await scene.remove(held, identity)
        lease = await taken(scene, turn)
        assert (lease.state, lease.unit_names, lease.until) == (LeaseState.GRANTED, "0:0", scene.now + 60)
        assert scene.book.waiters == scene.ledger.waiters() == ()
        assert scene.ledger.by_id(lease.id) == lease

    play(tmp_path, story)


def test_who_finds_a_free_unit_does_not_wait(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        assert isinstance(await scene.lease(ALICE, wait_s=3600.0), Lease)
        assert scene.book.waiters == ()

    play(tmp_path, story)


@pytest.mark.parametrize("gpus", ["3", "full", "0:7", "gibberish"])
def test_nobody_waits_for_what_he_would_never_get(tmp_path: Path, gpus: str) -> None:
    async def story(scene: Scene) -> None:
        assert isinstance(await scene.lease(ALICE, gpus, wait_s=3600.0), Denied)
        assert scene.book.waiters == ()

    play(tmp_path, story)


def test_who_has_waited_longest_comes_first(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turns = [await wait(scene, uid) for uid in (RITA, ALICE)]
        await scene.remove(held, identity)
        assert (await taken(scene, turns[0])).uid == RITA
        assert not turns[1].done()
        turns[1].cancel()

    play(tmp_path, story)


def test_who_has_had_less_gpu_time_comes_first(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        scene.ledger.write([Entry(shares=((RITA, Share(3600.0, scene.now)),))])
        scene.crash()
        await scene.allocator.look()
        await scene.side.reconcile()
        held, identity = await scene.run(BOB)
        turns = [await wait(scene, uid) for uid in (RITA, ALICE)]
        await scene.remove(held, identity)
        assert (await taken(scene, turns[1])).uid == ALICE
        turns[0].cancel()

    play(tmp_path, story)


def test_who_hangs_up_leaves_and_gets_nothing(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        caller = scene.caller()
        turn = await wait(scene, ALICE, caller=caller)
        caller.hang_up()
        with pytest.raises(Unavailable):
            await asyncio.wait_for(turn, 5)
        await scene.settle()
        assert scene.book.waiters == scene.ledger.waiters() == ()
        await scene.remove(held, identity)
        await scene.settle()
        assert scene.book.leases == ()
        assert "queue.left" in scene.journal.names()

    play(tmp_path, story)


def test_the_time_to_wait_is_over_with_numbers(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        await scene.run(BOB)
        other = await wait(scene, RITA)
        denied = await scene.lease(ALICE, request="w", wait_s=0.05)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.WAITED_IN_VAIN
        assert (denied.limit, denied.used, denied.requested) == ("1", "1", "1")
        assert "(place 2 of 2): one GPU unit was asked for, and 0 of 1 that would do are free" in denied.message
        assert [one.units for one in denied.to_end] == ["0:0"]
        await scene.settle()
        assert waiting(scene) == [f"w{RITA}"]
        assert scene.ledger.count_records("gpu.denied") == 1
        other.cancel()

    play(tmp_path, story)


def test_a_crash_keeps_order_and_times(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turns = [await wait(scene, uid) for uid in (RITA, ALICE)]
        before = set(scene.book.waiters)
        await die(scene, *turns)
        assert set(scene.book.waiters) == before
        turns = [await wait(scene, uid) for uid in (ALICE, RITA)]
        assert set(scene.book.waiters) == before, "whoever comes back has waited since he first came"
        await scene.remove(held, identity)
        assert (await taken(scene, turns[1])).uid == RITA
        turns[0].cancel()

    play(tmp_path, story)


def test_who_does_not_come_back_in_time_is_dropped(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        await scene.run(BOB)
        turns = [await wait(scene, uid) for uid in (RITA, ALICE)]
        await die(scene, *turns)
        turn = await wait(scene, ALICE)
        scene.now += REJOIN_S - 3
        scene.waiting.wake()
        await scene.settle()
        assert waiting(scene) == sorted([f"w{RITA}", f"w{ALICE}"])
        scene.now += 4
        scene.waiting.wake()
        await scene.settle()
        assert waiting(scene) == [f"w{ALICE}"]
        assert [one.request_id for one in scene.ledger.waiters()] == [f"w{ALICE}"]
        turn.cancel()

    play(tmp_path, story)


def test_a_unit_is_kept_for_who_may_come_back(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        await die(scene, await wait(scene, ALICE))
        await scene.remove(held, identity)
        assert isinstance(await scene.lease(RITA), Denied)
        assert isinstance(await asyncio.wait_for(await wait(scene, ALICE), 5), Lease)

    play(tmp_path, story)


def test_who_comes_back_without_waiting_any_more_is_answered(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        await die(scene, await wait(scene, ALICE))
        await scene.remove(held, identity)
        scene.gpus.units = TWO
        await scene.allocator.look()
        assert isinstance(await scene.lease(ALICE, request=f"w{ALICE}", wait_s=0.0), Lease)
        await scene.settle()
        assert scene.book.waiters == ()

    play(tmp_path, story)


def test_newcomers_take_nothing_that_is_kept(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = TWO
        (first, one), (_, _) = await scene.run(BOB), await scene.run(RITA)
        turn = await wait(scene, ALICE, "2")
        await scene.remove(first, one)
        denied = await scene.lease(2001)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.NONE_FREE
        assert "1 more is kept for who waits longer" in denied.message
        assert not turn.done()
        turn.cancel()

    play(tmp_path, story)


def test_a_user_has_so_many_places_and_no_more(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        await scene.run(BOB)
        turns = [await wait(scene, ALICE, request=f"w{index}") for index in range(MAX_WAITING_PER_USER)]
        denied = await scene.lease(ALICE, request="one more", wait_s=60.0)
        assert isinstance(denied, Denied)
        assert (denied.reason, denied.limit) == (Reason.NONE_FREE, str(MAX_WAITING_PER_USER))
        turns.append(await wait(scene, RITA))
        assert len(scene.book.waiters) == MAX_WAITING_PER_USER + 1
        for turn in turns:
            turn.cancel()

    play(tmp_path, story)


def test_the_same_request_on_another_connection_is_the_same_place(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        first, second = await wait(scene, ALICE), await wait(scene, ALICE)
        assert len(scene.book.waiters) == 1
        with pytest.raises(Unavailable):
            await asyncio.wait_for(first, 5)
        await scene.remove(held, identity)
        await taken(scene, second)
        assert len(scene.book.leases) == 1

    play(tmp_path, story)


def test_a_ledger_that_fails_gives_no_place(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        await scene.run(BOB)
        scene.break_ledger()
        with pytest.raises(LedgerBroken):
            await scene.lease(ALICE, request="w", wait_s=60.0)
        await scene.settle()
        assert scene.book.waiters == ()

    play(tmp_path, story)


def test_a_ledger_that_fails_at_the_turn_gives_no_lease_and_keeps_the_place(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turn = await wait(scene, ALICE)
        await scene.remove_and_break_ledger(held, identity)
        with pytest.raises(LedgerBroken):
            await asyncio.wait_for(turn, 5)
        await scene.settle()
        assert scene.book.leases == scene.ledger.holding() == ()
        assert waiting(scene) == [f"w{ALICE}"]
        scene.break_ledger(broken=False)
        await taken(scene, await wait(scene, ALICE))
        assert scene.book.waiters == ()

    play(tmp_path, story)


def test_a_silent_engine_gives_no_turns(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turn = await wait(scene, ALICE)
        await scene.remove(held, identity)
        await taken(scene, turn)
        second = await wait(scene, RITA)
        lease = scene.book.leases[0]
        scene.side.lost()
        await scene.pass_time(61)
        assert scene.state(lease) is LeaseState.GRANTED
        assert not second.done()
        await scene.side.reconcile()
        await scene.settle()
        await taken(scene, second)

    play(tmp_path, story)


def test_a_start_waits_for_a_unit_too(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        lease, identity = await scene.run(ALICE)
        await scene.stop(lease, identity)
        await scene.pass_time(STUDENT.gpu_hold_after_stop_s + 1)
        other, others = await scene.run(BOB)
        turn = asyncio.create_task(scene.renew(lease.id, ALICE, wait_s=60.0))
        await scene.settle()
        assert not turn.done()
        await scene.remove(other, others)
        again = await taken(scene, turn)
        assert (again.id, again.container, again.state) == (lease.id, identity, LeaseState.HELD)

    play(tmp_path, story)


def test_a_start_whose_unit_is_gone_waits_within_its_quota(tmp_path: Path) -> None:
    """The lease whose unit does not exist counts against nobody who waits for another unit for that very lease."""

    async def story(scene: Scene) -> None:
        scene.gpus.units = TWO
        lease, identity = await scene.run(ALICE)
        other, others = await scene.run(BOB)
        await scene.stop(lease, identity)
        scene.gpus.units = TWO[1:]
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.WAITING
        turn = asyncio.create_task(scene.renew(lease.id, ALICE, wait_s=60.0))
        await scene.settle()
        await scene.remove(other, others)
        assert (await taken(scene, turn)).unit_names == "0:1"

    play(tmp_path, story, replace(STUDENT, max_mig_instances=1))


def test_a_start_of_what_still_runs_takes_no_second_unit(tmp_path: Path) -> None:
    """Its unit is gone, and what runs keeps the nodes of it: they may be another's when the unit is made again."""

    async def story(scene: Scene) -> None:
        lease, _ = await scene.run(ALICE)
        scene.gpus.units = REFERENCE_SITE[1:]
        await scene.allocator.look()
        assert scene.state(lease) is LeaseState.LOST
        with pytest.raises(Unavailable, match="vanished"):
            await scene.renew(lease.id, ALICE)
        found = scene.book.find(lease.id)
        assert found is not None
        assert found.unit_names == "0:0"

    play(tmp_path, story)


def test_a_place_whose_account_is_gone_keeps_nobody_waiting(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.ledger.write([Entry(waiting=(waiter(scene.UNKNOWN, since=1.0),))])
        scene.crash()
        await scene.allocator.look()
        await scene.side.reconcile()
        assert isinstance(await scene.lease(ALICE), Lease)

    play(tmp_path, story)


def test_joins_and_leaves_are_told(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        scene.gpus.units = ONE
        held, identity = await scene.run(BOB)
        turn = await wait(scene, ALICE)
        await scene.remove(held, identity)
        await taken(scene, turn)
        names = scene.journal.names()
        assert names.index("queue.joined") < names.index("gpu.released") < len(names) - 1
        assert names[-1] == "gpu.granted"

    play(tmp_path, story)
