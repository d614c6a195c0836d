"""The events of the allocator in words. Pure."""

from __future__ import annotations

from ds01.common.events import Event
from ds01.common.model import ContainerFacts, Denied, Lease, LeaseKind, Waiter
from ds01.gpu_allocator.lifecycle import Change
from ds01.gpu_allocator.world import Asker


def holder(lease: Lease) -> str:
    """What a lease is for: `container 'train'`, `program 'python3'`, `login sessions`."""
    match lease.kind:
        case LeaseKind.CONTAINER:
            return f"container '{lease.container_name}'"
        case LeaseKind.HOST:
            return f"program '{lease.container_name}'"
        case LeaseKind.LOGIN:
            return "login sessions"


def of_lease(name: str, lease: Lease, message: str, reason: str) -> Event:
    """An event about one lease."""
    return Event(
        name,
        message,
        user=lease.user,
        uid=lease.uid,
        group=lease.group,
        lease=lease.id,
        gpu=lease.unit_names,
        container=lease.container,
        container_name=lease.container_name,
        reason=reason,
        request=lease.request_id,
        new=lease.state.value,
    )


def of_change(change: Change) -> Event | None:
    """A transition; None where it is not told."""
    if not change.event:
        return None
    lease = change.lease
    who = f"lease {lease.id} of {lease.user} on GPU {lease.unit_names or 'none'}"
    verb = change.event.partition(".")[2].capitalize()
    return of_lease(change.event, lease, f"{verb}: {who}, {holder(lease)}: {change.reason}", change.reason)


def of_restart(name: str, lease: Lease, facts: ContainerFacts, reason: str) -> Event:
    """A container was, or was not, started again."""
    done = "started again" if name == "container.restarted" else "not started again"
    return of_lease(name, lease, f"Container '{facts.name}' of {lease.user} was {done}: {reason}", reason)


def of_denial(asker: Asker, gpus: str, name: str, request_id: str, verdict: Denied) -> Event:
    """A request was denied, with its numbers."""
    return Event(
        "gpu.denied",
        f"Denied: GPU request '{gpus[:60]}' of {asker.user} for '{name}': {verdict.message}",
        user=asker.user,
        uid=asker.uid,
        group=asker.group,
        container_name=name,
        reason=verdict.reason.value,
        limit=verdict.limit,
        used=verdict.used,
        requested=verdict.requested,
        request=request_id,
    )


def of_waiter(name: str, waiter: Waiter, reason: str) -> Event:
    """Somebody came into the queue, or left it."""
    done = "waits" if name == "queue.joined" else "waits no more"
    return Event(
        name,
        f"{waiter.user} {done} for GPU {waiter.request}, '{waiter.name}': {reason}",
        user=waiter.user,
        uid=waiter.uid,
        group=waiter.group,
        container_name=waiter.name,
        reason=reason,
        requested=waiter.request,
        request=waiter.request_id,
    )
