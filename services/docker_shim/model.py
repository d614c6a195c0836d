"""The words of this service: a request as it was read, what may be answered, and a "no" with its numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from ds01.common.sizes import Asked

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | None"
"""A JSON value after strict parsing."""


class Reason(StrEnum):
    """Why the shim itself said no. A GPU denial carries the allocator's reason instead."""

    PEER = "peer-refused"
    MALFORMED = "malformed"
    TOO_SLOW = "too-slow"
    ROUTE = "route-refused"
    UNKNOWN_ROUTE = "route-unknown"
    FIELD = "field-refused"
    UNKNOWN_FIELD = "field-unknown"
    OVER_LIMIT = "over-limit"
    OVER_CONTAINERS = "over-containers"
    OVER_CONNECTIONS = "over-connections"
    OVER_STREAMS = "over-streams"
    NOT_FOUND = "not-found"
    NOT_YOURS = "not-yours"
    NAME_TAKEN = "name-taken"
    REQUEST_REUSED = "request-reused"
    ENGINE_DOWN = "engine-down"
    ALLOCATOR_DOWN = "allocator-down"
    LIMITS_DOWN = "limits-sync-down"
    NO_POLICY = "no-policy"
    LEASE_SHARED = "lease-shared"
    BROKEN = "shim-broken"


RECORDED = frozenset(
    {
        Reason.PEER,
        Reason.MALFORMED,
        Reason.ROUTE,
        Reason.UNKNOWN_ROUTE,
        Reason.FIELD,
        Reason.UNKNOWN_FIELD,
        Reason.OVER_LIMIT,
        Reason.OVER_CONTAINERS,
        Reason.OVER_CONNECTIONS,
        Reason.OVER_STREAMS,
        Reason.NOT_YOURS,
        Reason.REQUEST_REUSED,
        Reason.LEASE_SHARED,
    }
)
"""Reasons that are an event `access.refused`. The others are somebody's typing error, or our own state."""


@dataclass(frozen=True, slots=True)
class ToEnd:
    """A lease that would have to end before another is granted. `user` and `name` are "" unless it is the caller's.

    `until` (whole seconds of the epoch) is when that is expected; None if nobody knows.
    """

    mine: bool
    user: str
    group: str
    name: str
    units: str
    state: str
    until: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A "no". `message` says what and why with the numbers, `hint` what to do next; `status` is HTTP's."""

    status: int
    reason: str
    message: str
    hint: str = ""
    limit: str = ""
    used: str = ""
    requested: str = ""
    container: str = ""
    container_name: str = ""
    to_end: tuple[ToEnd, ...] = ()

    @property
    def sentence(self) -> str:
        """All of it in one line, for a terminal."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Head:
    """The head of one request, framing understood. `length` is None for a chunked body, 0 for none."""

    method: str
    target: str
    version: str
    length: int | None
    upgrade: str
    expects_continue: bool
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """The value of a header (lower-case name), "" if it is absent."""
        return next((value for key, value in self.headers if key == name), "")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target taken apart: nothing encoded is left in it. `version` is None without the /vX.Y prefix."""

    segments: tuple[str, ...]
    version: tuple[int, int] | None
    query: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """As people read it."""
        return "/" + "/".join(self.segments)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, small, made by us."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


@dataclass(frozen=True, slots=True)
class Relay:
    """A request that we wrote, to be sent to the engine and its answer streamed back.

    `body` is what to send (None with `streams_body`: the client's own, an administrator's). `takes_over`: the
    connection may become a raw stream. `stays_open`: the answer may last, and counts as one of the user's streams.
    `headers` are added to the request, `answer_headers` replace the engine's.
    """

    method: str
    target: str
    body: bytes = b""
    streams_body: bool = False
    takes_over: bool = False
    stays_open: bool = False
    upgrade: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    answer_headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a container is made for. `slice` and `group` are limits_sync's answer to EnsureSlice."""

    uid: int
    user: str
    group: str
    slice: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a create came from: the id that runs from the client to the engine, and the interface it used."""

    request: str
    interface: str
    name: str


@dataclass(frozen=True, slots=True)
class HealthTimes:
    """Intervals of a health check in nanoseconds; 0 = not set there."""

    interval_ns: int = 0
    start_interval_ns: int = 0


@dataclass(frozen=True, slots=True)
class GpuWish:
    """Which GPUs a create asks for, in the allocator's grammar ("" for none), and how long it waits for them."""

    gpus: str = ""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks of a new container, after every field was judged. None = not said.

    `config` holds the fields that pass to the engine as they are; the CPUs come from --cpus or quota/period.
    """

    image: str
    config: Mapping[str, Json]
    labels: Mapping[str, str]
    env: tuple[str, ...]
    health: Mapping[str, Json] | None
    restart: Mapping[str, Json] | None
    console_size: tuple[int, int] | None
    auto_remove: bool
    init: bool | None
    asked: Asked
    memory_reservation_bytes: int | None
    cpu_shares: int | None
    shm_bytes: int | None
    gpus: GpuWish = field(default_factory=GpuWish)

    def with_gpus(self, gpus: GpuWish) -> Wish:
        """The same wish with its GPU part."""
        return replace(self, gpus=gpus)
