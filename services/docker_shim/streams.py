"""What one user may hold open: streams, and places in the queue for GPUs, counted together. Knows nothing of HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ds01.common.hangups import Hangups
from ds01.docker_shim.connection import ClientGone
from ds01.docker_shim.hangups import hung_up, unless
from ds01.docker_shim.model import Reason, Refused

T = TypeVar("T")


class Seat:
    """The place from which a client waits: one of its user's streams, given up at once when the client hangs up.

    `limit` is None for administrators.
    """

    def __init__(self, hangups: Hangups, streams: Counter[int], fileno: int, uid: int, limit: int | None) -> None:
        self._hangups = hangups
        self._streams = streams
        self._fileno = fileno
        self._uid = uid
        self._limit = limit

    async def wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T | Refused:
        """Do `work`, however long it takes; cancelled, with `ClientGone` raised, if nobody waits for it any more."""
        with held(self._streams, self._uid) as others:
            if self._limit is not None and others >= self._limit:
                return over_streams(others, self._limit)
            with self._hangups.watch(self._fileno) as gone:
                return await unless(gone, work())

    def require(self) -> None:
        """Raises `ClientGone` if the client has hung up."""
        if hung_up(self._fileno):
            raise ClientGone


@contextmanager
def held(counter: Counter[int], uid: int) -> Iterator[int]:
    """One more of `uid`'s for a while; how many there are besides."""
    others = counter[uid]
    counter[uid] += 1
    try:
        yield others
    finally:
        counter[uid] -= 1
        if not counter[uid]:
            del counter[uid]


def over_streams(used: int, limit: int) -> Refused:
    """Too many are open."""
    return Refused(
        429,
        Reason.OVER_STREAMS,
        f"you have {used} open streams of logs, attach, exec, wait and the queue for GPUs, and your limit is {limit}",
        "close one: end a 'docker logs -f', 'docker attach', 'docker exec' or 'docker wait' that you no longer need",
        limit=str(limit),
        used=str(used),
        requested="1",
    )
