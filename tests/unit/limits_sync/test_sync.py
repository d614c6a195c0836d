"""The loop on a real folder with real inotify; systemd and the engine in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from engine_world import Journal
from sync_world import GIB, MACHINE, YAML, FakeEngine, FakeKernel, FakeSystemd, People

from ds01.common.adapters.inotify import FolderWatch
from ds01.common.adapters.yamltree import read_tree
from ds01.common.limits import parse_policy
from ds01.common.policy.build import build, built_in
from ds01.common.policy.folder import read_files
from ds01.common.slices import cgroup_of
from ds01.limits_sync.containers import Containers
from ds01.limits_sync.keeper import Keeper
from ds01.limits_sync.pendings import Pendings
from ds01.limits_sync.places import Places
from ds01.limits_sync.publish import Publisher
from ds01.limits_sync.sync import Sync
from ds01.limits_sync.units import Units

ALICES = "ds01-student-alice.slice"
HALF = YAML.replace("memory_max: 64g", "memory_max: 32g")
BROKEN = YAML.replace("memory_max: 64g", "memory_max: 64")


class Status:
    """What systemd is told."""

    def __init__(self) -> None:
        self.text = ""

    def ready(self, status: str) -> None: ...
    def reloading(self) -> None: ...
    def reloaded(self) -> None: ...
    def alive(self) -> None: ...
    def stopping(self) -> None: ...

    def status(self, text: str) -> None:
        self.text = text


class World:
    """The whole service over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.control = folder / "ds01", folder / "transient"
        for path in (self.folder / "groups", self.control):
            path.mkdir(parents=True)
        self.file = self.folder / "resource-limits.yaml"
        self.file.write_text(YAML)
        self.published = folder / "policy.json"
        self.systemd, self.engine, self.journal, self.people = FakeSystemd(), FakeEngine(), Journal(), People()
        self.kernel, self.status = FakeKernel(self.systemd), Status()
        self.pendings = Pendings(folder / "shrinking.json")
        self.units = Units(self.systemd, self.kernel, self.pendings, self.journal)
        containers = Containers(
            self.engine, self.kernel, self.pendings, self.journal, lambda uid: self.keeper.limits_of(uid), list
        )
        state = folder / "slices.json"
        self.keeper = Keeper(self.units, self.kernel, self.people.account, containers.has_any, self.systemd.stop, state)
        self.sync = Sync(
            lambda: build(read_files(self.folder), read_tree, MACHINE), lambda: built_in(MACHINE),
            Publisher(self.published, folder / "last.json"), self.units, self.keeper, containers, self.pendings,
            self.systemd, Places(self.folder, (str(self.control),)), self.status, self.journal,
        )  # fmt: skip

    def save(self, text: str) -> None:
        """As editors do."""
        scratch = self.folder / ".new"
        scratch.write_text(text)
        os.replace(scratch, self.file)

    def memory(self) -> object:
        return self.systemd.units.get(ALICES, {}).get("MemoryMax")

    def tell(self, story: Callable[[], Awaitable[None]]) -> None:
        """Start, with a slice for alice; tell the story; stop."""

        async def main() -> None:
            watch = FolderWatch(self.sync.changed)
            watch.start()
            await self.sync.start(watch)
            await self.keeper.ensure(1001)
            self.journal.events.clear()
            try:
                await story()
            finally:
                self.sync.close()
                watch.close()

        asyncio.run(main())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until(holds: Callable[[], object]) -> None:
    """Returns when it holds; a test that waits for ever is ended by the runner's time limit."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


def test_a_save_holds_is_published_and_kept_for_the_next_boot(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        world.save(HALF)
        await until(lambda: world.memory() == 32 * GIB)
        limits = parse_policy(world.published.read_text()).limits_for("alice", [])
        assert limits.aggregate.memory_max_bytes == 32 * GIB
        await until(lambda: (tmp_path / "last.json").exists() and "34359738368" in (tmp_path / "last.json").read_text())
        assert world.journal.names()[:2] == ["policy.published", "limits.applied"]

    world.tell(story)


def in_place(world: World, text: str) -> None:
    world.file.write_text(text)


def by_link(world: World, text: str) -> None:
    (world.folder.parent / "other.yaml").write_text(text)
    (world.folder / "link").symlink_to("../other.yaml")
    os.replace(world.folder / "link", world.file)


@pytest.mark.parametrize("save", [World.save, in_place, by_link])
def test_every_way_to_save_is_seen(world: World, save: Callable[[World, str], None]) -> None:
    async def story() -> None:
        save(world, HALF)
        await until(lambda: world.memory() == 32 * GIB)

    world.tell(story)


def test_the_target_of_a_link_is_watched_too(world: World) -> None:
    async def story() -> None:
        by_link(world, HALF)
        await until(lambda: world.memory() == 32 * GIB)
        (world.folder.parent / "other.yaml").write_text(YAML.replace("64g, cpu", "16g, cpu"))
        await until(lambda: world.memory() == 16 * GIB)

    world.tell(story)


def test_a_burst_is_one_change(world: World) -> None:
    async def story() -> None:
        for number in range(30):
            world.save(YAML.replace("64g, cpu", f"{number + 1}g, cpu"))
        await until(lambda: world.memory() == 30 * GIB)
        assert world.journal.names().count("policy.published") <= 2

    world.tell(story)


def test_a_broken_file_changes_nothing_and_says_why(world: World) -> None:
    async def story() -> None:
        before = world.published.read_text()
        world.save(BROKEN)
        await until(lambda: "REJECTED" in world.status.text)
        assert (world.memory(), world.published.read_text()) == (64 * GIB, before)
        (event,) = world.journal.events
        assert event.name == "limits.rejected"
        assert f"{world.file}:7:29: groups.student.aggregate.memory_max: '64' has no unit" in event.message
        world.save(HALF)
        await until(lambda: world.memory() == 32 * GIB)
        assert "REJECTED" not in world.status.text

    world.tell(story)


def test_the_same_problem_is_told_once(world: World) -> None:
    async def story() -> None:
        world.save(BROKEN)
        await until(lambda: world.journal.names() == ["limits.rejected"])
        await world.sync.reload()
        assert world.journal.names() == ["limits.rejected"]

    world.tell(story)


def test_a_file_that_is_gone_changes_nothing(world: World) -> None:
    async def story() -> None:
        world.file.unlink()
        await until(lambda: "does not exist" in world.status.text)
        assert world.memory() == 64 * GIB

    world.tell(story)


def test_a_broken_file_at_the_start_leaves_the_last_good_policy(world: World) -> None:
    world.sync._publisher.keep(build(read_files(world.folder), read_tree, MACHINE).text)
    world.file.write_text(BROKEN)

    async def story() -> None:
        assert world.memory() == 64 * GIB
        assert "the last good one holds" in world.status.text

    world.tell(story)


def test_with_no_good_policy_at_all_the_strict_one_holds(world: World) -> None:
    world.file.write_text(BROKEN)

    async def story() -> None:
        slices = {name: unit for name, unit in world.systemd.units.items() if "alice" in name}
        assert [unit["MemoryMax"] for unit in slices.values()] == [96 * GIB]
        assert "built-in" in world.status.text
        assert not (world.folder.parent / "last.json").exists()

    world.tell(story)


def test_members_files_are_read_live(world: World) -> None:
    async def story() -> None:
        (world.folder / "groups/researcher.members").write_text("alice  # since October\n")
        world.kernel.populated.add(cgroup_of(ALICES))
        await until(lambda: world.memory() == 128 * GIB)

    world.tell(story)


def test_a_unit_that_changed_by_hand_is_put_back(world: World) -> None:
    async def story() -> None:
        world.systemd.units[ALICES]["MemoryMax"] = GIB
        (world.control / f"{ALICES}.d").mkdir()
        await until(lambda: world.memory() == 64 * GIB)
        world.systemd.units[ALICES]["MemoryMax"] = GIB
        (world.control / f"{ALICES}.d/50-MemoryMax.conf").touch()
        await until(lambda: world.memory() == 64 * GIB)
        assert world.journal.names() == ["limits.restored", "limits.restored"]

    world.tell(story)


def test_a_slice_that_was_stopped_by_hand_comes_back(world: World) -> None:
    async def story() -> None:
        (world.control / ALICES).touch()
        del world.systemd.units[ALICES]
        (world.control / ALICES).unlink()
        await until(lambda: world.memory() == 64 * GIB)

    world.tell(story)


def test_a_reload_of_systemd_is_looked_after(world: World) -> None:
    async def story() -> None:
        world.systemd.units["ds01.slice"]["MemoryMax"] = GIB
        world.sync.reloaded()
        await until(lambda: world.systemd.units["ds01.slice"]["MemoryMax"] != GIB)

    world.tell(story)


def test_sessions_get_their_limits_at_login_and_by_a_save(world: World) -> None:
    async def story() -> None:
        world.systemd.sessions = ["user-1002.slice", "user-0.slice"]
        world.sync.logged_in(1002)
        await until(lambda: world.systemd.units.get("user-1002.slice", {}).get("MemoryMax") == 8 * GIB)
        world.save(YAML.replace("login: {memory_max: 8g", "login: {memory_max: 4g"))
        await until(lambda: world.systemd.units["user-1002.slice"]["MemoryMax"] == 4 * GIB)
        assert "user-0.slice" not in world.systemd.units

    world.tell(story)


def test_memory_that_is_let_go_ends_the_wait(world: World) -> None:
    async def story() -> None:
        world.kernel.used[cgroup_of(ALICES)] = 60 * GIB
        world.save(YAML.replace("64g, cpu", "32g, cpu") + "policies: {shrink_grace: 1s}\n")
        await until(lambda: world.pendings.names == [ALICES])
        assert "1 lowered" in world.status.text
        await until(lambda: world.memory() == 32 * GIB)
        assert world.pendings.names == []

    world.tell(story)


def test_what_waits_at_the_end_is_dropped(world: World) -> None:
    async def story() -> None:
        world.save(HALF)
        world.sync.reloaded()
        await asyncio.sleep(0.02)

    world.tell(story)
    assert not world.sync._timers


def test_systemd_that_fails_is_tried_again(world: World) -> None:
    async def story() -> None:
        world.systemd.broken = True
        world.save(HALF)
        await until(lambda: "limits.failed" in world.journal.names())
        world.systemd.broken = False
        await until(lambda: world.memory() == 32 * GIB)

    world.tell(story)
