"""What the shim knows of the engine: whether it answers now, and what it can do."""

from __future__ import annotations

import asyncio

from ds01.common.engine import Response, engine_facts
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.model import EngineFacts
from ds01.docker_shim.ownership import EngineCalls

FRESH_S = 1.0
FACTS_FRESH_S = 60.0
SLOW_S = 0.4
HUNG_S = 1.0
"""How long nobody waits again for an engine that hangs: a client asks three times before it says so."""


class EngineState:
    """`probe` has a short time limit: an engine that is down, or hangs, is known as such within two seconds."""

    def __init__(self, probe: EngineCalls, calls: EngineCalls) -> None:
        self._probe = probe
        self._calls = calls
        self._answered_at = float("-inf")
        self._hung = ""
        self._hung_at = float("-inf")
        self._facts: EngineFacts | None = None
        self._facts_at = float("-inf")

    async def require(self) -> None:
        """Return if the engine answers; asked at most once a second. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._answered_at < FRESH_S:
            return
        response = await self.ping("GET")
        if response.status != 200:
            raise Unavailable(f"the Docker engine answers {response.status}")

    async def ping(self, method: str) -> Response:
        """The engine's word that it lives. Raises `Unavailable`, and at once if it has just been waited for in vain."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if self._hung and asked_at - self._hung_at < HUNG_S:
            raise Unavailable(self._hung)
        try:
            response = await self._probe.request(method, "/_ping")
        except Unavailable as exc:
            if loop.time() - asked_at > SLOW_S:
                self._hung, self._hung_at = str(exc), loop.time()
            raise
        self._answered_at, self._hung = loop.time(), ""
        return response

    def lost(self) -> None:
        """A call failed: ask again before the next."""
        self._answered_at = float("-inf")

    async def facts(self) -> EngineFacts:
        """Which limits the engine applies itself. Raises `Unavailable`."""
        now = asyncio.get_running_loop().time()
        if self._facts is None or now - self._facts_at > FACTS_FRESH_S:
            response = await self._calls.request("GET", "/info")
            if response.status != 200:
                raise EngineRefused(response.status, response.message())
            self._facts = engine_facts(response.json())
            self._facts_at = now
        return self._facts
