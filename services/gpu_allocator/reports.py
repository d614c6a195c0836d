"""Events of the allocator that are not transitions. Pure."""

from __future__ import annotations

from ds01.common.events import Event
from ds01.common.model import ContainerFacts, Denied, Lease


def about(name: str, lease: Lease, facts: ContainerFacts, reason: str) -> Event:
    """A container was, or was not, started again."""
    done = "started again" if name == "container.restarted" else "not started again"
    return Event(
        name,
        f"Container '{facts.name}' of {lease.user} was {done}: {reason}",
        user=lease.user,
        uid=lease.uid,
        group=lease.group,
        lease=lease.id,
        gpu=lease.unit_names,
        container=facts.id,
        container_name=facts.name,
        reason=reason,
    )


def denied(lease: Lease, verdict: Denied) -> Event:
    """A request was denied, with its numbers."""
    return Event(
        "gpu.denied",
        f"Denied: {lease.count} GPU units for {lease.user}, container '{lease.container_name}': {verdict.message}",
        user=lease.user,
        uid=lease.uid,
        group=lease.group,
        container_name=lease.container_name,
        reason=verdict.reason.value,
        limit=verdict.limit,
        used=verdict.used,
        requested=verdict.requested,
        request=lease.request_id,
    )
