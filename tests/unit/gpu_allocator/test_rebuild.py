"""A ledger made anew from what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import NODES, DeviceFolder
from scene import Scene
from worlds import ALICE, BOB, CUT_ANEW, REFERENCE_SITE, instance, lease

from ds01.common.errors import LedgerBroken, PeerRefused, Unavailable
from ds01.common.events import Event
from ds01.common.ledger import Ledger
from ds01.common.model import Entry, Lease, LeaseState, Listed
from ds01.gpu_allocator.rebuild import Found, Sources, leases_of, rebuild

NOW = 1_000_000.0
VENDOR = DeviceFolder().vendor()


def owner(uid: int) -> tuple[str, str]:
    return f"user{uid}", "student"


def container(
    name: str, *nodes: str, uid: int | None = ALICE, lease: str = "", running: bool = True, known: bool = True
) -> Found:
    """A container that carries the label of a lease, and has the nodes of units with these UUIDs."""
    listed = Listed(f"id-{name}", name, running, uid, lease or f"l-{name}", "2g.10gb")
    return Found(listed, frozenset({"/dev/nvidiactl", *(NODES + node for node in nodes)}) if known else None)


def made(*found: Found) -> tuple[dict[str, list[str]], list[str]]:
    """Units by the ids of leases that hold some, and what was said."""
    leases, said = leases_of(found, REFERENCE_SITE, VENDOR, owner, NOW)
    return {one.id: [unit.name for unit in one.units] for one in leases if one.state is LeaseState.ACTIVE}, said


def test_what_runs_holds_what_its_nodes_say() -> None:
    holds, said = made(container("a", "MIG-0-1"), container("b", "GPU-2", "GPU-3", uid=BOB))
    assert holds == {"l-a": ["0:1"], "l-b": ["2", "3"]}
    assert said == [f"'a' of user{ALICE} holds 0:1", f"'b' of user{BOB} holds 2, 3"]


def test_the_lease_is_what_it_was_as_far_as_labels_say() -> None:
    (found,), _ = leases_of([container("a", "MIG-0-1")], REFERENCE_SITE, VENDOR, owner, NOW)
    assert (found.uid, found.user, found.group, found.container, found.container_name, found.request) == (
        ALICE,
        f"user{ALICE}",
        "student",
        "id-a",
        "a",
        "2g.10gb",
    )
    assert (found.since, found.until, found.count) == (NOW, None, 1)


def test_what_does_not_run_holds_nothing_and_can_be_started_again() -> None:
    leases, said = leases_of([container("a", "MIG-0-1", running=False)], REFERENCE_SITE, VENDOR, owner, NOW)
    assert [(one.id, one.state, one.units, one.count) for one in leases] == [("l-a", LeaseState.RELEASED, (), 1)]
    assert said == []


@pytest.mark.parametrize("found", [container("a", "MIG-0-0", uid=None)])
def test_what_is_not_ours_is_left_alone(found: Found) -> None:
    assert made(found) == ({}, [])


def test_two_containers_with_one_unit_are_told_and_the_first_has_it() -> None:
    holds, said = made(container("a", "MIG-0-0"), container("b", "MIG-0-0", uid=BOB))
    assert holds == {"l-a": ["0:0"]}
    assert any("'b'" in one and "0:0" in one and "look at both" in one for one in said)


def test_what_runs_without_a_unit_is_told() -> None:
    holds, said = made(container("a"))
    assert holds == {}
    assert said == [f"'a' of user{ALICE} holds nothing"]


def test_nodes_of_a_unit_that_is_not_here_are_nobodys() -> None:
    leases, _ = leases_of([container("a", "MIG-0-0")], CUT_ANEW, VENDOR, owner, NOW)
    assert [one.units for one in leases] == [()]


class Ruin(Scene):
    """A scene whose ledger is to be made anew from `nodes` of processes by pid."""

    nodes: dict[int, frozenset[str] | None]
    programs: list[str]

    def sources(self) -> Sources:
        async def programs() -> list[str]:
            return self.programs

        async def timers() -> list[str]:
            return list(self.units.timers)

        async def end(unit: str) -> None:
            del self.units.timers[unit.removesuffix(".service") + ".timer"]
            self.units.opened.clear()

        return Sources(
            listed=self.engine.listed,
            inspect=self.engine.inspect,
            nodes_of=lambda pid: self.nodes.get(pid),
            vendor=self.devices.vendor,
            programs=programs,
            timers=timers,
            end=end,
        )

    async def rebuild(self) -> list[str]:
        return await rebuild(self.facts, self.sources(), self.path)


def ruin(folder: Path, story: Callable[[Ruin], Awaitable[None]]) -> None:
    async def scene() -> None:
        stage = Ruin(folder)
        stage.nodes, stage.programs = {}, []
        try:
            await stage.allocator.look()
            await stage.side.reconcile()
            await asyncio.wait_for(story(stage), 20)
        finally:
            stage.close()

    asyncio.run(scene())


def runs(scene: Ruin, held: Lease, pid: int, *uuids: str) -> None:
    """The container of a lease runs as `pid`, on units with these UUIDs."""
    identity = scene.engine.create(held.id, held.uid)
    scene.engine.containers[identity] = replace(scene.engine.containers[identity], running=True, pid=pid)
    scene.nodes[pid] = frozenset(NODES + uuid for uuid in uuids)


def test_a_ledger_that_is_well_is_left_alone(tmp_path: Path) -> None:
    async def story(scene: Ruin) -> None:
        with pytest.raises(PeerRefused, match="is well"):
            await scene.rebuild()

    ruin(tmp_path, story)


def test_the_old_file_is_kept_and_what_runs_is_known_again(tmp_path: Path) -> None:
    async def story(scene: Ruin) -> None:
        held = lease(ALICE, instance(0, 0), name="l1")
        runs(scene, held, 7, "MIG-0-0")
        scene.facts.ledger_problem = "it is damaged"
        with pytest.raises(LedgerBroken):
            await scene.lease(BOB)
        said = await scene.rebuild()
        (aside,) = tmp_path.glob("ledger.sqlite.broken-*[0-9]")
        assert str(aside) in said[0]
        assert [(one.id, one.unit_names) for one in scene.book.leases] == [("l1", "0:0")]
        assert scene.devices.nodes() == {"l1": ["MIG-0-0"]}
        other = await scene.lease(BOB)
        assert isinstance(other, Lease)
        assert other.unit_names != "0:0"
        assert {one.id for one in Ledger.open_to_read(scene.path).holding()} == {"l1", other.id}

    ruin(tmp_path, story)


def test_what_was_written_before_is_not_lost_with_the_old_file(tmp_path: Path) -> None:
    async def story(scene: Ruin) -> None:
        scene.ledger.write([Entry(leases=(lease(ALICE, instance(0, 0), name="l1"),))])
        scene.facts.ledger_problem = "it is damaged"
        await scene.rebuild()
        (aside,) = tmp_path.glob("ledger.sqlite.broken-*[0-9]")
        assert [one.id for one in Ledger.open_to_read(aside).holding()] == ["l1"]
        assert scene.book.leases == ()

    ruin(tmp_path, story)


def test_programs_that_run_must_end_first(tmp_path: Path) -> None:
    async def story(scene: Ruin) -> None:
        scene.facts.ledger_problem, scene.programs = "it is damaged", ["ds01-l1.scope"]
        with pytest.raises(PeerRefused, match=r"ds01-l1\.scope"):
            await scene.rebuild()
        assert list(tmp_path.glob("*.broken-*")) == []

    ruin(tmp_path, story)


@pytest.mark.parametrize("silent", ["engine", "gpus"])
def test_who_can_not_be_asked_leaves_everything_as_it_is(tmp_path: Path, silent: str) -> None:
    async def story(scene: Ruin) -> None:
        scene.facts.ledger_problem = "it is damaged"
        if silent == "engine":
            scene.engine.silent = True
        else:
            scene.gpus.units = None
        with pytest.raises(Unavailable):
            await scene.rebuild()
        assert scene.facts.ledger_problem
        assert list(tmp_path.glob("*.broken-*")) == []

    ruin(tmp_path, story)


def test_an_account_that_is_gone_keeps_its_unit(tmp_path: Path) -> None:
    async def story(scene: Ruin) -> None:
        runs(scene, lease(scene.UNKNOWN, instance(0, 0), name="l1"), 7, "MIG-0-0")
        scene.facts.ledger_problem = "it is damaged"
        said = await scene.rebuild()
        assert any(f"uid {scene.UNKNOWN}" in one for one in said)
        assert [one.unit_names for one in scene.book.leases] == ["0:0"]

    ruin(tmp_path, story)


def test_a_container_of_which_nothing_can_be_told_keeps_the_ledger_from_being_made(tmp_path: Path) -> None:
    """Unknown is not free: its unit would be given to somebody else."""

    async def story(scene: Ruin) -> None:
        runs(scene, lease(ALICE, instance(0, 0), name="l1"), 7, "MIG-0-0")
        scene.nodes[7] = None
        scene.facts.ledger_problem = "it is damaged"
        with pytest.raises((Unavailable, PeerRefused)):
            await scene.rebuild()
        assert list(tmp_path.glob("*.broken-*")) == []

    ruin(tmp_path, story)


def test_events_that_are_noted_meanwhile_do_not_keep_it_from_being_made(tmp_path: Path) -> None:
    """People are refused all the time, and each refusal is on its way to the old file."""

    async def story(scene: Ruin) -> None:
        is_done = False

        def again(_: object = None) -> None:
            if not is_done:
                done = scene.book.keep(Event("access.refused", "no", uid=ALICE))
                done.add_done_callback(again)

        again()
        scene.facts.ledger_problem = "it is damaged"
        try:
            assert await scene.rebuild()
        finally:
            is_done = True
            await scene.settle()

    ruin(tmp_path, story)


def test_what_is_open_to_logins_is_closed(tmp_path: Path) -> None:
    """Nobody would know of it, and its units would be given away."""

    async def story(scene: Ruin) -> None:
        assert isinstance(await scene.login("nobody"), Lease)
        assert scene.units.timers
        scene.facts.ledger_problem = "it is damaged"
        said = await scene.rebuild()
        assert any("1 grant(s) to logins were closed" in line for line in said)
        assert not scene.units.timers
        assert not any(scene.units.may_open(unit) for unit in scene.units.opened)
        assert "ledger.rebuilt" in scene.journal.names()

    ruin(tmp_path, story)
