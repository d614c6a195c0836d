"""Following the engine: what happens during a long look at everything is not missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ds01.gpu_allocator.engine_watch import follow


class SlowEngine:
    """Tells of a removal at once; a look at everything takes for ever."""

    async def events(self, since: float) -> AsyncIterator[dict[str, Any]]:
        assert since == 100.0
        yield {"Actor": {"Attributes": {"ds01.lease": "l1"}}}
        await asyncio.Event().wait()


class Watcher:
    def __init__(self) -> None:
        self.hints: list[str] = []
        self.hinted = asyncio.Event()

    def lost(self) -> None:
        raise AssertionError

    async def reconcile(self) -> None:
        await asyncio.Event().wait()

    def hint(self, lease_id: str) -> None:
        self.hints.append(lease_id)
        self.hinted.set()

    def stranger(self, container: str) -> None:
        """Nothing."""


async def _follow_for_a_moment() -> list[str]:
    watcher = Watcher()
    task = asyncio.create_task(follow(SlowEngine(), watcher, lambda: 100.0))
    await asyncio.wait_for(watcher.hinted.wait(), 5)
    task.cancel()
    return watcher.hints


def test_an_event_during_a_long_look_at_everything_is_heard() -> None:
    assert asyncio.run(_follow_for_a_moment()) == ["l1"]
