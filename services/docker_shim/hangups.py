"""What is done about clients that hang up: work for them ends. Hangups (common) tells that they did."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Coroutine
from typing import Any, TypeVar

from ds01.docker_shim.connection import ClientGone

T = TypeVar("T")


def hung_up(fileno: int) -> bool:
    """Whether the peer of this socket is gone now."""
    poll = select.poll()
    poll.register(fileno, 0)
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


async def unless(gone: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Do `work` unless the client goes; then it is cancelled. Raises `ClientGone`."""
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGone
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)
