from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_world import Journal
from sync_world import GIB, YAML, FakeKernel, FakeSystemd, People, policy

from ds01.common.errors import PeerRefused, PolicyInvalid, Unavailable
from ds01.common.slices import SliceOwner, cgroup_of
from ds01.common.slicestate import read_owners, write_owners
from ds01.limits_sync.keeper import Keeper
from ds01.limits_sync.pendings import Pendings
from ds01.limits_sync.units import Units

ALICE = 1001
OLD, NEW = "ds01-student-alice.slice", "ds01-researcher-alice.slice"


class World:
    """A keeper over systemd in memory. `containers` are (uid, group) that the engine knows of."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "slices.json"
        self.systemd, self.journal, self.people = FakeSystemd(), Journal(), People()
        self.kernel = FakeKernel(self.systemd)
        self.containers: set[tuple[int, str]] = set()
        self.engine_is_there = True
        self.keeper = self.make()

    def make(self) -> Keeper:
        units = Units(self.systemd, self.kernel, Pendings(self.path.with_name("p.json")), self.journal)
        made = Keeper(units, self.kernel, self.people.account, self.has_any, self.systemd.stop, self.path)
        made.policy = policy()
        return made

    async def has_any(self, uid: int, group: str) -> bool:
        if not self.engine_is_there:
            raise Unavailable("the engine does not answer")
        return (uid, group) in self.containers

    def ensure(self, uid: int = ALICE) -> tuple[str, str]:
        return asyncio.run(self.keeper.ensure(uid))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_slice_is_made_parent_first_and_remembered(world: World) -> None:
    assert world.ensure() == (OLD, "student")
    assert [unit for unit, _ in world.systemd.calls] == ["ds01-student.slice", OLD]
    assert {owner.uid for owner in read_owners(world.path)} == {ALICE}
    assert world.journal.names() == ["slice.ensured"]


def test_a_slice_that_is_there_asks_nobody(world: World) -> None:
    world.ensure()
    world.systemd.calls.clear()
    world.ensure()
    assert (world.systemd.calls, world.journal.names()) == ([], ["slice.ensured"])


def test_a_slice_that_was_stopped_meanwhile_is_made_again(world: World) -> None:
    world.ensure()
    del world.systemd.units[OLD]
    world.ensure()
    assert world.systemd.units[OLD]["MemoryMax"] == 64 * GIB


def test_without_systemd_there_is_no_slice_and_no_excuse(world: World) -> None:
    world.systemd.broken = True
    with pytest.raises(Unavailable):
        world.ensure()


def test_it_is_remembered_before_it_is_made(world: World) -> None:
    world.systemd.broken = True
    with pytest.raises(Unavailable):
        world.ensure()
    assert {owner.uid for owner in read_owners(world.path)} == {ALICE}


def test_without_a_policy_there_are_no_limits_to_guess(world: World) -> None:
    world.keeper.policy = None
    with pytest.raises(PolicyInvalid):
        world.ensure()


def test_nobody_has_no_slice(world: World) -> None:
    with pytest.raises(PeerRefused):
        world.ensure(4711)


def test_who_moved_works_on_in_the_old_slice_while_something_runs_there(world: World) -> None:
    world.ensure()
    world.people.move(ALICE, "researcher")
    world.kernel.populated.add(cgroup_of(OLD))
    assert world.ensure() == (OLD, "student")
    assert world.systemd.units[OLD]["MemoryMax"] == 128 * GIB


def test_a_stopped_container_keeps_the_old_slice_too(world: World) -> None:
    """It would start there, beside what runs in the new one, and the two could not share one limit."""
    world.ensure()
    world.people.move(ALICE, "researcher")
    world.containers.add((ALICE, "student"))
    assert world.ensure() == (OLD, "student")


def test_the_old_slice_is_given_up_when_nothing_is_left_in_it(world: World) -> None:
    world.ensure()
    world.people.move(ALICE, "researcher")
    assert world.ensure() == (NEW, "researcher")
    assert world.systemd.stopped == [OLD]
    assert read_owners(world.path) == {SliceOwner(ALICE, "alice", "researcher")}
    assert OLD not in world.systemd.units


def test_nobody_guesses_whether_the_old_slice_is_empty(world: World) -> None:
    world.ensure()
    world.people.move(ALICE, "researcher")
    world.engine_is_there = False
    with pytest.raises(Unavailable):
        world.ensure()
    assert world.systemd.stopped == []


def test_who_moves_back_before_it_was_empty_has_never_left(world: World) -> None:
    world.ensure()
    world.people.move(ALICE, "researcher")
    world.containers.add((ALICE, "student"))
    world.ensure()
    world.people.move(ALICE, "student")
    assert world.ensure() == (OLD, "student")
    assert world.systemd.units[OLD]["MemoryMax"] == 64 * GIB


def test_a_new_name_does_not_double_the_limit(world: World) -> None:
    world.ensure()
    world.people.known[ALICE] = ("alicia", world.people.known[ALICE][1])
    world.containers.add((ALICE, "student"))
    assert world.ensure() == (OLD, "student")
    world.containers.clear()
    assert world.ensure() == ("ds01-student-alicia.slice", "student")


def test_slices_of_others_are_not_touched(world: World) -> None:
    write_owners([SliceOwner(7, "x", "phd")], world.path)
    world.keeper = world.make()
    world.ensure()
    assert "ds01-phd-x.slice" not in world.systemd.units


def test_a_login_gets_its_limits_whatever_it_had_before(world: World) -> None:
    asyncio.run(world.keeper.logged_in(ALICE))
    assert world.systemd.units["user-1001.slice"]["MemoryMax"] == 8 * GIB
    world.systemd.units["user-1001.slice"]["MemoryMax"] = GIB
    asyncio.run(world.keeper.logged_in(ALICE))
    assert world.systemd.units["user-1001.slice"]["MemoryMax"] == 8 * GIB


def test_a_login_does_not_begin_a_grace_anew(world: World, tmp_path: Path) -> None:
    asyncio.run(world.keeper.logged_in(ALICE))
    world.keeper.policy = policy(YAML.replace("login: {memory_max: 8g", "login: {memory_max: 1g"))
    world.keeper.plan()
    world.kernel.used["user.slice/user-1001.slice"] = 6 * GIB
    asyncio.run(world.keeper.logged_in(ALICE))
    first = (tmp_path / "p.json").read_text()
    asyncio.run(world.keeper.logged_in(ALICE))
    assert (tmp_path / "p.json").read_text() == first


@pytest.mark.parametrize("uid", [0, 4711])
def test_root_and_unknown_logins_get_none(world: World, uid: int) -> None:
    asyncio.run(world.keeper.logged_in(uid))
    assert world.systemd.calls == []
