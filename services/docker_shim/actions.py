"""What is done with a request that the guard let pass: an answer of ours, a relay to stream, or a refusal."""

from __future__ import annotations

import functools
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ds01.common.engine import Response
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.limits import Policy
from ds01.common.model import API_VERSION, ContainerFacts
from ds01.common.peer import Peer
from ds01.docker_shim.clients import AllocatorClient, LimitsClient
from ds01.docker_shim.create import Client, Creator, Incoming, passed_on
from ds01.docker_shim.engine_state import EngineState
from ds01.docker_shim.fields import EXEC_CREATE, EXEC_START, Field, judge
from ds01.docker_shim.guard import WITH_BODY, Passed
from ds01.docker_shim.lists import REFERENCES, narrow
from ds01.docker_shim.model import Answer, Head, Reason, Refused, Relay
from ds01.docker_shim.ownership import EngineCalls, no_such_container, resolve, resolve_exec
from ds01.docker_shim.routes import Action, Match, filled
from ds01.docker_shim.streams import Seat
from ds01.docker_shim.strictjson import dump, parse_object
from ds01.docker_shim.target import engine_target
from ds01.docker_shim.waitlabel import WAIT_LABEL, kept_wait_s

REQUEST_HEADER = "x-ds01-request"
INTERFACE_HEADER = "x-ds01-interface"
INTERFACES = ("orchestration", "atomic", "docker")

MAX_EXEC_BODY = 64 * 1024
"""The engine keeps what an exec was made with until its container ends."""

PING_HEADERS = (("Builder-Version", "1"), ("Api-Version", API_VERSION))
"""Builder 1 makes clients choose the classic builder by themselves."""

STREAMED_BODY = frozenset(
    {Action.FORWARD, Action.STREAM, Action.LIST, Action.TAKE_OVER, Action.EXEC_CREATE, Action.EXEC_START}
)
"""Actions whose body goes through unread when an administrator asks."""

STAYS_OPEN = frozenset({Action.STREAM, Action.TAKE_OVER, Action.EXEC_START})
"""Actions whose answer lasts as long as a container, or a client, likes."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}")
_HOP_BY_HOP = frozenset(
    [
        "host",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "expect",
        "x-ds01-request",
        "x-ds01-interface",
    ]
)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Doors:
    """Everything the actions reach: the engine (quick and patient), what is known of it, and our services."""

    engine: EngineCalls
    slow: EngineCalls
    state: EngineState
    allocator: AllocatorClient
    limits: LimitsClient
    policy: Callable[[], Policy]


def request_id(head: Head) -> str:
    """The client's own id of the request, or a fresh one."""
    said = head.header(REQUEST_HEADER)
    return said if _REQUEST_ID.fullmatch(said) else str(uuid.uuid4())


