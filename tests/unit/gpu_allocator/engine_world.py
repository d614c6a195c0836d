"""An engine in memory for forcing what a real one does rarely: containers that vanish, silence, labels that lie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from worlds import CUT_ANEW, REFERENCE_SITE

from ds01.common.cdi import VendorSpec
from ds01.common.errors import EngineRefused, Unavailable
from ds01.common.events import Event
from ds01.common.gpus import GpuProcess
from ds01.common.inventory import GpuProcesses, Inventory
from ds01.common.model import ContainerFacts, Listed, Unit
from ds01.common.slices import Devices, ScopePlan, TimerPlan

NODES = "/dev/nvidia-caps/"
"""Where units have their nodes, each by its UUID."""

EVER = tuple(dict.fromkeys((*REFERENCE_SITE, *CUT_ANEW)))
"""Every unit that there ever is; its place is the number of its GPU instance."""


@dataclass
class EngineWorld:
    """Containers by id. `silent` makes every call fail."""

    containers: dict[str, ContainerFacts] = field(default_factory=dict)
    silent: bool = False
    start_error: str = ""
    stuck: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    made_with: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    async def listed(self) -> list[Listed]:
        self._speak()
        return [
            Listed(one.id, one.name, one.running or one.restarting, one.owner_uid, one.lease, "")
            for one in self.containers.values()
        ]

    async def raw(self, container: str) -> Mapping[str, Any] | None:
        self._speak()
        if container in self.stuck:
            raise Unavailable("no answer in time")
        return self.made_with.get(container, {"Id": container})

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
    withheld: dict[int, str] = field(default_factory=dict)
    processes: list[GpuProcess] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)
    links: dict[int, frozenset[int]] = field(default_factory=dict)

    async def read(self) -> Inventory:
        if self.units is None:
            raise Unavailable("NVML is silent")
        gpus = {unit.key.gpu_uuid: unit.gpu_index for unit in REFERENCE_SITE}
        return Inventory(
            tuple(unit for unit in self.units if unit.gpu_index not in self.withheld),
            dict(self.withheld),
            links=dict(self.links),
            gpus=gpus,
            unusable=frozenset(uuid for uuid, index in gpus.items() if index in self.withheld),
            instances={(unit.key.gpu_uuid, number): unit.key for number, unit in enumerate(EVER)},
        )

    async def read_processes(self) -> GpuProcesses:
        if self.units is None:
            raise Unavailable("NVML is silent")
        return GpuProcesses(tuple(self.processes), frozenset(self.unknown))

    def compute(self, pid: int, unit: Unit) -> None:
        """From now on process `pid` is on a unit."""
        self.processes.append(GpuProcess(unit.key.gpu_uuid, EVER.index(unit), pid, 1))

    def end(self, pid: int) -> None:
        """Process `pid` is on no unit any more."""
        self.processes = [one for one in self.processes if one.pid != pid]


@dataclass
class UnitsWorld:
    """systemd: scopes that were made, what login slices may open, and timers.

    `slow` makes a scope and gives no answer in time; `hold` has scopes wait until it is set; `scope_error` and
    `timer_error` make none; `meanwhile` happens when a scope is made.
    """

    scopes: dict[str, ScopePlan] = field(default_factory=dict)
    opened: dict[str, Devices] = field(default_factory=dict)
    timers: dict[str, TimerPlan] = field(default_factory=dict)
    silent: bool = False
    slow: bool = False
    scope_error: str = ""
    timer_error: str = ""
    hold: asyncio.Event | None = None
    meanwhile: Callable[[], None] = lambda: None

    async def start_scope(self, plan: ScopePlan) -> None:
        await (asyncio.sleep(0) if self.hold is None else self.hold.wait())
        self._speak()
        if self.scope_error:
            raise Unavailable(self.scope_error)
        if plan.name in self.scopes:
            raise Unavailable(f"systemd does not make '{plan.name}': Unit {plan.name} was already loaded")
        self.scopes[plan.name] = plan
        self.meanwhile()
        if self.slow:
            raise Unavailable("systemd does not answer 'StartTransientUnit': no answer in time")

    async def start_timer(self, plan: TimerPlan) -> None:
        self._speak()
        if self.timer_error:
            raise Unavailable(self.timer_error)
        self.timers.setdefault(plan.name, plan)

    async def is_there(self, unit: str) -> bool:
        self._speak()
        return unit in self.scopes

    async def devices(self, unit: str) -> Devices:
        self._speak()
        return self.opened.get(unit, (("char-pts", "rw"),))

    async def set_devices(self, unit: str, devices: Devices) -> None:
        self._speak()
        self.opened[unit] = devices

    async def stop(self, unit: str) -> None:
        self._speak()
        self.timers.pop(unit, None)

    def may_open(self, unit: str) -> set[str]:
        """The units whose nodes a login slice may open, by UUID."""
        return {path.removeprefix(NODES) for path, _ in self.opened.get(unit, ()) if path.startswith(NODES)}

    def _speak(self) -> None:
        if self.silent:
            raise Unavailable("systemd is silent")


class DeviceFolder:
    """The CDI side: keeps what was written; every unit of the reference site, however it is cut, has a node."""

    def __init__(self) -> None:
        self.spec: Mapping[str, Any] = {"devices": []}

    def vendor(self, wanted: object = None) -> VendorSpec:
        common = {"deviceNodes": [{"path": "/dev/nvidiactl"}]}
        return VendorSpec("0.6.0", common, {unit.uuid: {"deviceNodes": [{"path": NODES + unit.uuid}]} for unit in EVER})

    def write(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec

    def nodes(self) -> dict[str, list[str]]:
        """Nodes by device name."""
        return {
            item["name"]: [node["path"].removeprefix(NODES) for node in item["containerEdits"].get("deviceNodes", [])]
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
