"""The life of a lease: every transition, who causes it, on what evidence, after what time. Pure.

transition                         cause             evidence                                     time
(none) → granted                   shim              Lease call, quota, free unit, or its turn    at once
(none) → active (host)             the user          Run call, quota, free unit, its scope        at once
(none) → active (login)            an administrator  Grant call, free unit                        at once
granted → bound                    allocator         engine: the container exists                 at once
granted → draining                 clock             no container appeared                        granted_timeout
bound → draining                   clock             its container never started                  created_container_…
bound, held → active               allocator         engine: it runs, or a restart is pending     at once
active → held                      allocator         engine: it does not run, nor will it         at once
held → held (longer)               shim              Renew before a start                         START_GRACE_S
held → draining                    clock             the hold is over                             gpu_hold_after_stop
draining → active                  allocator         engine: it runs after all                    at once
draining → released                allocator         twice not running, device entry gone before  DRAIN_WAIT_S between
granted, bound, held → waiting     allocator         NVML: a unit of it does not exist            at once
waiting → granted, held            allocator         NVML: all its units exist                    at once
waiting → draining                 clock             as the state before                          as the state before
active → lost                      allocator         NVML: a unit is gone from a readable GPU     at once
lost → waiting                     allocator         engine: its container does not run           gpu_hold_after_stop
granted, draining (host) → active  allocator         systemd: its scope is there                  at once
active, lost (host) → draining     allocator         systemd: its scope is gone                   at once
active, lost (login) → draining    clock, or admin   its time is over, or Revoke                  as granted
draining (host, login) → released  allocator         NVML: no process of its user there           at once
any → released                     shim, allocator   engine: the container is gone                at once
released → granted, held           shim              Renew before a start, quota, free unit       at once
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from ds01.common.model import ContainerFacts, Lease, LeaseKind, LeaseState

START_GRACE_S = 60.0
"""How long a renewed lease waits for its container to run."""

DRAIN_WAIT_S = 1.0
"""Between the two looks at a container whose device entry is gone: the engine reads CDI files asynchronously."""

_OVERDUE = {
    LeaseState.GRANTED: "no container appeared for it",
    LeaseState.BOUND: "its container never started",
    LeaseState.HELD: "the hold after the stop is over",
    LeaseState.WAITING: "its unit did not come back in time",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`hold_s` after a stop, `created_s` for a container that is never started."""

    hold_s: float
    created_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A transition: what the lease becomes, the event to report ('' for none) and why."""

    lease: Lease
    event: str
    reason: str


def on_container(lease: Lease, facts: ContainerFacts | None, timeouts: Timeouts, now: float) -> Change | None:
    """What the engine's word on the lease's container changes. `facts` None: the container does not exist."""
    if lease.state is LeaseState.RELEASED or lease.kind is not LeaseKind.CONTAINER:
        return None
    if facts is None:
        return release(lease, "its container was removed", now) if lease.container else None
    running = facts.running or facts.restarting
    match lease.state:
        case LeaseState.GRANTED:
            bound = replace(lease, container=facts.id, container_name=lease.container_name or facts.name)
            if running:
                return _to(bound, LeaseState.ACTIVE, "gpu.activated", "its container runs", now, None)
            reason = "its container was created"
            return _to(bound, LeaseState.BOUND, "gpu.bound", reason, now, now + timeouts.created_s)
        case LeaseState.BOUND | LeaseState.HELD | LeaseState.DRAINING | LeaseState.WAITING:
            if running:
                return _to(lease, LeaseState.ACTIVE, "gpu.activated", "its container runs", now, None)
            return None
        case LeaseState.ACTIVE:
            if not running:
                return _to(lease, LeaseState.HELD, "gpu.held", "its container stopped", now, now + timeouts.hold_s)
            return None
        case LeaseState.LOST:
            if not running:
                reason = "its container stopped"
                return _to(lease, LeaseState.WAITING, "gpu.waiting", reason, now, now + timeouts.hold_s)
            return None
        case _:
            assert_never(lease.state)


def on_units(lease: Lease, gone: tuple[str, ...], now: float) -> Change | None:
    """What the inventory changes: `gone` are names of the lease's units that do not exist, on GPUs that can be read."""
    match lease.state:
        case LeaseState.GRANTED | LeaseState.BOUND | LeaseState.HELD:
            if gone and lease.kind is LeaseKind.CONTAINER:
                reason = f"GPU {', '.join(gone)} does not exist at the moment"
                return _to(lease, LeaseState.WAITING, "gpu.waiting", reason, now, lease.until)
        case LeaseState.WAITING:
            if not gone:
                state = LeaseState.HELD if lease.container else LeaseState.GRANTED
                return _to(lease, state, "gpu.returned", "all its units exist again", now, lease.until)
        case LeaseState.ACTIVE:
            if gone:
                reason = f"GPU {', '.join(gone)} does not exist any more; what runs on it can't use it"
                return _to(lease, LeaseState.LOST, "gpu.lost", reason, now, lease.until)
        case LeaseState.LOST | LeaseState.DRAINING | LeaseState.RELEASED:
            return None
        case _:
            assert_never(lease.state)
    return None


def on_scope(lease: Lease, now: float, *, exists: bool) -> Change | None:
    """What systemd's word on the scope of a host lease changes. One that is being made is left to its clock."""
    if lease.kind is not LeaseKind.HOST:
        return None
    if exists and lease.state in (LeaseState.GRANTED, LeaseState.DRAINING):
        return _to(lease, LeaseState.ACTIVE, "gpu.activated", "its program runs", now, None)
    if not exists and lease.state in (LeaseState.ACTIVE, LeaseState.LOST):
        return _to(lease, LeaseState.DRAINING, "gpu.draining", "its processes have ended", now, None)
    return None


def on_processes(lease: Lease, now: float, *, busy: bool | None) -> Change | None:
    """Whether a lease without a container is free: no process of its user is on its units. None is unknown."""
    if lease.kind is LeaseKind.CONTAINER or lease.state is not LeaseState.DRAINING or busy is not False:
        return None
    return release(lease, "no process of its user is on its units", now)


def on_clock(lease: Lease, now: float) -> Change | None:
    """What the clock alone changes."""
    if lease.until is None or now < lease.until:
        return None
    if lease.kind is LeaseKind.LOGIN and lease.state in (LeaseState.ACTIVE, LeaseState.LOST):
        return _to(lease, LeaseState.DRAINING, "gpu.draining", "the time it was granted for is over", now, None)
    reason = _OVERDUE.get(lease.state)
    return None if reason is None else _to(lease, LeaseState.DRAINING, "gpu.draining", reason, now, None)


def on_renew(lease: Lease, now: float) -> Change | None:
    """A start is about to be forwarded: the lease must live until it has happened. None if it does anyway."""
    if lease.state in (LeaseState.ACTIVE, LeaseState.LOST):
        return None
    until = max(lease.until or 0.0, now + START_GRACE_S)
    state = LeaseState.HELD if lease.state is LeaseState.DRAINING else lease.state
    return Change(replace(lease, state=state, until=until), "", "its container is about to start")


def revoke(lease: Lease, reason: str, now: float) -> Change:
    """The end of a login lease before its time."""
    return _to(lease, LeaseState.DRAINING, "gpu.draining", reason, now, None)


def release(lease: Lease, reason: str, now: float) -> Change:
    """The end of a lease."""
    return _to(lease, LeaseState.RELEASED, "gpu.released", reason, now, None)


def _to(lease: Lease, state: LeaseState, event: str, reason: str, now: float, until: float | None) -> Change:
    return Change(replace(lease, state=state, since=now, until=until), event, reason)
