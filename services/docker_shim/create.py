"""The way of a create: count, slice, lease, engine; and everything given back when one of them says no.

One create per user at a time, so that two at once can't both find the last free place. A create that waits for GPUs
does so before it is one of these: what can be refused is refused first, and everything is looked at again afterwards,
with the limits of that moment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import weakref
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from ds01.common.engine import Response
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.limits import Limits, Policies
from ds01.common.model import EngineFacts
from ds01.docker_shim.admin_create import build_admin, parse_admin_wish
from ds01.docker_shim.clients import AllocatorClient, Grant, LimitsClient
from ds01.docker_shim.engine_state import EngineState
from ds01.docker_shim.guard import vet
from ds01.docker_shim.lists import owner_label
from ds01.docker_shim.model import Answer, GpuWish, HealthTimes, Json, Origin, Owner, Reason, Refused
from ds01.docker_shim.ownership import EngineCalls
from ds01.docker_shim.rewrite import Built, backstop, bound, build
from ds01.docker_shim.streams import Seat
from ds01.docker_shim.strictjson import dump, parse_object
from ds01.docker_shim.wish import parse_name, parse_wish, valid_image

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Client:
    """Who creates, with the limits of that user."""

    uid: int
    user: str
    is_admin: bool
    limits: Limits
    policies: Policies


@dataclass(frozen=True, slots=True)
class Incoming:
    """A create as it came in; its body is judged each time that it is drafted."""

    query: Mapping[str, str]
    untrusted_body: bytes
    request: str
    interface: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A create that may go on: what it needs, and how its body is made once that is there."""

    image: str
    gpus: GpuWish
    finish: Callable[[Owner, str, HealthTimes | None], Built]
    vet: Callable[[Mapping[str, Json]], str]
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Existing:
    """One of the user's own containers."""

    id: str
    name: str
    state: str
    request: str


