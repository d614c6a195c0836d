"""Whose container is it? Every reference is resolved by the engine to one full id, and only that id goes on.

A container that is not the caller's looks exactly like one that does not exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from ds01.common.engine import Response
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.model import ContainerFacts
from ds01.common.peer import Peer
from ds01.docker_shim.lists import owner_label
from ds01.docker_shim.model import Reason, Refused

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_ID_PREFIX = re.compile(r"[0-9a-f]{1,64}")
_EXEC_ID = re.compile(r"[0-9a-f]{1,64}")


class EngineCalls(Protocol):
    """What is asked of the engine."""

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Response: ...

    async def inspect(self, reference: str) -> ContainerFacts | None: ...


async def resolve(engine: EngineCalls, reference: str, peer: Peer) -> ContainerFacts | Refused:
    """The caller's container that `reference` (name, id, prefix of an id) means; administrators' are all."""
    facts = await _inspect(engine, reference)
    if facts is not None and (peer.is_admin or facts.owner_uid == peer.uid):
        return facts
    own = await _own_by_prefix(engine, reference, peer.uid)
    if own is not None:
        return own
    refused = no_such_container(reference)
    return refused if facts is None else replace(refused, reason=Reason.NOT_YOURS, container=facts.id)


async def resolve_exec(engine: EngineCalls, identity: str, peer: Peer) -> ContainerFacts | Refused:
    """The caller's container in which the exec instance `identity` runs."""
    missing = Refused(404, Reason.NOT_FOUND, f"No such exec instance: {identity[:80]}")
    if not _EXEC_ID.fullmatch(identity):
        return missing
    response = await engine.request("GET", f"/exec/{identity}/json")
    if response.status != 200:
        return missing
    found = response.json().get("ContainerID")
    if not isinstance(found, str) or not _ID_PREFIX.fullmatch(found):
        raise Unavailable("the engine's answer names no container")
    owner = await resolve(engine, found, peer)
    return replace(missing, reason=Reason.NOT_YOURS, container=found) if isinstance(owner, Refused) else owner


def no_such_container(reference: str) -> Refused:
    """In the engine's own words, whoever's it may be."""
    return Refused(404, Reason.NOT_FOUND, f"No such container: {reference[:80]}", "'docker ps -a' lists yours")


async def _inspect(engine: EngineCalls, reference: str) -> ContainerFacts | None:
    if not _REFERENCE.fullmatch(reference):
        return None
    try:
        return await engine.inspect(reference)
    except EngineRefused as exc:
        if exc.status < 500:
            return None  # an ambiguous prefix: whose the others are is nobody's business
        raise Unavailable(str(exc)) from exc


async def _own_by_prefix(engine: EngineCalls, reference: str, uid: int) -> ContainerFacts | None:
    """Somebody else's container may have a name like the beginning of one's own id, or share it."""
    if not _ID_PREFIX.fullmatch(reference):
        return None
    query = {"all": "1", "filters": json.dumps({"label": [owner_label(uid)]})}
    response = await engine.request("GET", "/containers/json", query)
    if response.status != 200:
        return None
    ids = [str(item["Id"]) for item in response.json() if str(item["Id"]).startswith(reference)]
    return await engine.inspect(ids[0]) if len(ids) == 1 else None
