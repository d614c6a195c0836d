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
    def stranger(self, container: str) -> None: ...


async def follow(engine: Engine, watcher: Watcher, clock: Callable[[], float]) -> None:
    """For ever: look at everything, and at each container that an event names; again when the stream ends.

    Both at once, and events from before the look at everything: the engine keeps its last 256 events only, and a look
    that takes long while much happens would miss what came after it had begun.
    """
    while True:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_follow_events(engine, watcher, clock()))
                both.create_task(watcher.reconcile())
        except* Ds01Error:
            watcher.lost()
        await asyncio.sleep(RETRY_S)


async def _follow_events(engine: Engine, watcher: Watcher, since: float) -> None:
    async for event in engine.events(since):
        actor = event.get("Actor") or {}
        lease = (actor.get("Attributes") or {}).get("ds01.lease", "")
        if lease:
            watcher.hint(lease)
        elif event.get("Action") in ("start", "die"):
            watcher.stranger(str(actor.get("ID", "")))


async def compare_slowly(watcher: Watcher) -> None:
    """For ever: look at everything now and then."""
    while True:
        await asyncio.sleep(RECONCILE_S)
        try:
            await watcher.reconcile()
        except Ds01Error:
            watcher.lost()
