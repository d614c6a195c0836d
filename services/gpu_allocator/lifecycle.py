"""The life of a lease: every transition, who causes it, on what evidence, after what time. Pure.

transition              cause                        evidence                                      time
(none) → granted        shim                         Lease call, quota, free unit                  at once
granted → bound         allocator                    engine: the container exists                  at once
granted → draining      clock                        no container appeared                         granted_timeout_s
bound, held → active    allocator                    engine: it runs, or a restart is pending      at once
active → held           allocator                    engine: it does not run, no restart pending   at once
held → held (longer)    shim                         Renew before a start                          START_GRACE_S
bound, held → draining  clock                        hold over                                     gpu_hold_after_stop_s
draining → active       allocator                    engine: it runs after all                     at once
draining → released     allocator                    twice not running, entry gone before          DRAIN_WAIT_S between
any → released          shim or allocator            engine: the container is gone                 at once
released → granted      shim                         Renew before a start, quota, free unit        at once
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from ds01.common.model import ContainerFacts, Lease, LeaseState

START_GRACE_S = 60.0
"""How long a renewed lease waits for its container to run."""

DRAIN_WAIT_S = 1.0
"""Between the two looks at a container whose device entry is gone: the engine reads CDI files asynchronously."""

_OVERDUE = {
    LeaseState.GRANTED: "no container appeared for it",
    LeaseState.BOUND: "its container never started",
    LeaseState.HELD: "the hold after the stop is over",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`hold_s` after a stop, `granted_s` for a lease without a container."""

    hold_s: float
    granted_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A transition: what the lease becomes, the event to report ('' for none) and why."""

    lease: Lease
    event: str
    reason: str


def on_container(lease: Lease, facts: ContainerFacts | None, timeouts: Timeouts, now: float) -> Change | None:
    """What the engine's word on the lease's container changes. `facts` None: the container does not exist."""
    if lease.state is LeaseState.RELEASED:
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
            return _to(bound, LeaseState.BOUND, "gpu.bound", reason, now, now + timeouts.hold_s)
        case LeaseState.BOUND | LeaseState.HELD | LeaseState.DRAINING:
            if running:
                return _to(lease, LeaseState.ACTIVE, "gpu.activated", "its container runs", now, None)
            return None
        case LeaseState.ACTIVE:
            if not running:
                return _to(lease, LeaseState.HELD, "gpu.held", "its container stopped", now, now + timeouts.hold_s)
            return None
        case _:
            assert_never(lease.state)


def on_clock(lease: Lease, now: float) -> Change | None:
    """What the clock alone changes."""
    if lease.until is None or now < lease.until:
        return None
    reason = _OVERDUE.get(lease.state)
    return None if reason is None else _to(lease, LeaseState.DRAINING, "gpu.draining", reason, now, None)


def on_renew(lease: Lease, now: float) -> Change | None:
    """A start is about to be forwarded: the lease must live until it has happened. None if it does anyway."""
    if lease.state is LeaseState.ACTIVE:
        return None
    until = max(lease.until or 0.0, now + START_GRACE_S)
    state = LeaseState.HELD if lease.state is LeaseState.DRAINING else lease.state
    return Change(replace(lease, state=state, until=until), "", "its container is about to start")


def release(lease: Lease, reason: str, now: float) -> Change:
    """The end of a lease."""
    return _to(lease, LeaseState.RELEASED, "gpu.released", reason, now, None)


def _to(lease: Lease, state: LeaseState, event: str, reason: str, now: float, until: float | None) -> Change:
    return Change(replace(lease, state=state, since=now, until=until), event, reason)
