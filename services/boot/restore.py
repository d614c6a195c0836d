"""What must be in place before Docker starts: policy, slices with their limits, device entries. One pass, no daemon.

Slices that can't be made stop the boot of Docker, since containers would run without limits. GPUs that can't be read
do not: their leases get no device entry, and containers that need one stay stopped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ds01.common.cdi import VendorSpec, compose, missing_units
from ds01.common.errors import Ds01Error, PeerRefused, PolicyInvalid
from ds01.common.events import Event
from ds01.common.inventory import Inventory
from ds01.common.limits import Policy, parse_policy
from ds01.common.model import Lease
from ds01.common.slices import NO_TOTAL, SliceOwner, SlicePlan, plan_user


class SliceMaker(Protocol):
    """systemd."""

    async def ensure_slice(self, plan: SlicePlan) -> bool: ...


class DeviceFiles(Protocol):
    """The CDI side."""

    def vendor(self) -> VendorSpec: ...
    def write(self, spec: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done: the slices made, and one sentence for each thing that could not be."""

    slices: tuple[str, ...]
    problems: tuple[str, ...]

    def event(self) -> Event:
        """The boot in one event."""
        names = ", ".join(self.slices) or "none"
        if not self.problems:
            return Event("boot.restored", f"Restored before Docker started: slices {names}", new=names)
        why = "; ".join(self.problems)
        return Event("boot.degraded", f"Restored before Docker started, but {why}", reason=why, new=names)


def owners(remembered: Iterable[SliceOwner], leases: Iterable[Lease]) -> list[SliceOwner]:
    """Everybody who needs a slice: who ever had one, and who holds a lease."""
    holders = {SliceOwner(lease.uid, lease.user, lease.group) for lease in leases}
    return sorted(holders | set(remembered))


def plan_slices(
    wanted: Iterable[SliceOwner], policy: Policy, account: Callable[[int], tuple[str, frozenset[str]]]
) -> list[SlicePlan]:
    """The slices of everybody wanted, each parent before its children, none twice.

    An account that is gone keeps the limits of the group it was in: its containers may still start.
    """
    plans: dict[str, SlicePlan] = {}
    for owner in wanted:
        try:
            limits = policy.limits_for(*account(owner.uid))
        except PeerRefused:
            limits = policy.limits_in(owner.group, owner.user)
        group = policy.groups.get(owner.group)
        total = NO_TOTAL if group is None else group.total
        for plan in plan_user(owner.user, owner.uid, owner.group, limits.aggregate, total):
            plans[plan.name] = plan
    return sorted(plans.values(), key=lambda plan: plan.name.count("-"))


def restore_policy(last_good: Path, published: Path) -> Policy:
    """The last good policy where there is one, else the shipped one that tmpfiles.d put in place.

    Raises:
        PolicyInvalid: neither can be used.
    """
    try:
        text = last_good.read_text(encoding="utf-8")
        policy = parse_policy(text)
    except (OSError, PolicyInvalid):
        try:
            return parse_policy(published.read_text(encoding="utf-8"))
        except OSError as exc:
            raise PolicyInvalid(f"there is no policy at '{published}': {exc.strerror}") from exc
    temporary = published.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o644)
    temporary.replace(published)
    return policy


async def restore_devices(
    leases: tuple[Lease, ...], read: Callable[[], Awaitable[Inventory]], devices: DeviceFiles
) -> list[str]:
    """Write the device entries of all leases whose units exist; one sentence for each that has none."""
    vendor = devices.vendor()
    try:
        units = (await read()).units
        problems = []
    except Ds01Error as exc:
        units, problems = (), [f"the GPUs could not be read: {exc}"]
    devices.write(compose(leases, units, vendor))
    by_key = {unit.key: unit for unit in units}
    for lease in leases:
        gone = missing_units(lease, by_key, vendor)
        if gone and units:
            problems.append(f"GPU {', '.join(gone)} of lease {lease.id} ({lease.user}) does not exist")
    return problems
