"""The words everybody shares: units of GPU, leases and their states. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

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


class LeaseState(StrEnum):
    """The life of a lease. docs/ARCHITECTURE.md has the table of transitions."""

    GRANTED = "granted"
    BOUND = "bound"
    ACTIVE = "active"
    HELD = "held"
    DRAINING = "draining"
    RELEASED = "released"


HOLDING = (LeaseState.GRANTED, LeaseState.BOUND, LeaseState.ACTIVE, LeaseState.HELD, LeaseState.DRAINING)
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

    `until` is when the present state ends by itself (granted: no container appeared; held: the hold is over);
    None where it does not.
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

    @property
    def unit_names(self) -> str:
        """The units as people read them: `0:1,2`."""
        return ",".join(unit.name for unit in self.units)


class Reason(StrEnum):
    """Why a GPU was refused. The first group is the caller's limit, the second the moment, the third our state."""

    OVER_UNITS_PER_CONTAINER = "over-units-per-container"
    OVER_GPU_EQUIVALENTS = "over-gpu-equivalents"
    OVER_MIG_INSTANCES = "over-mig-instances"
    FULL_GPU_NOT_ALLOWED = "full-gpu-not-allowed"
    NONE_FREE = "none-free"
    NOT_A_COUNT = "not-a-count"


@dataclass(frozen=True, slots=True)
class Denied:
    """A "no" with its numbers. `message` is a whole sentence; `hint` says what to do next."""

    reason: Reason
    message: str
    limit: str
    used: str
    requested: str
    hint: str


@dataclass(frozen=True, slots=True)
class Granted:
    """The units that a request gets."""

    units: tuple[Unit, ...]


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
