"""An engine in memory for forcing what a real one does rarely: containers that vanish, silence, labels that lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worlds import REFERENCE_SITE

from ds01.common.cdi import VendorSpec
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.events import Event
from ds01.common.inventory import Inventory
from ds01.common.model import ContainerFacts, Unit


@dataclass
class EngineWorld:
    """Containers by id. `silent` makes every call fail."""

    containers: dict[str, ContainerFacts] = field(default_factory=dict)
    silent: bool = False
    start_error: str = ""
    stuck: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)

    async def answers(self) -> None:
        self._speak()

    async def inspect(self, reference: str) -> ContainerFacts | None:
        self._speak()
        if reference in self.stuck:
            raise Unavailable("no answer in time")
        return self.containers.get(reference)

    async def find_leased(self, lease: str) -> ContainerFacts | None:
        self._speak()
        return next((facts for facts in self.containers.values() if facts.lease == lease), None)

    async def start(self, container: str) -> None:
        self._speak()
        if self.start_error:
            raise EngineRefused(500, self.start_error)
        self.set(container, running=True)
        self.started.append(container)

    def create(self, lease: str, uid: int) -> str:
        identity = f"c{len(self.containers)}-{lease}"
        self.containers[identity] = ContainerFacts(identity, identity, uid, lease, False, False, False, 0, "")
        return identity

    def set(self, identity: str, running: bool, restarting: bool = False) -> None:
        self.containers[identity] = replace(self.containers[identity], running=running, restarting=restarting)

    def _speak(self) -> None:
        if self.silent:
            raise Unavailable("the engine is silent")


@dataclass
class Gpus:
    """What NVML says; None is silence."""

    units: tuple[Unit, ...] | None = REFERENCE_SITE

    async def read(self) -> Inventory:
        if self.units is None:
            raise Unavailable("NVML is silent")
        return Inventory(self.units, {})


class DeviceFolder:
    """The CDI side: keeps what was written; every unit of the reference site has a node."""

    def __init__(self) -> None:
        self.spec: Mapping[str, Any] = {"devices": []}

    def vendor(self) -> VendorSpec:
        return VendorSpec("0.6.0", {}, {unit.uuid: {"deviceNodes": [{"path": unit.uuid}]} for unit in REFERENCE_SITE})

    def write(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec

    def nodes(self) -> dict[str, list[str]]:
        """Nodes by device name."""
        return {
            item["name"]: [node["path"] for node in item["containerEdits"].get("deviceNodes", [])]
            for item in self.spec["devices"]
            if item["name"] != "none"
        }


@dataclass
class Journal:
    """Events, kept."""

    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]
