"""The Varlink interface io.ds01.Allocator: types on the wire, who may call what. Holds no state of its own.

No postponed annotations here: asyncvarlink reads the types of the methods at run time.
"""

import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol, TypedDict, TypeVar

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod
from asyncvarlink.serviceinterface import PermissionDenied

from ds01.common.errors import Ds01Error, PeerRefused
from ds01.common.model import Denied, Granted
from ds01.common.model import Lease as LeaseRow
from ds01.common.peer import Peer
from ds01.common.varlink import Link, require_service

SHIM = "ds01-docker-shim.service"

LONGEST_TEXT = 400
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}")

T = TypeVar("T")


@dataclass(frozen=True)
class UnitRef:
    """A unit of a lease: `0:1`, its profile and the device UUID of today ('' while it does not exist)."""

    name: str
    profile: str
    uuid: str


@dataclass(frozen=True)
class Grant:
    """A lease that holds units. `warnings` are sentences for whoever asked; `until` is when it ends by itself."""

    lease: str
    state: str
    units: list[UnitRef]
    warnings: list[str]
    until: float | None


@dataclass(frozen=True)
class BlockerView:
    """A lease that would have to end. `user` and `name` are empty unless they are the caller's own or he is an
    administrator; `until` (seconds of the epoch) is when it is expected to end."""

    mine: bool
    user: str
    group: str
    name: str
    units: str
    state: str
    until: float | None


@dataclass(frozen=True)
class Denial:
    """A "no" with its numbers."""

    reason: str
    message: str
    limit: str
    used: str
    requested: str
    hint: str
    to_end: list[BlockerView]


@dataclass(frozen=True)
class UnitView:
    """A unit as anybody may see it. `user` and `container` are empty unless they are the caller's own, or he is an
    administrator; `until` (seconds of the epoch) is when a hold ends; `state` is free, a lease state, or withheld."""

    name: str
    profile: str
    state: str
    mine: bool
    group: str
    user: str
    container: str
    lease: str
    kind: str
    since: float | None
    until: float | None
    reason: str


@dataclass(frozen=True)
class WaiterView:
    """Somebody in the queue. `user`, `name` and `request` are empty unless they are the caller's own or he is an
    administrator. `estimate` (seconds of the epoch) is when it may be his turn; None if nobody knows."""

    position: int
    mine: bool
    user: str
    group: str
    gpus: str
    name: str
    request: str
    since: float
    until: float | None
    reason: str
    estimate: float | None


class Answer(TypedDict):
    grant: Grant | None
    denial: Denial | None


class Explanation(TypedDict):
    lines: list[str]
    grant: Grant | None
    denial: Denial | None
    against: list[Denial]


class Overview(TypedDict):
    units: list[UnitView]
    used_units: int
    max_units: int | None
    notices: list[str]


class Waiting(TypedDict):
    waiters: list[WaiterView]


class World(TypedDict):
    snapshot: str


class Rebuilt(TypedDict):
    lines: list[str]


class Unavailable(TypedVarlinkErrorReply, interface="io.ds01.Allocator"):
    """It could not be decided: the engine, NVML or the ledger does not answer. Nothing was granted."""

    class Parameters:
        message: str


class NotPossible(TypedVarlinkErrorReply, interface="io.ds01.Allocator"):
    """What was asked for makes no sense, and why: no such user, no such lease, a time that is past."""

    class Parameters:
        message: str


@dataclass(frozen=True)
class Report:
    """A refusal of the shim, to be kept in the ledger."""

    event: str
    uid: int
    reason: str
    message: str
    container: str
    container_name: str
    request: str
    count: int


@dataclass(frozen=True)
class ContainerWish:
    """What the shim asks for a container: `gpus` in the grammar of request.py; waits `wait_s` seconds at most."""

    request_id: str
    uid: int
    name: str
    gpus: str
    wait_s: float


@dataclass(frozen=True)
class HostWish:
    """What somebody asks for his own process, which is at the other end of `link`."""

    request_id: str
    command: str
    gpus: str
    wait_s: float


@dataclass(frozen=True)
class LoginWish:
    """What an administrator opens for the login sessions of `user`, until `until` (seconds of the epoch)."""

    user: str
    gpus: str
    until: float


