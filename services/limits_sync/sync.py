"""The loop of limits_sync: a change of the policy's files becomes limits that hold, a change by hand is put back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from ds01.common.daemon import Notify, supervise
from ds01.common.errors import Ds01Error, EngineRefused, Unavailable
from ds01.common.events import Event, EventLog
from ds01.common.limits import parse_policy
from ds01.common.policy.build import Built
from ds01.common.policy.folder import FOLDER
from ds01.common.policy.tree import Problem
from ds01.limits_sync import telling
from ds01.limits_sync.containers import Containers
from ds01.limits_sync.keeper import Keeper
from ds01.limits_sync.pendings import Pendings
from ds01.limits_sync.places import Hint, Places
from ds01.limits_sync.publish import Publisher
from ds01.limits_sync.units import Units

QUIET_S, MOST_S = 0.04, 0.15
"""A burst of changes counts as one, once it has been quiet for so long, or has lasted so long."""

HAND_S = 0.3
RETRY_S = 5.0
CALM_S = 60.0
FOLDER_PREFIX = f"{FOLDER}/"
PENDING_S = 5.0
"""How often memory in use is compared with a limit that waits for it to go down."""

_logger = logging.getLogger(__name__)


class Sessions(Protocol):
    """systemd's list of units."""

    async def active(self, patterns: Iterable[str]) -> list[str]: ...


class Watch(Protocol):
    """What tells of changed folders."""

    def watch(self, folders: Iterable[str]) -> None: ...


