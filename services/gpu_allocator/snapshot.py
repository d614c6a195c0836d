"""A world as text: saved by `ds01 status --snapshot`, replayed by `ds01 explain --snapshot`, read by tests. Pure.

JSON. Sizes are exact fractions of a GPU ("2/7"), times seconds of the epoch, units are named by their keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Any

from ds01.common.errors import Malformed
from ds01.common.model import Lease, LeasedUnit, LeaseKind, LeaseState, Unit, UnitKey
from ds01.gpu_allocator.explain import Explained, explain
from ds01.gpu_allocator.world import Asker, World

FORMAT = 1
_EXACT = ("max_equivalents", "group_max_equivalents")


def snapshot_text(asker: Asker, world: World, gpus_all_means: int, at: float) -> str:
    """Everything that a decision for `asker` depends on."""
    return json.dumps(
        {
            "ds01_snapshot": FORMAT,
            "at": at,
            "gpus_all_means": gpus_all_means,
            "asker": {name: _plain(value) for name, value in asdict(asker).items()},
            "units": [_unit(unit) for unit in world.units],
            "leases": [_lease(lease) for lease in world.leases],
            "withheld": {str(index): why for index, why in world.withheld.items()},
            "occupied": {str(key): why for key, why in world.occupied.items()},
            "reserved": sorted(str(key) for key in world.reserved),
            "links": {str(index): sorted(others) for index, others in world.links.items()},
            "ends": dict(world.ends),
        },
        indent=1,
    )


def parse_snapshot(untrusted_text: str) -> tuple[Asker, World, int]:
    """The asker, the world, and what `all` means, from a snapshot.

    Raises:
        Malformed: it is none, or of another format.
    """
    try:
        raw = json.loads(untrusted_text)
        if raw["ds01_snapshot"] != FORMAT:
            raise Malformed(f"the snapshot has format {raw['ds01_snapshot']}, this version reads {FORMAT}")
        return _asker(raw["asker"]), _world(raw), int(raw["gpus_all_means"])
    except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise Malformed(f"this is no snapshot of DS01: {type(exc).__name__}: {exc}") from exc


def replay(untrusted_text: str, gpus: str) -> Explained:
    """What a request for `gpus` would have got in a saved world, and why.

    Raises:
        Malformed: it is no snapshot.
    """
    asker, world, gpus_all_means = parse_snapshot(untrusted_text)
    return explain(gpus, asker, world, gpus_all_means)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Fraction) else value


def _unit(unit: Unit) -> dict[str, object]:
    return {
        "key": str(unit.key),
        "name": unit.name,
        "profile": unit.profile,
        "uuid": unit.uuid,
        "gpu": unit.gpu_index,
        "size": str(unit.size),
    }


def _lease(lease: Lease) -> dict[str, object]:
    plain = {item.name: getattr(lease, item.name) for item in fields(lease) if item.name != "units"}
    units = [
        {"key": str(unit.key), "name": unit.name, "profile": unit.profile, "size": str(unit.size)}
        for unit in lease.units
    ]
    return {**plain, "units": units}


def _asker(raw: Mapping[str, Any]) -> Asker:
    exact = {name: None if raw[name] is None else Fraction(raw[name]) for name in _EXACT}
    return Asker(**{**raw, **exact})


def _world(raw: Mapping[str, Any]) -> World:
    return World(
        units=tuple(
            Unit(
                UnitKey.parse(one["key"]),
                one["name"],
                one["profile"],
                one["uuid"],
                one["gpu"],
                Fraction(one["size"]),
            )
            for one in raw["units"]
        ),
        leases=tuple(_parse_lease(one) for one in raw["leases"]),
        withheld={int(index): why for index, why in raw["withheld"].items()},
        occupied={UnitKey.parse(key): why for key, why in raw["occupied"].items()},
        reserved=frozenset(UnitKey.parse(key) for key in raw["reserved"]),
        links={int(index): frozenset(others) for index, others in raw["links"].items()},
        ends={str(lease): float(end) for lease, end in raw["ends"].items()},
    )


def _parse_lease(raw: Mapping[str, Any]) -> Lease:
    units = tuple(
        LeasedUnit(UnitKey.parse(one["key"]), one["name"], one["profile"], Fraction(one["size"]))
        for one in raw["units"]
    )
    told = {**raw, "units": units, "state": LeaseState(raw["state"]), "kind": LeaseKind(raw["kind"])}
    return Lease(**told)