class Creator:
    """Creates containers. `slow` waits for the engine as long as a create may take."""

    def __init__(
        self,
        engine: EngineCalls,
        slow: EngineCalls,
        state: EngineState,
        allocator: AllocatorClient,
        limits: LimitsClient,
    ) -> None:
        self._engine = engine
        self._slow = slow
        self._state = state
        self._allocator = allocator
        self._limits = limits
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()

    async def create(self, who: Callable[[], Client], incoming: Incoming, seat: Seat) -> Answer | Refused:
        """The engine's answer to the create that we wrote, with our warnings; or a refusal.

        `who` says the client's limits of now. Raises `ClientGone` if the client does not wait as long as it should.
        """
        name = parse_name(incoming.query.get("name", ""))
        if isinstance(name, Refused):
            return name
        origin = Origin(incoming.request, incoming.interface, name)
        client = who()
        draft = await self._draft(client, incoming, origin)
        if isinstance(draft, Refused):
            return draft
        waited = Grant("")
        if draft.gpus.wait_s:
            turn = await self._turn(client, draft, origin, seat)
            if not isinstance(turn, Grant):
                return turn
            waited = turn
        lock = self._locks.setdefault(client.uid, asyncio.Lock())
        async with lock, AsyncExitStack() as undo:
            if waited.lease:
                undo.push_async_callback(self._give_back, waited, "the container was not created after the wait")
                seat.require()
                client = who()
                draft = await self._draft(client, incoming, origin)
                if isinstance(draft, Refused):
                    return draft
            return await self._create(client, draft, origin, waited, undo)

    async def _draft(self, client: Client, incoming: Incoming, origin: Origin) -> Draft | Refused:
        return draft_of(client, await self._state.facts(), incoming.query, incoming.untrusted_body, origin)

    async def _turn(self, client: Client, draft: Draft, origin: Origin, seat: Seat) -> Grant | Answer | Refused:
        """A lease, when it is its turn; what can be refused is refused before the wait."""
        own = await self._own(client.uid)
        early = _replayed(own, origin.request, origin.name) or _refused_by_own(own, origin.name, client)
        if early is None and await self._is_taken(origin.name):
            early = _name_taken(origin.name)
        if early is not None:
            return early
        image = await self._image(draft.image)
        if isinstance(image, Answer):
            return image
        gpus = draft.gpus
        return await seat.wait(
            lambda: self._allocator.lease(origin.request, client.uid, origin.name, gpus.gpus, gpus.wait_s)
        )

    async def _create(
        self, client: Client, draft: Draft, origin: Origin, waited: Grant, undo: AsyncExitStack
    ) -> Answer | Refused:
        """The engine's answer; what is in `undo` is kept only if there is a container now."""
        own = await self._own(client.uid)
        known = _replayed(own, origin.request, origin.name)
        if known is not None:
            undo.pop_all()  # the lease is that container's
            return known
        refused = _refused_by_own(own, origin.name, client)
        if refused is not None:
            return refused
        image = await self._image(draft.image)
        if isinstance(image, Answer):
            return image
        owner = await self._limits.ensure_slice(client.uid, client.user)
        if isinstance(owner, Refused):
            return owner
        grant = Grant("")
        if draft.gpus.gpus:
            # The same request has the same answer, so this makes sure of a lease that was waited for.
            leased = await self._allocator.lease(origin.request, client.uid, origin.name, draft.gpus.gpus)
            if isinstance(leased, Refused):
                return leased
            if leased.lease != waited.lease:
                undo.push_async_callback(self._give_back, leased, "the container could not be created")
            grant = Grant(leased.lease, tuple(dict.fromkeys((*waited.warnings, *leased.warnings))))
        answer = await self._send(draft, draft.finish(owner, grant.lease, image), grant, origin.name)
        if not isinstance(answer, Refused) and answer.status < 400:
            undo.pop_all()
        return answer

    async def _send(self, draft: Draft, built: Built, grant: Grant, name: str) -> Answer | Refused:
        wrong = draft.vet(built.body)
        if wrong:
            _logger.error("a create body of ours did not pass the guard: %s", wrong)
            return Refused(500, Reason.BROKEN, "the container was not created: DS01 does not trust its own request")
        response = await self._slow.request("POST", "/containers/create", draft.query, built.body)
        if response.status == 409:
            return _name_taken(name)
        if response.status != 201:
            return passed_on(response)
        return created(response, (*built.warnings, *grant.warnings))

    async def _give_back(self, grant: Grant, reason: str) -> None:
        try:
            await self._allocator.release(grant.lease, reason)
        except Unavailable as exc:
            _logger.debug("lease %s is left to the allocator's own clock: %s", grant.lease, exc)

    async def _is_taken(self, name: str) -> bool:
        """Whether anybody's container has the name; the engine's filter is an expression and only narrows it down."""
        if not name:
            return False
        query = {"all": "1", "filters": json.dumps({"name": [f"^/{re.escape(name)}$"]})}
        response = await self._engine.request("GET", "/containers/json", query)
        if response.status != 200:
            raise EngineRefused(response.status, response.message())
        return any(f"/{name}" in (item.get("Names") or []) for item in response.json())

    async def _own(self, uid: int) -> list[Existing]:
        query = {"all": "1", "filters": json.dumps({"label": [owner_label(uid)]})}
        response = await self._engine.request("GET", "/containers/json", query)
        if response.status != 200:
            raise EngineRefused(response.status, response.message())
        return [_existing(item) for item in response.json()]

    async def _image(self, reference: str) -> HealthTimes | Answer | None:
        """The times of the image's own health check; the engine's answer if there is no such image."""
        response = await self._engine.request("GET", f"/images/{reference}/json")
        if response.status != 200:
            return passed_on(response)
        health = (response.json().get("Config") or {}).get("Healthcheck")
        if not health:
            return None
        return HealthTimes(int(health.get("Interval") or 0), int(health.get("StartInterval") or 0))