class Sync:
    """`build` reads and compiles the policy's files, `fallback` is what holds without any."""

    def __init__(
        self,
        build: Callable[[], Built],
        fallback: Callable[[], Built],
        publisher: Publisher,
        units: Units,
        keeper: Keeper,
        containers: Containers,
        pendings: Pendings,
        sessions: Sessions,
        places: Places,
        notify: Notify,
        log: EventLog,
    ) -> None:
        self._build = build
        self._fallback = fallback
        self._publisher = publisher
        self._units = units
        self._keeper = keeper
        self._containers = containers
        self._pendings = pendings
        self._sessions = sessions
        self._places = places
        self._notify = notify
        self._log = log
        self._watch: Watch | None = None
        self._text = ""
        self._rejected: tuple[Problem, ...] = ()
        self._state = ""
        self._retrying: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._hands: set[str] = set()
        self._timers: dict[str, tuple[asyncio.TimerHandle, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- told from outside ------------------------------------------------------------------------------------------

    def changed(self, folder: str, name: str) -> None:
        """An entry of a watched folder came, went or was written."""
        hint = self._places.hint(folder, name)
        if hint is not None:
            self._take(hint)

    def reloaded(self) -> None:
        """systemd has read its files anew, or its signals may have been missed: anything may be otherwise."""
        self._take(Hint(unit="", folders=True))

    def logged_in(self, uid: int) -> None:
        """Somebody has logged in."""
        self._spawn(lambda: self._keeper.logged_in(uid))

    async def start(self, watch: Watch) -> str:
        """The first pass, of which nothing may go wrong unsaid; the status line."""
        self._watch = watch
        former = self._publisher.former()
        if former is not None:
            self._text, self._keeper.policy = former
        self._rewatch()
        await self.run_pass()
        return self._state

    def close(self) -> None:
        """Begin nothing new; what waits is dropped. To be called before the watch is closed."""
        self._watch = None
        for timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()

    async def reload(self) -> None:
        """A pass on request, with a look at every unit."""
        await self.run_pass()
        await self._verify({""})

    async def run_pass(self) -> None:
        """Read, publish, apply. A file that can't be used changes nothing."""
        async with self._one_at_a_time:
            self._read()
            await self._apply()
        self._rewatch()

    # --- the policy -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        built = self._build()
        if built.problems:
            self._reject(built.problems)
            if self._keeper.policy is None:
                self._accept(self._fallback())
            return
        self._rejected = ()
        self._accept(built)
        at = time.strftime("%H:%M:%S")
        self._state = f"the policy read at {at} holds: {telling.counted(built.compiled or {})}"

    def _accept(self, built: Built) -> None:
        text = built.text
        if text != self._text or self._keeper.policy is None:
            self._keeper.policy = parse_policy(text)
            old, self._text = self._text, text
            self._containers.policy_changed()
            former = json.loads(old) if old else None
            self._log.emit(telling.published(former, built.compiled or {}, (_digest(old), _digest(text))))
        try:
            self._publisher.publish(text)
        except OSError as exc:
            self._defer("published", f"the policy could not be published: {exc}")

    def _reject(self, problems: tuple[Problem, ...]) -> None:
        kept = "the last good one holds" if self._keeper.policy is not None else "the strict built-in one holds"
        at, first = time.strftime("%H:%M:%S"), problems[0]
        more = f" and {_problems(len(problems) - 1)} more" if len(problems) > 1 else ""
        self._state = f"REJECTED at {at}: {str(first).removeprefix(FOLDER_PREFIX)}{more}; {kept}"
        if problems != self._rejected:
            self._log.emit(telling.rejected(problems, kept))
        self._rejected = problems

    async def _apply(self) -> None:
        problems: list[str] = []
        try:
            active = await self._sessions.active(["user-*.slice"])
            await self._keeper.look_everybody_up(_uids(active))
        except Unavailable as exc:
            problems.append(str(exc))
        self._keeper.plan()
        self._containers.grace_s = self._units.grace_s
        _, failed = await self._units.refresh_all()
        problems += failed
        if not self._rejected:
            self._later("keep", 0.0, self._keep)
        self._later("containers", 0.0, self._refresh_containers)
        self._after(problems)

    async def _keep(self) -> None:
        try:
            async with self._keeping:
                await asyncio.to_thread(self._publisher.keep, self._text)
        except OSError as exc:
            self._defer("policy", f"the policy could not be kept for the next boot: {exc}")

    async def _refresh_containers(self) -> None:
        try:
            await self._containers.refresh_all()
        except (Unavailable, EngineRefused) as exc:
            _logger.debug("containers follow when the engine is there: %s", exc)
        self._after([])

    def _after(self, problems: list[str]) -> None:
        for problem in problems[:1]:
            self._defer("units", f"not every limit could be set, and it is tried again: {problem}")
            self._later("retry", RETRY_S, self._retry)
        if not problems:
            self._retrying.discard("units")
        until = self._pendings.until
        if until is not None:
            self._later("pending", min(PENDING_S, max(0.05, until - time.time())), self._settle_pendings)
        waiting = len(self._pendings.names)
        more = f"; {waiting} lowered memory limits wait for their grace" if waiting else ""
        count = self._keeper.count
        self._notify.status(f"{self._state}; {count} user{' has a slice' if count == 1 else 's have slices'}{more}")

    async def _retry(self) -> None:
        async with self._one_at_a_time:
            await self._apply()

    def _defer(self, what: str, text: str) -> None:
        if what not in self._retrying:
            self._retrying.add(what)
            self._log.emit(Event("limits.failed", text[0].upper() + text[1:], reason=text))

    async def _settle_pendings(self) -> None:
        names = self._pendings.names
        for name in names:
            if name.endswith((".slice", ".service")):
                await self._units.refresh(name)
        if any(not name.endswith((".slice", ".service")) for name in names):
            await self._refresh_containers()
        self._after([])

    # --- changes by hand --------------------------------------------------------------------------------------------

    def _take(self, hint: Hint) -> None:
        if hint.folders:
            self._later("folders", QUIET_S, self._rewatch_soon, MOST_S)
        if hint.policy:
            self._later("policy", QUIET_S, self.run_pass, MOST_S)
        if hint.unit is not None and (not hint.unit or hint.unit in self._units.wanted):
            self._hands.add(hint.unit)
            self._later("hands", HAND_S, self._look_at_hands, 3 * HAND_S)

    async def _look_at_hands(self) -> None:
        hands, self._hands = self._hands, set()
        await self._verify(hands)  # beside a pass, which must not wait for it: each unit has a lock of its own

    async def _verify(self, names: set[str]) -> None:
        await self._units.restore()
        looked_at = list(self._units.wanted) if "" in names else sorted(names)
        again = await asyncio.gather(*(self._units.verify(name) for name in looked_at))
        if any(again):
            self._hands |= {name for name, later in zip(looked_at, again, strict=True) if later}
            self._later("calm", CALM_S, self._look_at_hands)

    async def _rewatch_soon(self) -> None:
        self._rewatch()

    def _rewatch(self) -> None:
        if self._watch is not None:
            self._watch.watch(self._places.folders(self._units.wanted))

    # --- time -------------------------------------------------------------------------------------------------------

    def _later(self, name: str, delay_s: float, work: Callable[[], Awaitable[None]], most_s: float = 0.0) -> None:
        """Do `work` after `delay_s`; asked again meanwhile, it is put off, by `most_s` in all at most."""
        loop = asyncio.get_running_loop()
        known = self._timers.pop(name, None)
        first = known[1] if known is not None else loop.time()
        if known is not None:
            known[0].cancel()
        at = loop.time() + delay_s
        if most_s:
            at = min(at, first + most_s)

        def due() -> None:
            self._timers.pop(name, None)
            self._spawn(work)

        self._timers[name] = (loop.call_at(at, due), first)

    def _spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        task = supervise(asyncio.create_task(_told(work), name="limits"))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _told(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Ds01Error as exc:
        _logger.warning("%s", exc)


def _uids(slices: Iterable[str]) -> list[int]:
    numbers = (name.removeprefix("user-").removesuffix(".slice") for name in slices)
    return [int(number) for number in numbers if number.isdecimal()]


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count} problems"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""
