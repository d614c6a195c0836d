"""One NVML call at a time, in a thread that nobody has to wait for: a call can hang in the kernel for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from ds01.common.errors import Unavailable

CALL_TIMEOUT_S = 2.0

T = TypeVar("T")


class OneReading(Generic[T]):
    """Callers at the same time share one call of `read`; while one hangs, everybody is told so."""

    def __init__(self, read: Callable[[], T], timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._running: asyncio.Future[T] | None = None

    async def value(self) -> T:
        """What `read` returns.

        Raises:
            Unavailable: it raised that itself, or has not returned in time.
        """
        if self._running is None or self._running.done():
            self._running = self._begin()
        try:
            return await asyncio.wait_for(asyncio.shield(self._running), self._timeout_s)
        except TimeoutError as exc:
            raise Unavailable(f"NVML has not answered for {self._timeout_s:g} s; the driver may hang") from exc

    def _begin(self) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                value = self._read()
            except Exception as exc:
                _hand_over(loop, _fail, result, exc)
            else:
                _hand_over(loop, result.set_result, value)

        threading.Thread(target=work, name="nvml", daemon=True).start()
        return result


def _hand_over(loop: asyncio.AbstractEventLoop, tell: Callable[..., object], *what: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: the service ended before the call did
        loop.call_soon_threadsafe(tell, *what)


def _fail(result: asyncio.Future[T], exc: Exception) -> None:
    result.set_exception(exc)
    result.exception()  # nobody may be waiting any more
