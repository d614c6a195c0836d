"""The Varlink interface io.ds01.LimitsSync. No postponed annotations: asyncvarlink reads the types at run time."""

from typing import Protocol, TypedDict

from asyncvarlink import TypedVarlinkErrorReply, VarlinkInterface, varlinkmethod

from ds01.common.errors import Ds01Error
from ds01.common.peer import Peer
from ds01.common.varlink import require_service

STARTERS = ("ds01-docker-shim.service", "ds01-gpu-allocator.service")


class Unavailable(TypedVarlinkErrorReply, interface="io.ds01.LimitsSync"):
    """The slice could not be made: nothing may be started in it."""

    class Parameters:
        message: str


class Slices(Protocol):
    """What the interface needs."""

    async def ensure(self, uid: int) -> tuple[str, str]: ...


class EnsuredSlice(TypedDict):
    slice: str
    group: str


class LimitsSyncInterface(VarlinkInterface, name="io.ds01.LimitsSync"):
    """Slices with limits, for our own services."""

    errors = (Unavailable,)

    def __init__(self, peer: Peer, slices: Slices) -> None:
        self._peer = peer
        self._slices = slices

    @varlinkmethod
    async def EnsureSlice(self, *, uid: int) -> EnsuredSlice:
        """Make the slice of `uid` with his limits, if it is not there, before anything runs in it.

        `group` is the one in the slice's name: of a user who moved, the former, while he has a container there.
        """
        require_service(self._peer, *STARTERS)
        try:
            name, group = await self._slices.ensure(uid)
        except (Ds01Error, OSError) as exc:
            raise Unavailable(message=str(exc)) from exc
        return {"slice": name, "group": group}
