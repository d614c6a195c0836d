from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from engine_world import Journal
from sync_world import GIB, YAML, Clock, FakeKernel, FakeSystemd, policy

from ds01.common.errors import Unavailable
from ds01.common.slices import SliceOwner, cgroup_of
from ds01.limits_sync.pendings import Pendings
from ds01.limits_sync.units import Units
from ds01.limits_sync.wanted import Account, wanted_units

ALICES = "ds01-student-alice.slice"
OWNERS = [SliceOwner(1001, "alice", "student")]
ACCOUNTS = {1001: Account("alice", frozenset({"student"}))}


class World:
    """Units over systemd in memory, with alice's slices."""

    def __init__(self, folder: Path) -> None:
        self.systemd, self.journal, self.clock = FakeSystemd(), Journal(), Clock()
        self.kernel = FakeKernel(self.systemd)
        self.pendings = Pendings(folder / "shrinking.json")
        self.units = Units(self.systemd, self.kernel, self.pendings, self.journal, self.clock)
        self.units.grace_s = 600
        self.want(YAML)

    def want(self, text: str) -> None:
        self.units.wanted = wanted_units(policy(text), OWNERS, ACCOUNTS, [])

    def memory(self, unit: str = ALICES) -> object:
        return self.systemd.units[unit]["MemoryMax"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    run(made.units.refresh_all())
    made.systemd.calls.clear()
    made.journal.events.clear()
    return made


T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


def test_the_first_pass_makes_slices_parents_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert run(world.units.refresh_all()) == (4, [])
    made = [unit for unit, _ in world.systemd.calls]
    assert made == ["ds01.slice", "docker.slice", "ds01-student.slice", ALICES]
    assert "slice.ensured" in world.journal.names()


def test_a_pass_without_a_difference_asks_nobody(world: World) -> None:
    world.systemd.broken = True
    assert run(world.units.refresh_all()) == (0, [])


def test_a_change_sets_what_differs_and_tells_old_and_new(world: World) -> None:
    world.want(YAML.replace("memory_max: 64g", "memory_max: 48g"))
    assert run(world.units.refresh_all()) == (1, [])
    assert world.systemd.set_of(ALICES) == [{"MemoryMax": 48 * GIB, "MemoryHigh": 48 * GIB * 9 // 10 // 4096 * 4096}]
    (event,) = world.journal.events
    assert (event.name, event.user, event.group) == ("limits.applied", "alice", "student")
    assert event.old.startswith("MemoryMax 64 GiB")
    assert event.new.startswith("MemoryMax 48 GiB")


def test_a_service_that_is_not_installed_is_no_error(world: World) -> None:
    assert run(world.units.refresh_all()) == (0, [])
    assert not world.systemd.set_of("atd.service")


def test_systemd_that_refuses_is_told_and_the_limit_is_set_the_next_time(world: World) -> None:
    world.want(YAML.replace("tasks_max: 4000", "tasks_max: 3000"))
    world.systemd.broken = True
    changed, problems = run(world.units.refresh_all())
    assert (changed, problems) == (0, ["systemd does not answer"])
    world.systemd.broken = False
    assert run(world.units.refresh_all()) == (1, [])
    assert world.systemd.units[ALICES]["TasksMax"] == 3000


def test_memory_in_use_beyond_a_lowered_limit_is_left_alone_for_the_grace(world: World) -> None:
    world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
    world.want(YAML.replace("memory_max: 64g", "memory_max: 32g").replace("tasks_max: 4000", "tasks_max: 10"))
    run(world.units.refresh_all())
    assert world.memory() == 64 * GIB
    assert world.systemd.units[ALICES]["TasksMax"] == 10
    assert world.systemd.units[ALICES]["MemoryHigh"] == 32 * GIB * 9 // 10 // 4096 * 4096
    assert world.journal.names() == ["limits.applied", "limits.postponed"]
    assert world.pendings.until == world.clock.now + 600


def test_it_is_told_once(world: World) -> None:
    world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
    world.want(YAML.replace("memory_max: 64g", "memory_max: 32g"))
    run(world.units.refresh_all())
    run(world.units.refresh_all())
    assert world.journal.names().count("limits.postponed") == 1


def test_it_holds_as_soon_as_the_use_has_gone_down(world: World) -> None:
    world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
    world.want(YAML.replace("memory_max: 64g", "memory_max: 32g"))
    run(world.units.refresh_all())
    world.kernel.used[cgroup_of(ALICES)] = 20 * GIB
    run(world.units.refresh(ALICES))
    assert world.memory() == 32 * GIB
    assert world.pendings.names == []


def test_it_holds_after_the_grace_all_the_same(world: World) -> None:
    world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
    world.want(YAML.replace("memory_max: 64g", "memory_max: 32g"))
    run(world.units.refresh_all())
    world.clock.now += 600
    run(world.units.refresh(ALICES))
    assert world.memory() == 32 * GIB


def test_a_limit_that_is_raised_again_waits_for_nothing(world: World) -> None:
    world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
    world.want(YAML.replace("memory_max: 64g", "memory_max: 32g"))
    run(world.units.refresh_all())
    world.want(YAML)
    run(world.units.refresh_all())
    assert (world.memory(), world.pendings.names) == (64 * GIB, [])


def test_what_was_changed_by_hand_is_put_back_and_said(world: World) -> None:
    world.systemd.units[ALICES]["MemoryMax"] = 999 * GIB
    world.systemd.drop_in_paths[ALICES] = ["/etc/systemd/system.control/x.conf", "/usr/lib/systemd/system/y.conf"]
    run(world.units.verify(ALICES))
    assert world.memory() == 64 * GIB
    (event,) = world.journal.events
    assert event.name == "limits.restored"
    assert event.old == "MemoryMax 999 GiB"
    assert event.reason == "/etc/systemd/system.control/x.conf"


def test_what_is_as_it_should_be_is_no_event(world: World) -> None:
    run(world.units.verify(ALICES))
    assert (world.systemd.calls, world.journal.names()) == ([], [])


def test_a_unit_that_is_not_active_is_nobodys_business_until_it_is_seen_again(world: World) -> None:
    """What was set of it may lose against a file when it is loaded; setting it now would go on for ever."""
    world.systemd.inactive.add("ds01.slice")
    world.systemd.units["ds01.slice"]["MemoryMax"] = GIB
    run(world.units.verify("ds01.slice"))
    assert (world.systemd.calls, world.journal.names()) == ([], [])
    world.systemd.inactive.clear()
    run(world.units.refresh("ds01.slice"))
    assert world.systemd.units["ds01.slice"]["MemoryMax"] != GIB


def test_nobody_quarrels_for_ever(world: World) -> None:
    again = []
    for _ in range(8):
        world.systemd.units[ALICES]["MemoryMax"] = GIB
        again.append(run(world.units.verify(ALICES)))
    assert again == [False] * 5 + [True] * 3
    assert world.journal.names() == ["limits.restored"] * 5 + ["limits.failed"]
    world.clock.now += 60
    assert not run(world.units.verify(ALICES))
    assert world.memory() == 64 * GIB


def test_what_was_stopped_by_hand_is_made_again(world: World) -> None:
    del world.systemd.units[ALICES]
    del world.systemd.units["ds01-student.slice"]
    run(world.units.restore())
    assert [unit for unit, _ in world.systemd.calls] == ["ds01-student.slice", ALICES]
    assert world.journal.names() == ["limits.restored", "limits.restored"]


def test_a_unit_that_is_forgotten_is_not_made_again(world: World) -> None:
    world.units.forget(ALICES)
    del world.systemd.units[ALICES]
    run(world.units.restore())
    assert ALICES not in world.systemd.units


def test_a_slice_that_can_not_be_made_is_the_callers_error(world: World) -> None:
    del world.systemd.units[ALICES]
    world.systemd.broken = True
    with pytest.raises(Unavailable):
        run(world.units.refresh(ALICES))
