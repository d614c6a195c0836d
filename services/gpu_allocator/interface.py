"""The Varlink interface io.ds01.Allocator: types on the wire, who may call what. Holds no state of its own.

No postponed annotations here: asyncvarlink reads the types of the methods at run time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypedDict

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from ds01.common.errors import Ds01Error
from ds01.common.model import Denied, Unit
from ds01.common.model import Lease as LeaseRow
from ds01.common.peer import Peer
from ds01.common.varlink import require_service

SHIM = "ds01-docker-shim.service"


@dataclass(frozen=True)
class UnitRef:
    """A unit of a lease: `0:1`, its profile and the device UUID of today ('' while it does not exist)."""

    name: str
    profile: str
    uuid: str


@dataclass(frozen=True)
class Grant:
    """A lease that holds units."""

    lease: str
    state: str
    units: list[UnitRef]


@dataclass(frozen=True)
class Denial:
    """A "no" with its numbers."""

    reason: str
    message: str
    limit: str
    used: str
    requested: str
    hint: str


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
    since: float | None
    until: float | None
    reason: str


class Answer(TypedDict):
    grant: Grant | None
    denial: Denial | None


class Explanation(TypedDict):
    lines: list[str]
    grant: Grant | None
    denial: Denial | None


class Overview(TypedDict):
    units: list[UnitView]
    used_units: int
    max_units: int | None


class Unavailable(TypedVarlinkErrorReply, interface="io.ds01.Allocator"):
    """It could not be decided: the engine, NVML or the ledger does not answer. Nothing was granted."""

    class Parameters:
        message: str


class Allocator(Protocol):
    """What the interface needs of the allocator."""

    async def lease(
        self, request_id: str, uid: int, container_name: str, count: int, is_there: Callable[[], bool]
    ) -> LeaseRow | Denied: ...
    async def renew(self, lease_id: str, uid: int) -> LeaseRow | Denied: ...
    async def release(self, lease_id: str, reason: str) -> None: ...
    async def explain(self, peer: Peer, count: int) -> tuple[list[str], tuple[Unit, ...] | Denied]: ...
    async def overview(self, peer: Peer) -> Overview: ...
    def record(self, report: "Report") -> None: ...
    def uuid_of(self, lease: LeaseRow) -> dict[str, str]: ...


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


class AllocatorInterface(VarlinkInterface, name="io.ds01.Allocator"):
    """Who holds which GPU. Only the Docker shim leases for containers; everybody may look and ask why."""

    errors = (Unavailable,)

    def __init__(self, peer: Peer, allocator: Allocator, is_there: Callable[[], bool]) -> None:
        self._is_there = is_there
        self._peer = peer
        self._allocator = allocator

    @varlinkmethod
    async def Lease(self, *, request_id: str, uid: int, container_name: str, count: int) -> Answer:
        """Lease `count` units for a container of `uid`. The same request_id of the same uid has the same answer."""
        require_service(self._peer, SHIM)
        try:
            return self._answer(await self._allocator.lease(request_id, uid, container_name, count, self._is_there))
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc

    @varlinkmethod
    async def Renew(self, *, lease: str, uid: int) -> Answer:
        """Make sure that the lease has units before its container is started, others than before if need be."""
        require_service(self._peer, SHIM)
        try:
            return self._answer(await self._allocator.renew(lease, uid))
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc

    @varlinkmethod
    async def Release(self, *, lease: str, reason: str) -> None:
        """End the lease if the engine confirms that no container is behind it any more."""
        require_service(self._peer, SHIM)
        try:
            await self._allocator.release(lease, reason)
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc

    @varlinkmethod
    def Record(
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
        try:
            self._allocator.record(report)
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc

    @varlinkmethod
    async def List(self) -> Overview:
        """Every unit with who holds it: names for oneself and administrators, the group and the end for others."""
        try:
            return await self._allocator.overview(self._peer)
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc

    @varlinkmethod
    async def Explain(self, *, count: int) -> Explanation:
        """What a request of the caller for `count` units would get now, and why. Nothing is changed."""
        try:
            lines, verdict = await self._allocator.explain(self._peer, count)
        except Ds01Error as exc:
            raise Unavailable(message=str(exc)) from exc
        if isinstance(verdict, Denied):
            return {"lines": lines, "grant": None, "denial": _denial(verdict)}
        units = [UnitRef(unit.name, unit.profile, unit.uuid) for unit in verdict]
        return {"lines": lines, "grant": Grant("", "would-be-granted", units), "denial": None}

    def _answer(self, verdict: LeaseRow | Denied) -> Answer:
        if isinstance(verdict, Denied):
            return {"grant": None, "denial": _denial(verdict)}
        uuids = self._allocator.uuid_of(verdict)
        units = [UnitRef(unit.name, unit.profile, uuids.get(unit.name, "")) for unit in verdict.units]
        return {"grant": Grant(verdict.id, verdict.state.value, units), "denial": None}


def _denial(verdict: Denied) -> Denial:
    return Denial(verdict.reason.value, verdict.message, verdict.limit, verdict.used, verdict.requested, verdict.hint)
