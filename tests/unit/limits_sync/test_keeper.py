from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_world import Journal
from scene import FixedPolicy
from worlds import ALICE, STUDENT

from ds01.common.errors import Unavailable
from ds01.common.slices import SlicePlan
from ds01.common.slicestate import SliceOwner, read_owners, write_owners
from ds01.limits_sync.keeper import Keeper


class Slices:
    """systemd's list of slices; `broken` refuses."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.broken = False

    async def ensure_slice(self, plan: SlicePlan) -> bool:
        if self.broken:
            raise Unavailable("systemd does not answer")
        known = plan.name in self.made
        self.made.append(plan.name)
        return not known


def keeper(slices: Slices, journal: Journal, path: Path) -> Keeper:
    return Keeper(slices, FixedPolicy(STUDENT), lambda uid: ("alice", frozenset()), journal, path)


def test_a_slice_is_made_parent_first_and_remembered(tmp_path: Path) -> None:
    slices, journal, path = Slices(), Journal(), tmp_path / "slices.json"
    assert asyncio.run(keeper(slices, journal, path).ensure(ALICE)) == ("ds01-student-alice.slice", "student")
    assert slices.made == ["ds01-student.slice", "ds01-student-alice.slice"]
    assert {owner.uid for owner in read_owners(path)} == {ALICE}
    assert journal.names() == ["slice.ensured"]


def test_a_slice_that_is_there_is_no_event(tmp_path: Path) -> None:
    slices, journal = Slices(), Journal()
    ours = keeper(slices, journal, tmp_path / "slices.json")

    async def twice() -> None:
        await ours.ensure(ALICE)
        await ours.ensure(ALICE)

    asyncio.run(twice())
    assert journal.names() == ["slice.ensured"]


def test_without_systemd_there_is_no_slice_and_no_excuse(tmp_path: Path) -> None:
    slices = Slices()
    slices.broken = True
    with pytest.raises(Unavailable):
        asyncio.run(keeper(slices, Journal(), tmp_path / "slices.json").ensure(ALICE))


def test_it_is_remembered_before_it_is_made(tmp_path: Path) -> None:
    slices, path = Slices(), tmp_path / "slices.json"
    slices.broken = True
    with pytest.raises(Unavailable):
        asyncio.run(keeper(slices, Journal(), path).ensure(ALICE))
    assert {owner.uid for owner in read_owners(path)} == {ALICE}


def test_the_slice_of_a_group_he_was_in_is_made_too(tmp_path: Path) -> None:
    """Containers made before he moved still start there."""
    write_owners([SliceOwner(ALICE, "alice", "phd"), SliceOwner(7, "x", "phd")], tmp_path / "slices.json")
    slices = Slices()
    name, _ = asyncio.run(keeper(slices, Journal(), tmp_path / "slices.json").ensure(ALICE))
    assert name == "ds01-student-alice.slice"
    assert {"ds01-phd-alice.slice", "ds01-student-alice.slice"} <= set(slices.made)
    assert "ds01-phd-x.slice" not in slices.made