class Actions:
    """One method per action."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._creator = Creator(doors.engine, doors.slow, doors.state, doors.allocator, doors.limits)

    async def act(
        self, peer: Peer, head: Head, passed: Passed, body: bytes, request: str, seat: Seat
    ) -> Answer | Relay | Refused:
        """Carry out what is ours, and say what is to be streamed. `seat` is where the client waits for its turn.

        Raises `Unavailable` when the engine is not there.
        """
        try:
            return await self._act(peer, head, passed, body, request, seat)
        except EngineRefused as exc:
            raise Unavailable(str(exc)) from exc

    async def _act(
        self, peer: Peer, head: Head, passed: Passed, body: bytes, request: str, seat: Seat
    ) -> Answer | Relay | Refused:
        if passed.action is Action.PING:
            return _ping(await self._doors.state.ping(head.method))
        await self._doors.state.require()
        if passed.match is None or (peer.is_admin and passed.action in STREAMED_BODY):
            return _as_asked(head, passed)
        if passed.action not in WITH_BODY and parse_object(body) != {}:
            return Refused(400, Reason.MALFORMED, f"'{passed.match.route.path}' takes no body", "send it without one")
        match passed.action:
            case Action.CREATE:
                interface = head.header(INTERFACE_HEADER)
                incoming = Incoming(passed.query, body, request, interface if interface in INTERFACES else "docker")
                return await self._creator.create(lambda: self._client(peer), incoming, seat)
            case Action.LIST:
                return await self._list(peer, passed)
            case Action.START:
                return await self._start(peer, passed, passed.match, seat)
            case Action.REMOVE:
                return await self._remove(peer, passed, passed.match)
            case _:
                return await self._relay(peer, head, passed, passed.match, body)

    def _client(self, peer: Peer) -> Client:
        policy = self._doors.policy()
        return Client(peer.uid, peer.user, peer.is_admin, policy.limits_for(peer.user, peer.groups), policy.policies)

    async def _list(self, peer: Peer, passed: Passed) -> Relay | Refused:
        filters = narrow(passed.query.get("filters", ""), peer.uid)
        if isinstance(filters, Refused):
            return filters
        for key in REFERENCES:
            for index, reference in enumerate(filters.get(key, [])):
                facts = await resolve(self._doors.engine, reference, peer)
                if isinstance(facts, Refused):
                    return facts
                filters[key][index] = facts.id
        query = {**passed.query, "filters": json.dumps(filters)}
        return Relay("GET", engine_target(("containers", "json"), tuple(query.items())))

    async def _start(self, peer: Peer, passed: Passed, match: Match, seat: Seat) -> Answer | Refused:
        """Start, restart or unpause: the slice and the lease's units are there before the engine hears of it."""
        facts = await self._container(peer, match)
        if isinstance(facts, Refused):
            return facts
        if facts.owner_uid is not None:
            refused = await self._made_sure(peer, facts, facts.owner_uid, seat)
            if refused is not None:
                return replace(refused, container=facts.id, container_name=facts.name)
        path = "/" + "/".join(filled(match, id=facts.id))
        return passed_on(await self._doors.slow.request("POST", path, passed.query))

    async def _made_sure(self, peer: Peer, facts: ContainerFacts, owner_uid: int, seat: Seat) -> Refused | None:
        """Slice and units of a container that is to be started. What was so before a wait is looked at again."""
        ensured = await self._doors.limits.ensure_slice(owner_uid, peer.user)
        if isinstance(ensured, Refused) or not facts.lease:
            return ensured if isinstance(ensured, Refused) else None
        wait_s = await self._wait_of(facts)
        if isinstance(wait_s, Refused):
            return wait_s
        renew = functools.partial(self._doors.allocator.renew, facts.lease, owner_uid, wait_s)
        renewed = await seat.wait(renew) if wait_s else await renew()
        if isinstance(renewed, Refused):
            return renewed
        if not wait_s:
            return None
        seat.require()
        ensured = await self._doors.limits.ensure_slice(owner_uid, peer.user)
        again = await self._wait_of(facts)
        return next((one for one in (ensured, again) if isinstance(one, Refused)), None)

    async def _wait_of(self, facts: ContainerFacts) -> float | Refused:
        """How long its label lets it wait. A lease is one container's: should two ever carry one label, neither
        starts, since the end of one would free the unit under the other."""
        query = {"all": "1", "filters": json.dumps({"label": [f"ds01.lease={facts.lease}"]})}
        response = await self._doors.engine.request("GET", "/containers/json", query)
        labels = {str(item["Id"]): item.get("Labels") or {} for item in response.json()}
        others = labels.keys() - {facts.id}
        if others:
            return Refused(
                409,
                Reason.LEASE_SHARED,
                f"'{facts.name}' and {len(others)} other container(s) carry the same GPU lease",
                "remove them and create one anew",
            )
        return kept_wait_s(str(labels.get(facts.id, {}).get(WAIT_LABEL, "")))

    async def _remove(self, peer: Peer, passed: Passed, match: Match) -> Answer | Refused:
        """Remove with its anonymous volumes; its lease has ended before the client hears of it."""
        facts = await self._container(peer, match)
        if isinstance(facts, Refused):
            return facts
        query = dict(passed.query) if peer.is_admin else {**passed.query, "v": "1"}
        response = await self._doors.slow.request("DELETE", f"/containers/{facts.id}", query)
        if facts.lease and response.status < 300:
            try:
                await self._doors.allocator.release(facts.lease, "container removed")
            except Unavailable as exc:
                _logger.debug("lease %s is left to the allocator, who sees the removal: %s", facts.lease, exc)
        return passed_on(response)

    async def _relay(self, peer: Peer, head: Head, passed: Passed, match: Match, body: bytes) -> Relay | Refused:
        """A request of a user that goes to the engine as we write it, with ids that we resolved."""
        resolved: dict[str, str] = {}
        if match.route.path.startswith("/containers/{id}"):
            facts = await self._container(peer, match)
            if isinstance(facts, Refused):
                return facts
            resolved["id"] = facts.id
        elif match.route.path.startswith("/exec/{id}"):
            owner = await resolve_exec(self._doors.engine, match.parameters["id"], peer)
            if isinstance(owner, Refused):
                return owner
        sent = b""
        if passed.action in WITH_BODY:
            if len(body) > MAX_EXEC_BODY:
                return Refused(
                    413, Reason.MALFORMED, f"the body is longer than {MAX_EXEC_BODY} bytes", "send a smaller one"
                )
            judged = _judged_body(EXEC_CREATE if passed.action is Action.EXEC_CREATE else EXEC_START, body)
            if isinstance(judged, Refused):
                return judged
            sent = judged
        return Relay(
            head.method,
            engine_target(filled(match, **resolved), tuple(passed.query.items())),
            body=sent,
            takes_over=passed.action in (Action.TAKE_OVER, Action.EXEC_START),
            stays_open=passed.action in STAYS_OPEN,
            upgrade="tcp" if head.upgrade else "",
        )

    async def _container(self, peer: Peer, match: Match) -> ContainerFacts | Refused:
        reference = match.parameters["id"]
        facts = await resolve(self._doors.engine, reference, peer)
        if peer.is_admin and isinstance(facts, Refused):
            return no_such_container(reference)
        return facts


def _ping(response: Response) -> Answer:
    ours = {name.lower() for name, _ in PING_HEADERS}
    kept = [(name.title(), value) for name, value in response.headers.items() if name not in _HOP_BY_HOP | ours]
    return Answer(response.status, response.body, (*kept, *PING_HEADERS))


def _judged_body(table: Mapping[str, Field], body: bytes) -> bytes | Refused:
    untrusted = parse_object(body)
    if isinstance(untrusted, Refused):
        return untrusted
    judged = judge(table, untrusted, "")
    return judged if isinstance(judged, Refused) else dump(judged)


def _as_asked(head: Head, passed: Passed) -> Relay:
    """An administrator's request, streamed as it is; only the framing and the target are written by us."""
    kept = tuple((name, value) for name, value in head.headers if name not in _HOP_BY_HOP)
    return Relay(
        head.method,
        engine_target(passed.target.segments, passed.target.query),
        streams_body=True,
        takes_over=True,
        upgrade=head.upgrade,
        headers=kept,
    )
