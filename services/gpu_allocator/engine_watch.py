"""Follows the engine: an event is a hint to look at one container, never evidence by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from ds01.common.errors import Ds01Error

RETRY_S = 0.5
"""Pause before the engine is asked again after it did not answer."""

RECONCILE_S = 15.0
"""How often every lease is compared even if no event came."""


class Engine(Protocol):
    """Where events come from."""

    def events(self, since: float) -> AsyncIterator[dict[str, Any]]: ...


class Watcher(Protocol):
    """Who is told. `reconcile` raises a `Ds01Error` where the engine does not answer."""

    def lost(self) -> None: ...
    async def reconcile(self) -> None: ...
    def hint(self, lease_id: str) -> None: ...


async def follow(engine: Engine, watcher: Watcher, clock: Callable[[], float]) -> None:
    """For ever: look at everything, then at each container that an event names; again when the stream ends.

    Events are asked for from a time before the look at everything, so that none falls between the two.
    """
    while True:
        since = clock()
        try:
            await watcher.reconcile()
            async for event in engine.events(since):
                lease = (event.get("Actor", {}).get("Attributes") or {}).get("ds01.lease", "")
                if lease:
                    watcher.hint(lease)
        except Ds01Error:
            watcher.lost()
        await asyncio.sleep(RETRY_S)


async def compare_slowly(watcher: Watcher) -> None:
    """For ever: look at everything now and then."""
    while True:
        await asyncio.sleep(RECONCILE_S)
        try:
            await watcher.reconcile()
        except Ds01Error:
            watcher.lost()