def draft_of(
    client: Client, facts: EngineFacts, query: Mapping[str, str], untrusted_body: bytes, origin: Origin
) -> Draft | Refused:
    """What a create body asks for, judged and bounded by the limits and by what the engine has."""
    untrusted = parse_object(untrusted_body)
    if isinstance(untrusted, Refused):
        return untrusted
    sent = {key: value for key, value in (("name", origin.name), ("platform", query.get("platform", ""))) if value}
    if client.is_admin:
        return _admin_draft(client, untrusted, origin, sent)
    wish = parse_wish(untrusted)
    if isinstance(wish, Refused):
        return wish
    sizes = bound(wish, client.limits, facts.cpus)
    if isinstance(sizes, Refused):
        return sizes
    last_resort = backstop(client.limits, client.policies)
    return Draft(
        wish.image,
        wish.gpus,
        lambda owner, lease, image: build(wish, sizes, owner, origin, lease, last_resort, facts, image),
        lambda body: vet(body, client.uid, client.limits, facts.cpus),
        sent,
    )


def created(response: Response, warnings: tuple[str, ...]) -> Answer:
    """The engine's 201 with our warnings added, which the docker CLI prints."""
    raw = response.json()
    said = [str(item) for item in raw.get("Warnings") or []]
    return Answer(201, dump({"Id": str(raw["Id"]), "Warnings": [*said, *warnings]}))


def passed_on(response: Response) -> Answer:
    """The engine's own small answer."""
    kind = response.headers.get("content-type", "application/json")
    return Answer(response.status, response.body, (("Content-Type", kind),))


def _admin_draft(
    client: Client, untrusted: Mapping[str, Json], origin: Origin, sent: Mapping[str, str]
) -> Draft | Refused:
    wish = parse_admin_wish(untrusted)
    if isinstance(wish, Refused):
        return wish
    image = wish.config.get("Image")
    if not isinstance(image, str) or not valid_image(image):
        return Refused(400, Reason.MALFORMED, "invalid reference format: 'Image' is not an image")
    return Draft(
        image,
        wish.gpus,
        lambda owner, lease, times: build_admin(wish, owner, origin, lease),
        lambda body: "",
        sent,
    )


def _existing(item: Mapping[str, Any]) -> Existing:
    names = item.get("Names") or [""]
    labels = item.get("Labels") or {}
    name = str(names[0]).removeprefix("/")
    return Existing(str(item["Id"]), name, str(item.get("State", "")), str(labels.get("ds01.request", "")))


def _replayed(own: list[Existing], request: str, name: str) -> Answer | Refused | None:
    """The same request again, after an answer that was lost: one container, one lease."""
    known = next((item for item in own if item.request == request), None)
    if known is None:
        return None
    if name in ("", known.name):
        return Answer(201, dump({"Id": known.id, "Warnings": []}))
    return Refused(
        409,
        Reason.REQUEST_REUSED,
        f"the request id '{request}' made the container '{known.name}' already",
        "use a new id for another container",
        container=known.id,
        container_name=known.name,
    )


def _refused_by_own(own: list[Existing], name: str, client: Client) -> Refused | None:
    same = next((item for item in own if name and item.name == name), None)
    if same is not None:
        return Refused(
            409,
            Reason.NAME_TAKEN,
            f"you have a container '{name}' already ({same.state})",
            f"'docker start {name}' starts it, 'docker rm -f {name}' removes it",
            container=same.id,
            container_name=name,
        )
    limit = client.limits.max_containers
    if client.is_admin or limit is None or len(own) < limit:
        return None
    return Refused(
        403,
        Reason.OVER_CONTAINERS,
        f"you have {len(own)} containers, stopped ones included, and your limit is {limit}",
        "'docker ps -a' lists them; remove one with 'docker rm NAME'",
        limit=str(limit),
        used=str(len(own)),
        requested="1",
        container_name=name,
    )


def _name_taken(name: str) -> Refused:
    """The engine's own text would name the other container's id."""
    return Refused(
        409,
        Reason.NAME_TAKEN,
        f"the name '{name}' is taken on this machine",
        "names are shared by all users: choose another one",
        container_name=name,
    )
