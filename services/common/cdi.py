"""The late-bound CDI specification: what each lease's device name means now. Pure; cdifiles.py reads and writes.

A container is created with the device `ds01.io/gpu=<lease>`. Which real devices that is stands in our specification
alone, composed from the vendor's entries for the units that exist now. A unit is looked up in the vendor's file by
its UUID and never by its index: indexes of MIG instances name other instances after they were made again.
Format: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ds01.common.model import WITH_DEVICES, Lease, Unit, UnitKey

KIND = "ds01.io/gpu"
NONE_DEVICE = "none"
"""Always present: a specification without devices is invalid, and an invalid file leaves the old one in force."""

Edits = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VendorSpec:
    """The vendor's specification, with only those devices whose nodes exist now. `devices` by UUID or index."""

    version: str
    common: Edits
    devices: Mapping[str, Edits]


NO_VENDOR = VendorSpec("0.6.0", {}, {})


def parse_vendor(untrusted: Mapping[str, Any]) -> VendorSpec:
    """The vendor's specification as a value; raises KeyError or TypeError where it is not one."""
    devices = {str(item["name"]): dict(item["containerEdits"]) for item in untrusted["devices"]}
    return VendorSpec(str(untrusted["cdiVersion"]), dict(untrusted.get("containerEdits") or {}), devices)


def node_paths(edits: Edits) -> tuple[str, ...]:
    """The host paths of the device nodes in `edits`."""
    return tuple(str(node.get("hostPath") or node["path"]) for node in edits.get("deviceNodes") or ())


def own_nodes(unit: Unit, units: Iterable[Unit], vendor: VendorSpec) -> frozenset[str]:
    """What tells the unit from every other: a MIG instance's capability nodes, a whole GPU's node."""
    mine = set(node_paths(vendor.devices.get(unit.uuid, {}))) - set(node_paths(vendor.common))
    others = {node for other in units if other != unit for node in node_paths(vendor.devices.get(other.uuid, {}))}
    return frozenset(mine - others)


def missing_units(lease: Lease, units: Mapping[UnitKey, Unit], vendor: VendorSpec) -> tuple[str, ...]:
    """Names of the lease's units that do not exist now, or whose nodes do not."""
    return tuple(
        unit.name for unit in lease.units if unit.key not in units or units[unit.key].uuid not in vendor.devices
    )


def compose(leases: Iterable[Lease], units: Iterable[Unit], vendor: VendorSpec) -> dict[str, Any]:
    """The specification for all leases that may start and whose every unit exists now."""
    by_key = {unit.key: unit for unit in units}
    devices: list[dict[str, Any]] = [{"name": NONE_DEVICE, "containerEdits": {"env": ["DS01_GPU=none"]}}]
    for lease in sorted(leases, key=lambda item: item.id):
        if lease.state in WITH_DEVICES and lease.units and not missing_units(lease, by_key, vendor):
            edits = [vendor.devices[by_key[unit.key].uuid] for unit in lease.units]
            devices.append({"name": lease.id, "containerEdits": _joined(edits, lease)})
    return {"cdiVersion": vendor.version, "kind": KIND, "devices": devices, "containerEdits": vendor.common}


def _joined(several: Iterable[Edits], lease: Lease) -> dict[str, Any]:
    """The edits of all units in one; MIG instances of one GPU share nodes, which must appear once."""
    joined: dict[str, list[Any]] = {"env": [f"DS01_GPU={lease.unit_names}", f"DS01_LEASE={lease.id}"]}
    for edits in several:
        for kind, values in edits.items():
            present = joined.setdefault(kind, [])
            present.extend(value for value in values or () if value not in present)
    return joined
