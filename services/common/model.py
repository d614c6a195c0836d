"""The words everybody shares: units of GPU, leases and their states. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from ds01.common.events import Event

API_VERSION = "1.45"
"""The newest Engine API of Docker 26. Every request of ours names it, whatever the client spoke."""

FULL = "full"
"""The profile of a whole GPU."""

COMPUTE_SLICES_PER_GPU = 7
"""NVIDIA MIG user guide: an A100, A30-class or H100 GPU has seven compute slices at most."""


@dataclass(frozen=True, slots=True, order=True)
class UnitKey:
    """What a unit is keyed by: UUIDs of MIG instances change when they are made again, the placement does not.

    `placement` is "" for a whole GPU, else "START+SIZE" in memory slices.
    """

    gpu_uuid: str
    placement: str = ""

    def __str__(self) -> str:
        return f"{self.gpu_uuid}@{self.placement}" if self.placement else self.gpu_uuid

    @classmethod
    def parse(cls, text: str) -> UnitKey:
        gpu, _, placement = text.partition("@")
        return cls(gpu, placement)


@dataclass(frozen=True, slots=True)
class Unit:
    """A whole GPU or one MIG instance as it exists now. `name` is `0` or `0:1`; `uuid` is today's device UUID."""

    key: UnitKey
    name: str
    profile: str
    uuid: str
    gpu_index: int
    size: Fraction

    @property
    def is_full(self) -> bool:
        """A whole GPU."""
        return self.profile == FULL


class LeaseKind(StrEnum):
    """What a lease is for: a container, processes of the host in a scope, or a user's login sessions."""

    CONTAINER = "container"
    HOST = "host"
    LOGIN = "login"


class LeaseState(StrEnum):
    """The life of a lease. docs/ALLOCATOR.md draws it; gpu_allocator/lifecycle.py has the table of transitions."""

    GRANTED = "granted"
    BOUND = "bound"
    ACTIVE = "active"
    HELD = "held"
    DRAINING = "draining"
    WAITING = "waiting-for-unit"
    LOST = "lost"
    RELEASED = "released"


HOLDING = tuple(state for state in LeaseState if state is not LeaseState.RELEASED)
"""States in which a lease's units are nobody else's."""

WITH_DEVICES = (LeaseState.GRANTED, LeaseState.BOUND, LeaseState.ACTIVE, LeaseState.HELD)
"""States in which the lease has a device entry, so that its container can start."""


@dataclass(frozen=True, slots=True)
class LeasedUnit:
    """A unit as it was when it was leased."""

    key: UnitKey
    name: str
    profile: str
    size: Fraction


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds what, as the ledger says. Times are seconds of the epoch.

    `until` is when the present state ends by itself (granted: no container appeared; held: the hold is over; of a
    login lease: when it was granted until); None where it does not. `request` is what was asked for, so that the same
    can be leased again. A host lease has the name of its command as `container_name`.
    """

    id: str
    request_id: str
    uid: int
    user: str
    group: str
    container: str
    container_name: str
    count: int
    state: LeaseState
    since: float
    until: float | None
    units: tuple[LeasedUnit, ...]
    kind: LeaseKind = LeaseKind.CONTAINER
    request: str = ""

    @property
    def unit_names(self) -> str:
        """The units as people read them: `0:1,2`."""
        return ",".join(unit.name for unit in self.units)

    @property
    def size(self) -> Fraction:
        """What it holds, in GPUs."""
        return sum((unit.size for unit in self.units), Fraction(0))

    @property
    def scope(self) -> str:
        """The unit in which the processes of a host lease run."""
        return f"ds01-{self.id}.scope"


@dataclass(frozen=True, slots=True)
class Waiter:
    """Somebody in the queue, as the ledger keeps it. `until` is when the waiting ends in vain; None for never."""

    request_id: str
    uid: int
    user: str
    group: str
    request: str
    name: str
    kind: LeaseKind
    since: float
    until: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """GPU time that one user has had, in GPU seconds that count less the older they are, as of `at` (epoch)."""

    value: float
    at: float


NO_SHARE = Share(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes durable together: leases and waiters as they are from now on, GPU time, and the events that tell.

    `gone` are waiters that wait no more: (uid, request id). `events` have the time they happened at (epoch).
    """

    leases: tuple[Lease, ...] = ()
    events: tuple[tuple[float, Event], ...] = ()
    shares: tuple[tuple[int, Share], ...] = ()
    waiting: tuple[Waiter, ...] = ()
    gone: tuple[tuple[int, str], ...] = ()


class Reason(StrEnum):
    """Why a GPU was refused: the request itself, the caller's limits, or the moment."""

    NOT_A_REQUEST = "not-a-request"
    NO_SUCH_UNIT = "no-such-unit"
    FULL_GPU_NOT_ALLOWED = "full-gpu-not-allowed"
    OVER_UNITS_PER_CONTAINER = "over-units-per-container"
    OVER_GPU_EQUIVALENTS = "over-gpu-equivalents"
    OVER_MIG_INSTANCES = "over-mig-instances"
    OVER_GROUP_TOTAL = "over-group-total"
    NONE_FREE = "none-free"
    WAITED_IN_VAIN = "waited-in-vain"


@dataclass(frozen=True, slots=True)
class Blocker:
    """A lease that would have to end first. `until` (epoch) is when that is expected; None if nobody knows."""

    uid: int
    user: str
    group: str
    name: str
    units: str
    state: LeaseState
    until: float | None


@dataclass(frozen=True, slots=True)
class Denied:
    """A "no" with its numbers. `message` is a whole sentence; `hint` says what to do next."""

    reason: Reason
    message: str
    limit: str
    used: str
    requested: str
    hint: str
    to_end: tuple[Blocker, ...] = ()


@dataclass(frozen=True, slots=True)
class Granted:
    """The units that a request gets, and what whoever gets them should know."""

    units: tuple[Unit, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What the engine says of one container. `owner_uid` and `lease` are labels that DS01 wrote."""

    id: str
    name: str
    owner_uid: int | None
    lease: str
    running: bool
    restarting: bool
    ever_started: bool
    pid: int
    cgroup_parent: str
    restart_policy: str = "no"
    error: str = ""

    @property
    def lost_its_restart(self) -> bool:
        """The engine gave up on a restart because a device could not be had, and will not try again by itself.

        Docker restarts containers at its own start before it knows CDI at all ("could not select device driver
        "cdi""), and never retries a restart whose CDI device was missing at that moment.
        """
        return self.restart_policy != "no" and not self.running and "cdi" in self.error.lower()


@dataclass(frozen=True, slots=True)
class Listed:
    """What a list of containers tells of one. `running` includes one that is paused, or waits for its restart."""

    id: str
    name: str
    running: bool
    owner_uid: int | None
    lease: str
    request: str


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Which limits the engine can apply itself, and how many CPUs it sees.

    What it can't apply becomes a property of the container's scope.
    """

    cpu_quota: bool
    cpu_shares: bool
    memory: bool
    swap: bool
    pids: bool
    cpus: int
