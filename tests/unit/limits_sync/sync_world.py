"""systemd, the kernel and the engine in memory, for what the real ones do rarely; policies from their YAML."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ds01.common.adapters.yamltree import read_tree
from ds01.common.engine import Response
from ds01.common.errors import PeerRefused, Unavailable
from ds01.common.limits import Policy, parse_policy
from ds01.common.model import EngineFacts
from ds01.common.policy.build import build
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files
from ds01.common.sizes import LABEL
from ds01.common.slices import PropertyValue, SlicePlan, cgroup_of

MACHINE = Machine(cpus=64, memory_bytes=256 << 30, tasks=32768)
GIB = 1 << 30

YAML = """\
default_group: student
groups:
  student:
    memory: 32g
    max_cpus: 8
    pids_limit: 1000
    aggregate: {memory_max: 64g, cpu_quota: 1600%, tasks_max: 4000}
    login: {memory_max: 8g, cpu_quota: 400%, tasks_max: 500}
  researcher:
    unix_groups: [researcher]
    memory: 64g
    aggregate: {memory_max: 128g}
    total: {memory_max: 200g}
"""


def policy(text: str = YAML) -> Policy:
    """The policy that a YAML says on a machine of 64 CPUs and 256 GiB."""
    built = build(Files("limits.yaml", text.encode(), {}), read_tree, MACHINE)
    assert not built.problems, [str(problem) for problem in built.problems]
    return parse_policy(built.text)


class People:
    """NSS."""

    def __init__(self, **groups: str) -> None:
        self.known = {1001: ("alice", frozenset({"student"})), 1002: ("bob", frozenset({"student"}))}
        self.known[1004] = ("rita", frozenset({"researcher"}))

    def account(self, uid: int) -> tuple[str, frozenset[str]]:
        if uid not in self.known:
            raise PeerRefused(f"there is no account '{uid}'")
        return self.known[uid]

    def move(self, uid: int, *groups: str) -> None:
        self.known[uid] = (self.known[uid][0], frozenset(groups))


@dataclass
class FakeSystemd:
    """Units with their properties. `broken` refuses; `calls` are the changes that were asked for."""

    units: dict[str, dict[str, PropertyValue]] = field(default_factory=dict)
    drop_in_paths: dict[str, list[str]] = field(default_factory=dict)
    sessions: list[str] = field(default_factory=list)
    calls: list[tuple[str, dict[str, PropertyValue]]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    inactive: set[str] = field(default_factory=set)
    broken: bool = False

    async def ensure_slice(self, plan: SlicePlan) -> bool:
        self._speak()
        new = plan.name not in self.units
        await self.set_properties(plan.name, plan.properties)
        return new

    async def set_properties(self, unit: str, properties: Mapping[str, PropertyValue]) -> None:
        self._speak()
        self.calls.append((unit, dict(properties)))
        self.units.setdefault(unit, {}).update(properties)

    async def properties(self, unit: str, names: Iterable[str]) -> dict[str, PropertyValue]:
        self._speak()
        if unit.endswith(".service") and unit not in self.units:
            return {}
        known = self.units.get(unit, {})
        return {name: known.get(name, 2**64 - 1) for name in names}

    async def is_active(self, unit: str) -> bool:
        return unit in self.units and unit not in self.inactive

    async def drop_ins(self, unit: str) -> list[str]:
        return self.drop_in_paths.get(unit, [])

    async def active(self, patterns: Iterable[str]) -> list[str]:
        self._speak()
        return self.sessions

    async def stop(self, unit: str) -> None:
        self.stopped.append(unit)
        self.units.pop(unit, None)

    def set_of(self, unit: str) -> list[dict[str, PropertyValue]]:
        """Every change of one unit."""
        return [properties for name, properties in self.calls if name == unit]

    def _speak(self) -> None:
        if self.broken:
            raise Unavailable("systemd does not answer")


@dataclass
class FakeKernel:
    """A cgroup for each unit of systemd; memory in use by path."""

    systemd: FakeSystemd
    used: dict[str, int] = field(default_factory=dict)
    populated: set[str] = field(default_factory=set)

    def exists(self, path: str) -> bool:
        return path in {cgroup_of(unit) for unit in self.systemd.units}

    def is_populated(self, path: str) -> bool:
        return path in self.populated

    def used_bytes(self, path: str) -> int | None:
        return self.used.get(path)


@dataclass
class FakeEngine:
    """Containers by id, as inspect answers. `silent` does not answer, `refuses` answers an update with 500."""

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    silent: bool = False
    refuses: str = ""
    updates: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    engine: EngineFacts = field(default_factory=lambda: EngineFacts(True, True, True, True, True, 64))
    heard: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, uid: int, sizes: str = "policy", lease: str = "", **host: Any) -> str:
        identity = f"{name}-{'0' * 20}"
        labels = {"ds01.uid": str(uid), "ds01.managed": "1", "ds01.lease": lease, "ds01.group": "student"}
        self.containers[identity] = {
            "Id": identity,
            "Name": f"/{name}",
            "Config": {"Labels": {**labels, LABEL: sizes}},
            "State": {"Running": True},
            "HostConfig": {"CgroupParent": "ds01-student-alice.slice", **host},
        }
        return identity

    async def facts(self) -> EngineFacts:
        self._speak()
        return self.engine

    async def events(self, since: float) -> AsyncIterator[dict[str, Any]]:
        for event in self.heard:
            yield event
        raise Unavailable("the engine's events ended")

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: object = None
    ) -> Response:
        self._speak()
        _, _, identity, *rest = path.split("/")
        if identity == "json":
            wanted = json.loads((query or {})["filters"])["label"]
            found = [one for one in self.containers.values() if _matches(one["Config"]["Labels"], wanted)]
            return _answer(200, [{"Id": one["Id"]} for one in found])
        if identity not in self.containers:
            return _answer(404, {"message": "No such container"})
        if rest == ["json"]:
            return _answer(200, self.containers[identity])
        if self.refuses:
            return _answer(500, {"message": self.refuses})
        assert isinstance(body, dict)
        self.updates.append((identity, body))
        self.containers[identity]["HostConfig"].update(body)
        return _answer(200, {"Warnings": None})

    def _speak(self) -> None:
        if self.silent:
            raise Unavailable("the engine does not answer")


def _matches(labels: Mapping[str, str], wanted: Iterable[str]) -> bool:
    return all(labels.get(key) == value for key, _, value in (one.partition("=") for one in wanted))


def _answer(status: int, body: object) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(body).encode())


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now
