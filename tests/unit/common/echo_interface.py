"""An interface for the server's tests. No postponed annotations: asyncvarlink reads the types at run time."""

import asyncio
from typing import TypedDict

from asyncvarlink import VarlinkInterface, varlinkmethod


class Said(TypedDict):
    text: str


class Echo(VarlinkInterface, name="io.ds01.Echo"):
    """Says what it is told, after `hold` where one is set."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.hold: asyncio.Event | None = None

    @varlinkmethod
    async def Say(self, *, text: str) -> Said:
        """Say it."""
        if self.hold is not None:
            await self.hold.wait()
        self.said.append(text)
        return {"text": text}