Verdict = tuple[LeaseRow, tuple[str, ...]] | Denied
"""A lease that holds units, with warnings; or why there is none."""


class Allocator(Protocol):
    """What the interface needs of the allocator."""

    async def lease(self, wish: ContainerWish, link: Link) -> Verdict: ...
    async def renew(self, lease_id: str, uid: int, wait_s: float, link: Link) -> Verdict: ...
    async def release(self, lease_id: str, reason: str) -> None: ...
    async def run(self, peer: Peer, wish: HostWish, link: Link) -> Verdict: ...
    async def open_login(self, peer: Peer, wish: LoginWish) -> Verdict: ...
    async def revoke(self, peer: Peer, lease_id: str) -> None: ...
    async def explain(self, peer: Peer, gpus: str) -> tuple[list[str], Granted | Denied, list[Denied]]: ...
    async def overview(self, peer: Peer) -> Overview: ...
    async def queue(self, peer: Peer) -> list[WaiterView]: ...
    async def snapshot(self, peer: Peer) -> str: ...
    async def rebuild(self) -> list[str]: ...
    async def record(self, report: Report) -> None: ...
    def uuid_of(self, lease: LeaseRow) -> dict[str, str]: ...


class AllocatorInterface(VarlinkInterface, name="io.ds01.Allocator"):
    """Who holds which GPU. Only the Docker shim leases for containers; everybody may look, wait, run and ask why."""

    errors = (Unavailable, NotPossible)

    def __init__(self, peer: Peer, allocator: Allocator, link: Link) -> None:
        self._link = link
        self._peer = peer
        self._allocator = allocator

    @varlinkmethod
    async def Lease(self, *, request_id: str, uid: int, container_name: str, gpus: str, wait_s: float) -> Answer:
        """Lease units for a container of `uid`, waiting in the queue for `wait_s` seconds at most (0: not at all).
        The same request_id of the same uid has the same answer, or goes on waiting at its place."""
        require_service(self._peer, SHIM)
        _require_texts(request_id=request_id, gpus=gpus, container_name=container_name)
        wish = ContainerWish(request_id, uid, container_name, gpus, wait_s)
        return self._answer(await _said(self._allocator.lease(wish, self._link)), uid)

    @varlinkmethod
    async def Renew(self, *, lease: str, uid: int, wait_s: float) -> Answer:
        """Make sure that the lease has units before its container is started, others than before if need be."""
        require_service(self._peer, SHIM)
        return self._answer(await _said(self._allocator.renew(lease, uid, wait_s, self._link)), uid)

    @varlinkmethod
    async def Release(self, *, lease: str, reason: str) -> None:
        """End the lease if the engine confirms that no container is behind it any more."""
        require_service(self._peer, SHIM)
        await _said(self._allocator.release(lease, reason))

    @varlinkmethod
    async def Run(self, *, request_id: str, command: str, gpus: str, wait_s: float) -> Answer:
        """Lease units for the calling process, and move it into a scope of the caller's slice that may open exactly
        these; `gpus` "0" is a scope without any. What it becomes by exec, and its children, stay there."""
        _require_texts(request_id=request_id, gpus=gpus)
        wish = HostWish(request_id, command, gpus, wait_s)
        return self._answer(await _said(self._allocator.run(self._peer, wish, self._link)), self._peer.uid)

    @varlinkmethod
    async def Grant(self, *, user: str, gpus: str, until: float) -> Answer:
        """Open GPUs to the login sessions of `user` until a time. For administrators."""
        self._require_admin()
        _require_texts(user=user, gpus=gpus)
        wish = LoginWish(user, gpus, until)
        return self._answer(await _said(self._allocator.open_login(self._peer, wish)), self._peer.uid)

    @varlinkmethod
    async def Revoke(self, *, lease: str) -> None:
        """End what Grant opened before its time. For administrators."""
        self._require_admin()
        _require_texts(lease=lease)
        await _said(self._allocator.revoke(self._peer, lease))

    @varlinkmethod
    async def Record(
        self,
        *,
        event: str,
        uid: int,
        reason: str,
        message: str,
        container: str,
        container_name: str,
        request: str,
        count: int,
    ) -> None:
        """Keep a refusal of the shim in the ledger."""
        require_service(self._peer, SHIM)
        report = Report(event, uid, reason, message, container, container_name, request, count)
        await _said(self._allocator.record(report))

    @varlinkmethod
    async def List(self) -> Overview:
        """Every unit with who holds it: names for oneself and administrators, the group and the end for others."""
        return await _said(self._allocator.overview(self._peer))

    @varlinkmethod
    async def Queue(self) -> Waiting:
        """Who waits, in the order in which they get their turn."""
        return {"waiters": await _said(self._allocator.queue(self._peer))}

    @varlinkmethod
    async def Explain(self, *, gpus: str) -> Explanation:
        """What a request of the caller would get now and why, or everything that speaks against it. Changes nothing."""
        _require_texts(gpus=gpus)
        lines, verdict, against = await _said(self._allocator.explain(self._peer, gpus))
        denials = [self._denial(one, self._peer.uid) for one in against]
        if isinstance(verdict, Denied):
            return {"lines": lines, "grant": None, "denial": self._denial(verdict, self._peer.uid), "against": denials}
        units = [UnitRef(unit.name, unit.profile, unit.uuid) for unit in verdict.units]
        grant = Grant("", "would-be-granted", units, list(verdict.warnings), None)
        return {"lines": lines, "grant": grant, "denial": None, "against": denials}

    @varlinkmethod
    async def Snapshot(self) -> World:
        """The world on which a request of the caller is decided now, as a file for `ds01 explain --snapshot`."""
        return {"snapshot": await _said(self._allocator.snapshot(self._peer))}

    @varlinkmethod
    async def RebuildLedger(self) -> Rebuilt:
        """Put a ledger that can't be used aside and make one from what runs. For administrators."""
        self._require_admin()
        return {"lines": await _said(self._allocator.rebuild())}

    def _require_admin(self) -> None:
        if not self._peer.is_admin:
            raise PermissionDenied()

    def _answer(self, verdict: Verdict, uid: int) -> Answer:
        """The answer to a call for `uid`: the shim acts for others."""
        if isinstance(verdict, Denied):
            return {"grant": None, "denial": self._denial(verdict, uid)}
        lease, warnings = verdict
        uuids = self._allocator.uuid_of(lease)
        units = [UnitRef(unit.name, unit.profile, uuids.get(unit.name, "")) for unit in lease.units]
        return {"grant": Grant(lease.id, lease.state.value, units, list(warnings), lease.until), "denial": None}

    def _denial(self, verdict: Denied, uid: int) -> Denial:
        return Denial(
            verdict.reason.value,
            verdict.message,
            verdict.limit,
            verdict.used,
            verdict.requested,
            verdict.hint,
            [
                BlockerView(
                    mine=one.uid == uid,
                    user=one.user if one.uid == uid or self._peer.is_admin else "",
                    group=one.group,
                    name=one.name if one.uid == uid or self._peer.is_admin else "",
                    units=one.units,
                    state=one.state.value,
                    until=one.until,
                )
                for one in verdict.to_end
            ],
        )


def _require_texts(**untrusted: str) -> None:
    """What users say is kept in the ledger and the journal: it has an end, and nothing that is no text.

    Raises:
        NotPossible: a text is too long, has characters that can't be shown, or is not the id of a request.
    """
    for name, text in untrusted.items():
        if len(text) > LONGEST_TEXT or not text.isprintable():
            raise NotPossible(
                message=f"'{name}' is longer than {LONGEST_TEXT} characters, or has some that are no text"
            )
        if name == "request_id" and not _REQUEST_ID.fullmatch(text):
            raise NotPossible(
                message="'request_id' must be 8 to 64 letters, digits and '-', beginning with one of the first"
            )


async def _said(work: Awaitable[T]) -> T:
    """The answer of the allocator, or what stood in its way as an error of the interface."""
    try:
        return await work
    except PeerRefused as exc:
        raise NotPossible(message=str(exc)) from exc
    except Ds01Error as exc:
        raise Unavailable(message=str(exc)) from exc
