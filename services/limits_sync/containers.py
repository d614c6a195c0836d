"""Lets containers follow the limits, through the engine; and tells when the kernel killed in one of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from ds01.common.engine import Response
from ds01.common.errors import Ds01Error, EngineRefused, Unavailable
from ds01.common.events import Event, EventLog
from ds01.common.limits import Limits
from ds01.common.model import EngineFacts
from ds01.common.rates import Rates
from ds01.limits_sync import telling
from ds01.limits_sync.pendings import Pendings, Waiting
from ds01.limits_sync.shrink import decide
from ds01.limits_sync.sizing import Sized, parse_sized, sizes_text, target, update_body, without_memory

AT_ONCE = 8
RETRY_S, RETRY_MOST_S = 0.5, 10.0
FRESH_S = 60.0
"""How long after a change of the policy a new container may still have been made under the old one."""

_logger = logging.getLogger(__name__)


class EngineCalls(Protocol):
    """The engine."""

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Response: ...
    async def facts(self) -> EngineFacts: ...
    def events(self, since: float) -> AsyncIterator[dict[str, Any]]: ...


class Kernel(Protocol):
    """The cgroup hierarchy."""

    def used_bytes(self, path: str) -> int | None: ...


class Containers:
    """`limits_of` gives a uid's name, group and limits by the policy of now, None for an account that is gone."""

    def __init__(
        self,
        engine: EngineCalls,
        kernel: Kernel,
        pendings: Pendings,
        log: EventLog,
        limits_of: Callable[[int], tuple[str, str, Limits] | None],
        missing_links: Callable[[], list[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.grace_s = 0.0
        self._engine = engine
        self._kernel = kernel
        self._pendings = pendings
        self._log = log
        self._limits_of = limits_of
        self._missing_links = missing_links
        self._clock = clock
        self._changed_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()
        self._deferred: dict[str, str] = {}
        self._oom_rates = Rates(0.1, 3)

    def policy_changed(self) -> None:
        """From now on containers that appear are looked at for a while."""
        self._changed_at = self._clock()

    async def follow(self) -> None:
        """For ever: bring all containers to their limits when the engine is there, and hear what it says."""
        pause_s = RETRY_S
        while True:
            since = self._clock()
            try:
                await self.refresh_all()
                pause_s = RETRY_S
                async for event in self._engine.events(since):
                    await self._heard(event)
            except Ds01Error as exc:
                _logger.debug("the engine is not there: %s", exc)
                pause_s = min(pause_s * 2, RETRY_MOST_S)
            await asyncio.sleep(pause_s)

    async def refresh_all(self) -> int:
        """Bring every container to its limits; how many were changed. Raises `Unavailable`, `EngineRefused`."""
        async with self._one_at_a_time:
            facts = await self._engine.facts()
            query = {"all": "1", "filters": json.dumps({"label": ["ds01.managed=1"]})}
            listed = _successful(await self._engine.request("GET", "/containers/json", query)).json()
            slots = asyncio.Semaphore(AT_ONCE)
            ids = [str(item["Id"]) for item in listed]
            changed = await asyncio.gather(*(self._refresh(id_, facts, slots) for id_ in ids))
            known = set(ids)
            for name in self._pendings.names:
                if not name.endswith((".slice", ".service")) and name not in known:
                    self._pendings.put(name, None)
            return sum(changed)

    async def has_any(self, uid: int, group: str) -> bool:
        """Whether `uid` has a container, in any state, in the slice of `group`. Raises `Unavailable`."""
        labels = [f"ds01.uid={uid}", f"ds01.group={group}", "ds01.managed=1"]
        query = {"all": "1", "filters": json.dumps({"label": labels})}
        return bool(_successful(await self._engine.request("GET", "/containers/json", query)).json())

    async def _refresh(self, id_: str, facts: EngineFacts, slots: asyncio.Semaphore) -> bool:
        async with slots:
            try:
                container = await self._inspect(id_)
                whose = self._limits_of(container.uid) if container is not None else None
                if container is None or whose is None:
                    return False
                return await self._settle(container, *whose, facts)
            except (Unavailable, EngineRefused) as exc:
                # One that hangs is not the engine: the others follow, and this one with the next pass.
                _logger.debug("container %s is left as it is: %s", id_[:12], exc)
                return False

    async def _inspect(self, id_: str) -> Sized | None:
        response = await self._engine.request("GET", f"/containers/{id_}/json")
        if response.status == 404:
            return None
        try:
            return parse_sized(_successful(response).json())
        except (KeyError, TypeError, ValueError) as exc:
            raise Unavailable(f"the engine's answer for container {id_[:12]} can't be read") from exc

    async def _settle(self, container: Sized, user: str, group: str, limits: Limits, facts: EngineFacts) -> bool:
        now, wanted = container.sizes, target(container, limits, facts)
        used = self._kernel.used_bytes(container.cgroup) if container.running and container.cgroup else None
        left = decide(
            wanted.memory_bytes,
            now.memory_bytes or 2**63,
            used,
            self._pendings.of(container.id),
            self._clock(),
            self.grace_s,
        )
        what = f"container '{container.name}'"
        waiting = None if left is None else Waiting(left, container.uid, user, what)
        if self._pendings.put(container.id, waiting) and left is not None:
            self._log.emit(
                telling.shrinking_of(
                    what, user, container.uid, group, left, used or 0, container.id, container.name
                )
            )  # fmt: skip
        if left is not None:
            wanted = without_memory(wanted, now)
        body = update_body(container, wanted)
        if not body:
            self._deferred.pop(container.id, None)
            return False
        whose = {
            "user": user, "uid": container.uid, "group": group, "container": container.id,
            "container_name": container.name,
        }  # fmt: skip
        before, after = sizes_text(now, body), sizes_text(wanted, body)
        why = await self._update(container, body)
        if why:
            self._defer(container, whose, after, why)
            return False
        self._deferred.pop(container.id, None)
        text = f"Container '{container.name}' of {user}: {after}; before: {before}"
        self._log.emit(Event("limits.applied", text, old=before, new=after, **whose))  # type: ignore[arg-type]
        return True

    async def _update(self, container: Sized, body: Mapping[str, int]) -> str:
        """Change it; why that could not be, or ''."""
        if container.has_gpu and container.running:
            missing = self._missing_links()
            if missing:
                return (
                    f"it has a GPU, and would lose it: {', '.join(missing[:3])} has no link in /dev/char;"
                    " run 'nvidia-ctk system create-dev-char-symlinks --create-all'"
                )
        response = await self._engine.request("POST", f"/containers/{container.id}/update", body=body)
        return response.message() if response.status >= 400 else ""

    def _defer(self, container: Sized, whose: Mapping[str, Any], after: str, why: str) -> None:
        if self._deferred.get(container.id) == why:
            return
        self._deferred[container.id] = why
        text = f"Container '{container.name}' of {whose['user']} keeps its limits and does not get {after}: {why}"
        self._log.emit(Event("limits.failed", text, reason=why, new=after, **whose))

    async def _heard(self, event: Mapping[str, Any]) -> None:
        actor = event.get("Actor") or {}
        labels = actor.get("Attributes") or {}
        if event.get("Action") == "oom":
            self._oom(str(actor.get("ID", "")), labels)
        elif event.get("Action") in ("create", "start") and self._clock() - self._changed_at < FRESH_S:
            facts = await self._engine.facts()
            await self._refresh(str(actor.get("ID", "")), facts, asyncio.Semaphore(1))

    def _oom(self, id_: str, labels: Mapping[str, str]) -> None:
        uid, name = str(labels.get("ds01.uid", "")), str(labels.get("name", ""))
        if not uid.isdecimal() or not self._oom_rates.allows(int(uid), asyncio.get_running_loop().time()):
            return
        whose = self._limits_of(int(uid))
        user, group = (whose[0], whose[1]) if whose else (str(labels.get("ds01.user", "")), "")
        text = f"Container '{name}' of {user} was out of memory and the kernel killed a process in it"
        limit = ""
        if whose is not None:
            limit = telling.memory_limits(whose[2])
            text += f"; {limit}: 'ds01 policy show' tells {user} the limits"
        self._log.emit(
            Event(
                "container.oom-killed", text, user=user, uid=int(uid), group=group, container=id_, container_name=name,
                limit=limit,
            )
        )  # fmt: skip


def _successful(response: Response) -> Response:
    if response.status >= 400:
        raise EngineRefused(response.status, response.message())
    return response
