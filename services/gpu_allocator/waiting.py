"""Lets people wait for GPUs: who waits stands in the ledger, and gets his turn while he is there to take it.

The place in the queue belongs to the request id: after a restart, of the allocator or of whoever waits for somebody
else, the same request goes on waiting at its place, if it comes back soon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ds01.common.errors import Ds01Error, Unavailable
from ds01.common.model import Denied, Granted, Lease, LeaseKind, Reason, UnitKey, Waiter
from ds01.common.quantity import duration_text
from ds01.common.rates import Rates
from ds01.common.varlink import Link
from ds01.gpu_allocator.book import Done
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.queue import MAX_WAITING_PER_USER, InLine, Plan, plan
from ds01.gpu_allocator.reports import of_waiter
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.shares import score

REJOIN_S = 30.0
"""How long a place is kept for a request that is not there: a service that restarts comes back within this."""

EVENTS_PER_S, EVENTS_BURST = 0.1, 30.0
"""How many events of one user's waiting reach the journal."""

MOST_WAIT_S = 7 * 86400.0
"""Nobody waits longer than this."""

Grant = Callable[[InLine, Granted], tuple[Lease, Done]]
"""Gives somebody in the queue his units: the lease is decided when it returns, and durable when `Done` is."""


@dataclass
class _Place:
    """Somebody who is there; `turn` is his lease once decided, `moved` that he came again on another connection."""

    grant: Grant
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Future[tuple[Lease, Done]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Queue:
    """Everybody who waits."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._present: dict[tuple[int, str], _Place] = {}
        self._absent: dict[tuple[int, str], float] = {}
        self._wakes = False
        self._kept: tuple[object, Plan] | None = None
        self._tells = Rates(EVENTS_PER_S, EVENTS_BURST)

    def adopt(self) -> None:
        """After a start: keep the places of those who waited before."""
        self._forget_absent()
        if self._absent:
            asyncio.get_running_loop().call_later(REJOIN_S, self.wake)

    def is_waiting(self, uid: int, request_id: str) -> bool:
        """Whether this request has a place."""
        return any((one.uid, one.request_id) == (uid, request_id) for one in self._facts.book.waiters)

    def give_up(self, uid: int, request_id: str) -> bool:
        """The request comes again and waits no more: whether it has a place now, which is never."""
        for waiter in self._facts.book.waiters:
            if (waiter.uid, waiter.request_id) == (uid, request_id):
                place = self._present.get((uid, request_id))
                if place is not None:
                    place.moved.set()
                self._leave(waiter, "it waits no more")
        return False

    async def join(self, waiter: Waiter, grant: Grant, link: Link) -> Lease | Denied:
        """Wait for a turn: the lease that `grant` made, or why there is none.

        Raises:
            Unavailable: the caller went away, or came again by the same request; nothing was granted.
            LedgerBroken: the place could not be kept.
        """
        key = (waiter.uid, waiter.request_id)
        if key in self._present:
            self._present[key].moved.set()
        known = next((one for one in self._facts.book.waiters if (one.uid, one.request_id) == key), None)
        if known is None and self._places_of(waiter.uid) >= MAX_WAITING_PER_USER:
            return _too_many(waiter)
        place = self._present[key] = _Place(grant)
        self._absent.pop(key, None)
        try:
            if known is None:
                await self._facts.book.wait(waiter)
                self._tell("queue.joined", waiter, "no unit is free")
            return await self._wait(known or waiter, place, link)
        finally:
            if self._present.get(key) is place:
                del self._present[key]

    async def _wait(self, waiter: Waiter, place: _Place, link: Link) -> Lease | Denied:
        self.wake()
        with link.gone() as gone:
            ends = [asyncio.ensure_future(event.wait()) for event in (gone, place.moved)]
            left_s = None if waiter.until is None else max(0.0, waiter.until - self._facts.now())
            try:
                watched: list[asyncio.Future[Any]] = [place.turn, *ends]
                await asyncio.wait(watched, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
        if place.turn.done():
            lease, durable = place.turn.result()
            await durable
            return lease
        if place.moved.is_set():
            raise Unavailable("the same request waits on another connection now")
        if gone.is_set():
            # The shim waits for others: when it dies their requests come again, and have kept their places.
            if waiter.kind is not LeaseKind.CONTAINER or not await link.died():
                self._leave(waiter, "whoever waited went away")
            raise Unavailable("the caller did not wait; nothing was granted")
        denied = self._in_vain(waiter)
        self._leave(waiter, "it waited as long as it wanted to")
        return denied

    def wake(self) -> None:
        """Something changed: look soon whether it is somebody's turn."""
        if not self._wakes:
            self._wakes = True
            asyncio.get_running_loop().call_soon(self._advance)

    def reserved(self) -> frozenset[UnitKey]:
        """What is kept for those who wait, and so is not for those who come now."""
        found = self.plan() if self._facts.book.waiters else None
        return frozenset() if found is None else found.reserved

    def plan(self) -> Plan | None:
        """The queue as of now, or a second ago if nothing has happened since; None while the GPUs are unknown."""
        inventory = self._facts.stock.last
        if inventory is None:
            return None
        there = frozenset(key for key, place in self._present.items() if not place.turn.done())
        stand = (self._facts.book.version, inventory, there, self._facts.shadows(), int(self._facts.now()))
        if self._kept is None or self._kept[0] != stand:
            self._kept = (stand, plan(self._lines(), self._facts.world(inventory)))
        return self._kept[1]

    def _lines(self) -> list[InLine]:
        lines = []
        for waiter in self._facts.book.waiters:
            with suppress(Ds01Error):  # an account that is gone has no turn
                lines.append(self._line(waiter))
        return lines

    def _line(self, waiter: Waiter) -> InLine:
        asker = self._facts.asker(waiter.uid)
        request = parse_request(waiter.request)
        assert isinstance(request, GpuRequest), waiter.request
        place = self._present.get((waiter.uid, waiter.request_id))
        is_there = place is not None and not place.turn.done()
        return InLine(waiter, request, asker, score(self._facts.book.share(waiter.uid), asker.priority), is_there)

    def _advance(self) -> None:
        self._wakes = False
        self._forget_absent()
        while self._facts.engine_known and self._facts.book.waiters:
            found = self.plan()
            if found is None or found.next is None:
                return
            line, verdict = found.next
            place = self._present[(line.waiter.uid, line.waiter.request_id)]
            place.turn.set_result(place.grant(line, verdict))

    def _forget_absent(self) -> None:
        now = self._facts.now()
        for waiter in self._facts.book.waiters:
            key = (waiter.uid, waiter.request_id)
            if key not in self._present and self._absent.setdefault(key, now + REJOIN_S) <= now:
                del self._absent[key]
                self._leave(waiter, "whoever waited did not come back")

    def _leave(self, waiter: Waiter, why: str) -> None:
        self._facts.book.leave(waiter)
        self._tell("queue.left", waiter, why)
        self.wake()

    def _tell(self, name: str, waiter: Waiter, why: str) -> None:
        """Each is a row of the ledger; who comes and goes in a loop does not fill the journal as well."""
        event = of_waiter(name, waiter, why)
        if self._tells.allows(waiter.uid, asyncio.get_running_loop().time()):
            self._facts.book.note(event)
        else:
            self._facts.book.keep(event)

    def _places_of(self, uid: int) -> int:
        return sum(1 for one in self._facts.book.waiters if one.uid == uid)

    def _in_vain(self, waiter: Waiter) -> Denied:
        """What to say to somebody whose time to wait is over."""
        found = self.plan()
        turns = () if found is None else found.turns
        mine = next((one for one in turns if one.line.waiter == waiter), None)
        waited_s = self._facts.now() - waiter.since
        why = "" if mine is None else f" (place {mine.place} of {len(turns)}): {mine.denied.message}"
        return Denied(
            Reason.WAITED_IN_VAIN,
            f"no unit came free in {duration_text(max(1, round(waited_s)))}{why}",
            "" if mine is None else mine.denied.limit,
            "" if mine is None else mine.denied.used,
            waiter.request,
            "wait longer, or ask for something smaller; 'ds01 queue' shows who waits",
            () if mine is None else mine.denied.to_end,
        )


def waiter_of(blank: Lease, now: float, wait_s: float) -> Waiter:
    """Somebody who waits from now on for what `blank` shall become."""
    return Waiter(
        request_id=blank.request_id,
        uid=blank.uid,
        user=blank.user,
        group=blank.group,
        request=blank.request,
        name=blank.container_name,
        kind=blank.kind,
        since=now,
        until=now + min(max(0.0, wait_s), MOST_WAIT_S),
    )


def _too_many(waiter: Waiter) -> Denied:
    return Denied(
        Reason.NONE_FREE,
        f"you wait for {MAX_WAITING_PER_USER} requests already, and nobody may have more places in the queue",
        str(MAX_WAITING_PER_USER),
        str(MAX_WAITING_PER_USER),
        waiter.request,
        "'ds01 queue' shows them; let one go with Ctrl-C where it waits",
    )
