"""Waiting for one's turn in the queue: one call that takes long, and what can be told meanwhile.

Knows nothing of what is called: a container's create through Docker and a call of the allocator wait alike. No threads.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from ds01.cli.allocator_api import Pending
from ds01.cli.exits import CommandError, Exit

MOST_S = 604800.0
"""How long one can wait at most, which is as good as without end."""

T = TypeVar("T", covariant=True)


class Slow(Protocol[T]):
    """A call that was sent. `answer` raises OSError when the connection is broken."""

    def fileno(self) -> int: ...
    def answer(self) -> T | None: ...
    def close(self) -> None: ...


class Show(Protocol):
    """Where news of the waiting goes."""

    def place(self, waiters: list[dict[str, Any]], request_id: str) -> None: ...
    def trouble(self, sentence: str) -> None: ...


class Times(NamedTuple):
    """Seconds: until the queue is looked at first, and then again; how long a broken call is repeated, and when."""

    first_look: float = 0.3
    look: float = 2.0
    patience: float = 30.0
    retry: float = 0.3
    slowest_retry: float = 2.0
    steady: float = 5.0


USUAL = Times()


def request_id() -> str:
    """A name for a request, by which it is known when it is repeated."""
    import uuid

    return str(uuid.uuid4())


def wait_for(
    send: Callable[[], Slow[T]], request: str, show: Show, at_most_s: float = MOST_S, times: Times = USUAL
) -> T:
    """The answer to what `send` sends, told about meanwhile. A broken connection is opened again: the place is kept.

    Raises:
        OSError: the first connection failed, or it broke and stayed so.
        CommandError: what the answer says; or there was none after `at_most_s` seconds.
    """
    end, pending = time.monotonic() + at_most_s, send()
    give_up_at = None
    while True:
        opened_at = time.monotonic()
        try:
            return _watched(pending, request, show, end, times)
        except OSError as exc:
            now = time.monotonic()
            if give_up_at is None or now - opened_at > times.steady:
                give_up_at = now + times.patience
            show.trouble(f"the connection broke ({exc}); asking again, the place in the queue is kept")
            pending = _again(send, min(give_up_at, end), exc, times)


def _again(send: Callable[[], Slow[T]], give_up_at: float, cause: OSError, times: Times) -> Slow[T]:
    pause_s = times.retry
    while time.monotonic() < give_up_at:
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, times.slowest_retry)
        try:
            return send()
        except OSError as exc:
            cause = exc
    raise cause


def _watched(pending: Slow[T], request: str, show: Show, end: float, times: Times) -> T:
    """The answer, with a look at the queue now and then."""
    look_at, look = time.monotonic() + times.first_look, None
    try:
        while True:
            now = time.monotonic()
            if now > end:
                raise CommandError(Exit.DOWN, "there is no answer, and the time to wait is over", "try again later")
            if look is None and now >= look_at:
                look, look_at = _look(), now + times.look
            files: list[Slow[Any]] = [pending] if look is None else [pending, look]
            pause_s = min(end - now, max(0.0, look_at - now) if look is None else times.look)
            ready = select.select(files, [], [], pause_s)[0]
            if pending in ready and (answer := pending.answer()) is not None:
                return answer
            if look is not None and look in ready:
                look = _told(look, request, show)
    finally:
        pending.close()
        if look is not None:
            look.close()


def _look() -> Pending | None:
    """A question for the queue; news can be missed, so nothing is made of it when nobody takes it."""
    with suppress(OSError):
        return Pending("Queue", {})
    return None


def _told(look: Pending, request: str, show: Show) -> Pending | None:
    """Tell the news if they are whole; the question if they are not."""
    try:
        answer = look.answer()
    except (OSError, CommandError):
        answer = {}
    if answer is None:
        return look
    look.close()
    if answer:
        show.place(list(answer["waiters"]), request)
    return None
