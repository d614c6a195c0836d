"""The allocator: turns requests and the clock into committed changes. Decides nothing itself.

Between a decision and its entry in the book nothing is awaited, so no two requests ever decide on the same world.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ds01.common.errors import Ds01Error, PeerRefused, Unavailable
from ds01.common.inventory import Inventory
from ds01.common.model import Denied, Granted, Lease, LeasedUnit, LeaseKind, LeaseState, Reason
from ds01.common.peer import Peer, uid_of
from ds01.common.rates import Rates
from ds01.common.varlink import Link
from ds01.gpu_allocator import views
from ds01.gpu_allocator.book import Done
from ds01.gpu_allocator.decide import decide
from ds01.gpu_allocator.engine_side import EngineSide
from ds01.gpu_allocator.explain import explain
from ds01.gpu_allocator.facts import Facts
from ds01.gpu_allocator.hosts import Hosts, require_time
from ds01.gpu_allocator.interface import (
    ContainerWish,
    HostWish,
    LoginWish,
    Overview,
    Report,
    Verdict,
    WaiterView,
)
from ds01.gpu_allocator.lifecycle import Change, on_clock, on_renew, release, revoke
from ds01.gpu_allocator.queue import InLine
from ds01.gpu_allocator.reports import of_denial
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.snapshot import snapshot_text
from ds01.gpu_allocator.waiting import Queue, waiter_of
from ds01.gpu_allocator.world import Asker, masked, unlimited

DENIALS_PER_S, DENIALS_BURST = 0.1, 20.0
"""How many denials of one user reach the journal."""

WAITED_FOR = (Reason.NONE_FREE, Reason.OVER_GROUP_TOTAL)
"""What others end by themselves, so that waiting helps."""

NO_GPU = "0"
"""What a program asks for that wants its slice and no unit."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for units: what, for whom, and the lease that it becomes (`blank`, without units)."""

    request: GpuRequest
    asker: Asker
    blank: Lease
    event: str = "gpu.granted"


