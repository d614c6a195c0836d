from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from engine_world import Journal
from sync_world import GIB, YAML, Clock, FakeEngine, FakeKernel, FakeSystemd, policy

from ds01.common.errors import Unavailable
from ds01.common.limits import Limits
from ds01.limits_sync.containers import Containers
from ds01.limits_sync.pendings import Pendings

FULL = {"NanoCpus": 8 * 10**9, "Memory": 32 * GIB, "MemorySwap": 32 * GIB, "PidsLimit": 1000}


class World:
    """alice's containers under the policy of `text`."""

    def __init__(self, folder: Path) -> None:
        self.engine, self.journal, self.clock = FakeEngine(), Journal(), Clock()
        self.kernel = FakeKernel(FakeSystemd())
        self.pendings = Pendings(folder / "shrinking.json")
        self.text = YAML
        self.missing: list[str] = []
        self.containers = Containers(
            self.engine, self.kernel, self.pendings, self.journal, self.limits_of, lambda: self.missing, self.clock
        )
        self.containers.grace_s = 600

    def limits_of(self, uid: int) -> tuple[str, str, Limits] | None:
        return ("alice", "student", policy(self.text).limits_for("alice", ["student"])) if uid == 1001 else None

    def refresh(self) -> int:
        return run(self.containers.refresh_all())

    def cgroup(self, identity: str) -> str:
        return f"ds01.slice/ds01-student.slice/ds01-student-alice.slice/docker-{identity}.scope"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def test_what_follows_the_policy_already_is_left_alone(world: World) -> None:
    world.engine.add("train", 1001, **FULL)
    assert (world.refresh(), world.engine.updates) == (0, [])


def test_a_changed_limit_is_changed_and_told(world: World) -> None:
    identity = world.engine.add("train", 1001, **FULL)
    world.text = YAML.replace("memory: 32g", "memory: 16g").replace("pids_limit: 1000", "pids_limit: 10")
    assert world.refresh() == 1
    assert world.engine.updates == [(identity, {"Memory": 16 * GIB, "MemorySwap": 16 * GIB, "PidsLimit": 10})]
    (event,) = world.journal.events
    assert (event.name, event.user, event.container_name) == ("limits.applied", "alice", "train")
    assert (event.old, event.new) == ("memory 32 GiB, processes 1000", "memory 16 GiB, processes 10")


def test_stopped_containers_follow_too(world: World) -> None:
    identity = world.engine.add("train", 1001, **FULL)
    world.engine.containers[identity]["State"]["Running"] = False
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    assert world.refresh() == 1


def test_administrators_containers_are_their_own(world: World) -> None:
    world.engine.add("free", 1001, sizes="", **FULL)
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    assert world.refresh() == 0


def test_an_account_that_is_gone_is_left_alone(world: World) -> None:
    world.engine.add("orphan", 4711)
    assert world.refresh() == 0


def test_memory_in_use_beyond_the_new_limit_waits_and_the_rest_does_not(world: World) -> None:
    identity = world.engine.add("train", 1001, **FULL)
    world.kernel.used[world.cgroup(identity)] = 20 * GIB
    world.text = YAML.replace("memory: 32g", "memory: 16g").replace("max_cpus: 8", "max_cpus: 4")
    world.refresh()
    assert world.engine.updates == [(identity, {"NanoCpus": 4 * 10**9})]
    assert world.journal.names() == ["limits.postponed", "limits.applied"]
    world.clock.now += 600
    world.refresh()
    assert world.engine.updates[-1] == (identity, {"Memory": 16 * GIB, "MemorySwap": 16 * GIB})
    assert world.pendings.names == []


def test_what_waits_is_forgotten_with_its_container(world: World) -> None:
    identity = world.engine.add("train", 1001, **FULL)
    world.kernel.used[world.cgroup(identity)] = 20 * GIB
    world.text = YAML.replace("memory: 32g", "memory: 16g")
    world.refresh()
    del world.engine.containers[identity]
    world.refresh()
    assert world.pendings.names == []


def test_a_container_with_a_gpu_is_not_changed_where_it_would_lose_it(world: World) -> None:
    world.engine.add("train", 1001, lease="l1", **FULL)
    world.missing = ["/dev/nvidia0"]
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    assert (world.refresh(), world.engine.updates) == (0, [])
    (event,) = world.journal.events
    assert event.name == "limits.failed"
    assert "/dev/nvidia0 has no link" in event.reason
    world.refresh()
    assert len(world.journal.events) == 1
    world.missing = []
    assert world.refresh() == 1


def test_the_engines_no_is_told_once(world: World) -> None:
    world.engine.add("train", 1001, **FULL)
    world.engine.refuses = "cannot update"
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    world.refresh()
    world.refresh()
    assert [event.reason for event in world.journal.events] == ["cannot update"]


def test_one_container_that_can_not_be_read_does_not_hinder_the_others(world: World) -> None:
    broken = world.engine.add("a", 1001, **FULL)
    del world.engine.containers[broken]["HostConfig"]
    world.engine.add("train", 1001, **FULL)
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    assert world.refresh() == 1


def test_a_silent_engine_is_an_error_and_not_an_answer(world: World) -> None:
    world.engine.silent = True
    with pytest.raises(Unavailable):
        world.refresh()
    with pytest.raises(Unavailable):
        run(world.containers.has_any(1001, "student"))


def test_who_has_a_container_where(world: World) -> None:
    world.engine.add("train", 1001)
    assert run(world.containers.has_any(1001, "student"))
    assert not run(world.containers.has_any(1001, "researcher"))
    assert not run(world.containers.has_any(1002, "student"))


def hear(world: World, *events: dict[str, object]) -> None:
    world.engine.heard = list(events)

    async def main() -> None:
        follow = asyncio.create_task(world.containers.follow())
        for _ in range(20):
            await asyncio.sleep(0)
        follow.cancel()

    asyncio.run(main())


OOM = {"Action": "oom", "Actor": {"ID": "c1", "Attributes": {"ds01.uid": "1001", "name": "train"}}}


def test_the_kernels_kill_is_an_event_that_names_container_user_and_limits(world: World) -> None:
    hear(world, OOM)
    (event,) = world.journal.events
    assert (event.name, event.user, event.container_name) == ("container.oom-killed", "alice", "train")
    assert event.limit == "one container may have 32 GiB, all of a user's together 64 GiB"


def test_a_container_that_is_killed_in_a_loop_does_not_flood_the_journal(world: World) -> None:
    hear(world, *[OOM] * 50)
    assert len(world.journal.events) == 3


def test_a_container_made_under_the_policy_of_a_moment_ago_follows(world: World) -> None:
    world.containers.policy_changed()
    world.text = YAML.replace("pids_limit: 1000", "pids_limit: 10")
    hear(world)
    identity = world.engine.add("late", 1001, **FULL)
    hear(world, {"Action": "create", "Actor": {"ID": identity, "Attributes": {}}})
    assert world.engine.updates[-1] == (identity, {"PidsLimit": 10})
