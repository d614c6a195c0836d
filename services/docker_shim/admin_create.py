"""A create of an administrator: nothing is refused; slice, labels and lease are still written. Pure.

The label `ds01.unmanaged=1` opts out of slice and lease, and the container then says so itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ds01.docker_shim.fields import CONFIG, HOST_CONFIG, normalised
from ds01.docker_shim.gpus import cdi_request
from ds01.docker_shim.model import GpuWish, Json, Origin, Owner, Reason, Refused
from ds01.docker_shim.rewrite import NVIDIA_PREFIX, VOID, Built, labels
from ds01.docker_shim.wish import parse_gpus

UNMANAGED = "ds01.unmanaged"


@dataclass(frozen=True, slots=True)
class AdminWish:
    """The body under its proper names; GPUs are leased, unless it is unmanaged."""

    config: Mapping[str, Json]
    host: Mapping[str, Json]
    labels: Mapping[str, Json]
    gpus: GpuWish
    unmanaged: bool


def parse_admin_wish(untrusted: Mapping[str, Json]) -> AdminWish | Refused:
    """What the body asks for; only what can't be read, or would go round the allocator unsaid, is refused."""
    config = normalised(CONFIG, untrusted)
    if isinstance(config, Refused):
        return config
    parts = {name: config.get(name) or {} for name in ("HostConfig", "Labels")}
    wrong = next((name for name, part in parts.items() if not isinstance(part, dict)), None)
    if wrong is not None:
        return Refused(400, Reason.MALFORMED, f"'{wrong}' must be an object")
    raw_host, raw_labels = parts["HostConfig"], parts["Labels"]
    assert isinstance(raw_host, dict)
    assert isinstance(raw_labels, dict)
    host = normalised(HOST_CONFIG, raw_host)
    if isinstance(host, Refused):
        return host
    unmanaged = str(raw_labels.get(UNMANAGED, "")) not in ("", "0", "false")
    gpus = GpuWish() if unmanaged else parse_gpus(host.get("DeviceRequests"), raw_labels)
    if isinstance(gpus, Refused):
        return replace(gpus, hint=f"{gpus.hint}; or go round the allocator with '--label {UNMANAGED}=1'")
    return AdminWish(config, host, raw_labels, gpus, unmanaged)


def build_admin(wish: AdminWish, owner: Owner, origin: Origin, lease: str) -> Built:
    """The body, with slice, labels and lease written."""
    host = dict(wish.host)
    config = dict(wish.config)
    if not (wish.unmanaged and host.get("CgroupParent")):
        host["CgroupParent"] = owner.slice
    if not wish.unmanaged:
        env = config.get("Env")
        kept = [entry for entry in env if not str(entry).startswith(NVIDIA_PREFIX)] if isinstance(env, list) else []
        config["Env"] = [*kept, VOID]
        host["DeviceRequests"] = cdi_request(lease) if lease else None
    config["HostConfig"] = host
    config["Labels"] = {**wish.labels, **labels(owner, origin, lease, None, wish.gpus, wish.unmanaged)}
    return Built(config, ())