class Allocator:
    """The one owner of who holds which GPU."""

    def __init__(
        self,
        facts: Facts,
        engine: EngineSide,
        hosts: Hosts,
        queue: Queue,
        rebuild: Callable[[], Awaitable[list[str]]],
    ) -> None:
        self._facts = facts
        self._book = facts.book
        self._engine = engine
        self._hosts = hosts
        self._queue = queue
        self._rebuild = rebuild
        self._alarm: asyncio.TimerHandle | None = None
        self._denials = Rates(DENIALS_PER_S, DENIALS_BURST)
        self._book.changed = self.changed

    # --- requests -----------------------------------------------------------------------------------------------

    async def lease(self, wish: ContainerWish, link: Link) -> Verdict:
        """A new lease, or why not; the same request has the same answer. A caller who has gone gets none."""
        inventory = await self._inventory(link)
        asker = self._facts.asker(wish.uid)
        request = parse_request(wish.gpus, self._facts.policies().gpus_all_means)
        if isinstance(request, Denied):
            return await self._denied(asker, wish.gpus, wish.name, wish.request_id, request)
        known = self._known(wish.uid, wish.request_id, str(request))
        blank = self._blank(asker, request, wish.request_id, wish.name, LeaseKind.CONTAINER)
        if known is not None and known.state is LeaseState.GRANTED:
            await self._book.settled()
            return known, ()
        if known is not None:
            blank = replace(blank, id=known.id)
        return await self._give(Ask(request, asker, blank), inventory, wish.wait_s, link)

    async def renew(self, lease_id: str, uid: int, wait_s: float, link: Link) -> Verdict:
        """The lease with units for a start that is about to be forwarded, other units than before if need be."""
        inventory = await self._inventory(link)
        lease = self._book.past(lease_id)
        if lease is None or lease.uid != uid or lease.kind is not LeaseKind.CONTAINER:
            raise Unavailable(f"there is no lease '{lease_id}'; create the container anew")
        self._book.publish()  # with the nodes of this moment
        if self._book.missing(lease):  # the instances may be new ones, and what was read of them a second old
            inventory = await self._facts.stock.fresh(max_age_s=0.0)
            lease = self._book.past(lease_id) or lease
        if lease.state is LeaseState.LOST:
            raise Unavailable(
                f"GPU {lease.unit_names} vanished while '{lease.container_name}' ran: stop it, then start it"
            )
        is_whole = not self._book.missing(lease) and not self._facts.stock.gone(lease)
        if lease.state is not LeaseState.RELEASED and (is_whole or lease.state is LeaseState.ACTIVE):
            return await self._renewed(lease), ()
        self._engine.stop_drain(lease_id)
        request = parse_request(lease.request or str(lease.count), self._facts.policies().gpus_all_means)
        if isinstance(request, Denied):
            raise Unavailable(f"the lease '{lease_id}' says nothing that could be leased; create the container anew")
        now = self._facts.now()
        state = LeaseState.HELD if lease.container else LeaseState.GRANTED
        until = now + self._facts.policies().granted_timeout_s
        blank = replace(lease, state=state, since=now, until=until, units=())
        ask = Ask(request, self._facts.asker(uid), blank, "gpu.renewed")
        return await self._give(ask, inventory, wait_s, link)

    async def run(self, peer: Peer, wish: HostWish, link: Link) -> Verdict:
        """A lease for the calling process, which is in its scope when this returns."""
        if peer.service:
            raise PeerRefused(
                "a service of the system stays where systemd put it; run the program from a login session"
            )
        inventory = await self._inventory(link)
        asker = self._facts.asker(peer.uid)
        name = wish.command[:60] if wish.command.isprintable() else "?"
        means = self._facts.policies().gpus_all_means
        request = GpuRequest(0) if wish.gpus == NO_GPU else parse_request(wish.gpus, means)
        if isinstance(request, Denied):
            return await self._denied(asker, wish.gpus, name, wish.request_id, request)
        blank = self._blank(asker, request, wish.request_id, name, LeaseKind.HOST)
        if not request.count:
            return await self._hosts.start_without(blank, link), ()
        known = self._known(peer.uid, wish.request_id, str(request))
        if known is not None:
            await self._book.settled()
            return await self._hosts.start(known, link), ()
        verdict = await self._give(Ask(request, asker, blank), inventory, wish.wait_s, link)
        if isinstance(verdict, Denied):
            return verdict
        lease, warnings = verdict
        return await self._hosts.start(lease, link), warnings

    async def open_login(self, peer: Peer, wish: LoginWish) -> Verdict:
        """GPUs for somebody's login sessions, on an administrator's word: others' leases bound it, not quotas."""
        require_time(wish.until, self._facts.now())
        inventory = await self._facts.stock.fresh()
        self._facts.require_engine()
        uid = uid_of(wish.user)
        asker = unlimited(self._facts.asker(uid))
        request = parse_request(wish.gpus, self._facts.policies().gpus_all_means)
        if isinstance(request, Denied):
            return request
        blank = self._blank(asker, request, secrets.token_hex(16), f"granted by {peer.user}", LeaseKind.LOGIN)
        blank = replace(blank, state=LeaseState.ACTIVE, until=wish.until)
        verdict = decide(request, asker, self._facts.world(inventory, self._queue.reserved()))
        if isinstance(verdict, Denied):
            return await self._denied(asker, str(request), blank.container_name, blank.request_id, verdict)
        lease, durable = self._granted(blank, verdict, "gpu.granted", f"{peer.user} opened it for login sessions")
        await durable
        try:
            await self._hosts.open_logins(uid)
        except Unavailable as exc:
            await self._book.commit(revoke(lease, f"it could not be opened: {exc}", self._facts.now()))
            raise
        return lease, verdict.warnings

    async def revoke(self, peer: Peer, lease_id: str) -> None:
        """End what was opened for login sessions before its time."""
        lease = self._book.find(lease_id)
        if lease is None or lease.kind is not LeaseKind.LOGIN or lease.state is LeaseState.DRAINING:
            raise PeerRefused(f"nothing is open by a lease '{lease_id[:40]}'; 'ds01 grant --list' shows what is")
        await self._book.commit(revoke(lease, f"{peer.user} ended it", self._facts.now()))
        await self._hosts.close_login(lease)

    async def release(self, lease_id: str, reason: str) -> None:
        """End a lease whose container never came or is gone, on the engine's word and not the caller's."""
        self._facts.require_engine()
        lease = self._book.find(lease_id)
        if lease is None or lease.kind is not LeaseKind.CONTAINER:
            return
        if await self._engine.container_of(lease) is None:
            lease = self._book.find(lease_id)
            if lease is not None:
                await self._book.commit(release(lease, reason, self._facts.now()))

    async def explain(self, peer: Peer, gpus: str) -> tuple[list[str], Granted | Denied, list[Denied]]:
        """What a request would get now and why, or everything against it."""
        self._facts.require_ledger()
        inventory = await self._facts.stock.fresh()
        world = self._facts.world(inventory, self._queue.reserved())
        return explain(gpus, self._facts.asker(peer.uid), world, self._facts.policies().gpus_all_means)

    async def snapshot(self, peer: Peer) -> str:
        """The world on which the caller's requests are decided, as a text that can be replayed."""
        self._facts.require_ledger()
        inventory = await self._facts.stock.fresh()
        world = self._facts.world(inventory, self._queue.reserved())
        seen = world if peer.is_admin else masked(world, peer.uid)
        means = self._facts.policies().gpus_all_means
        return snapshot_text(self._facts.asker(peer.uid), seen, means, self._facts.now())

    async def overview(self, peer: Peer) -> Overview:
        """Who holds what."""
        self._facts.require_ledger()
        inventory = await self._facts.stock.fresh()
        viewer = views.Viewer(peer.uid, peer.is_admin)
        return views.overview(viewer, self._facts.asker(peer.uid), self._facts.world(inventory))

    async def queue(self, peer: Peer) -> list[WaiterView]:
        """Who waits, in the order of turns."""
        self._facts.require_ledger()
        await self._facts.stock.fresh()
        found = self._queue.plan()
        return views.queue(views.Viewer(peer.uid, peer.is_admin), () if found is None else found.turns)

    async def rebuild(self) -> list[str]:
        """Put a ledger that can't be used aside, and make one from what runs."""
        return await self._rebuild()

    async def record(self, report: Report) -> None:
        """Keep a refusal of the shim. The shim has told the journal itself."""
        await self._book.keep(views.refusal(report, self._facts.asker(report.uid).user))

    def uuid_of(self, lease: Lease) -> dict[str, str]:
        """Today's device UUIDs of a lease's units, by unit name."""
        uuids = {unit.key: unit.uuid for unit in self._book.units}
        return {unit.name: uuids.get(unit.key, "") for unit in lease.units}

    # --- the clock ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something is durable that was not before, or the engine has answered: go on from there."""
        self.tick()
        self._queue.wake()

    def tick(self) -> None:
        """Do what the clock asks for, and set the alarm for the next time."""
        if self._facts.engine_known:
            now = self._facts.now()
            for lease in self._book.leases:
                change = on_clock(lease, now)
                if change is None:
                    continue
                self._book.commit(change)
                if lease.kind is LeaseKind.CONTAINER:
                    self._engine.drain(lease.id)
                elif lease.kind is LeaseKind.LOGIN:
                    self._hosts.close_soon(change.lease)
        self._set_alarm()

    async def look(self) -> None:
        """Read the GPUs, and compare with them: device entries, leases, and processes that have no container."""
        try:
            await self._hosts.compare_scopes()
            await self._facts.stock.fresh(max_age_s=0.0)
            await self._engine.compare_units()
            await self._hosts.close_lost()
            await self._hosts.look()
        finally:
            self.changed()

    # --- inside ---------------------------------------------------------------------------------------------------

    async def _inventory(self, link: Link) -> Inventory:
        inventory = await self._facts.stock.fresh()
        if link.hung_up():
            raise Unavailable("the caller did not wait; nothing was granted")
        self._facts.require_engine()
        return inventory

    def _known(self, uid: int, request_id: str, request: str) -> Lease | None:
        """The lease that this request made before and that has not been used: granted, or given back since no container
        came of it. Raises `Unavailable` if it has been used."""
        known = self._book.of_request(uid, request_id)
        if known is None:
            return None
        if known.request != request:
            raise Unavailable(f"request '{request_id}' asked for GPU '{known.request}' before; ask anew")
        given_back = known.state is LeaseState.RELEASED and known.kind is LeaseKind.CONTAINER
        if known.container or not (given_back or known.state is LeaseState.GRANTED):
            raise Unavailable(f"request '{request_id}' was answered before, and its lease was used; ask anew")
        return known

    def _blank(self, asker: Asker, request: GpuRequest, request_id: str, name: str, kind: LeaseKind) -> Lease:
        now = self._facts.now()
        return Lease(
            id=f"l{secrets.token_hex(8)}",
            request_id=request_id,
            uid=asker.uid,
            user=asker.user,
            group=asker.group,
            container="",
            container_name=name,
            count=request.count,
            state=LeaseState.GRANTED,
            since=now,
            until=now + self._facts.policies().granted_timeout_s,
            units=(),
            kind=kind,
            request=str(request),
        )

    async def _give(self, ask: Ask, inventory: Inventory, wait_s: float, link: Link) -> Verdict:
        """Units now, or a place in the queue, or why not."""
        waits = self._queue.is_waiting(ask.asker.uid, ask.blank.request_id)
        if waits and wait_s <= 0:
            waits = self._queue.give_up(ask.asker.uid, ask.blank.request_id)
        world = self._facts.world(inventory, self._queue.reserved(), without=ask.blank.id)
        verdict = decide(ask.request, ask.asker, world)
        helps = isinstance(verdict, Denied) and (wait_s <= 0 or verdict.reason not in WAITED_FOR)
        if helps and await self._hosts.ends_something_of(ask.asker.uid):
            world = self._facts.world(inventory, self._queue.reserved(), without=ask.blank.id)
            verdict = decide(ask.request, ask.asker, world)
        if isinstance(verdict, Granted) and not waits:
            lease, durable = self._granted(ask.blank, verdict, ask.event, "within quota, and free")
            await durable
            if self._book.missing(lease):  # instances that were made anew since the GPUs were read have other nodes
                with suppress(Ds01Error):
                    await self._facts.stock.fresh(max_age_s=0.0)
            return lease, verdict.warnings
        may_wait = waits or (isinstance(verdict, Denied) and verdict.reason in WAITED_FOR)
        if wait_s > 0 and may_wait:
            return await self._wait(ask, wait_s, link)
        assert isinstance(verdict, Denied)
        name, request_id = ask.blank.container_name, ask.blank.request_id
        return await self._denied(ask.asker, str(ask.request), name, request_id, verdict)

    async def _wait(self, ask: Ask, wait_s: float, link: Link) -> Verdict:
        blank = replace(ask.blank, request=str(ask.request))
        waiter = waiter_of(blank, self._facts.now(), wait_s)
        warnings: list[str] = []

        def grant(line: InLine, verdict: Granted) -> tuple[Lease, Done]:
            begun = self._facts.now()
            fresh = replace(blank, since=begun, until=begun + self._facts.policies().granted_timeout_s)
            warnings.extend(verdict.warnings)
            gone = ((line.waiter.uid, line.waiter.request_id),)
            return self._granted(fresh, verdict, ask.event, "its turn has come", gone)

        answer = await self._queue.join(waiter, grant, link)
        if isinstance(answer, Denied):
            return await self._denied(ask.asker, str(ask.request), waiter.name, waiter.request_id, answer)
        return answer, tuple(warnings)

    def _granted(
        self, blank: Lease, verdict: Granted, event: str, why: str, gone: tuple[tuple[int, str], ...] = ()
    ) -> tuple[Lease, Done]:
        units = tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in verdict.units)
        lease = replace(blank, units=units)
        return lease, self._book.commit(Change(lease, event, why), gone=gone)

    async def _denied(self, asker: Asker, gpus: str, name: str, request_id: str, verdict: Denied) -> Denied:
        """Each denial is a row of the ledger; who asks in a loop does not fill the journal as well."""
        event = of_denial(asker, gpus, name, request_id, verdict)
        tells = self._denials.allows(asker.uid, asyncio.get_running_loop().time())
        await (self._book.note(event) if tells else self._book.keep(event))
        return verdict

    async def _renewed(self, lease: Lease) -> Lease:
        change = on_renew(lease, self._facts.now())
        if change is None:
            return lease
        self._engine.stop_drain(lease.id)
        await self._book.commit(change)
        return change.lease

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        ends = [lease.until for lease in self._book.leases if lease.until is not None]
        if ends and self._facts.engine_known:
            delay_s = max(0.05, min(ends) - self._facts.now())
            self._alarm = asyncio.get_running_loop().call_later(delay_s, self.tick)
