from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from engine_world import DeviceFolder, Gpus
from sync_world import MACHINE, YAML, policy
from worlds import ALICE, BOB, REFERENCE_SITE, instance, lease

from ds01.boot.restore import Restored, owners, plan_slices, restore_devices, restore_policy
from ds01.common.adapters.yamltree import read_tree
from ds01.common.errors import PeerRefused, PolicyInvalid
from ds01.common.policy.build import build
from ds01.common.policy.tree import Files
from ds01.common.slices import SliceOwner

SHIPPED = Path(__file__).parents[3] / "config" / "policy.json"
GOOD = build(Files("limits.yaml", YAML.encode(), {}), read_tree, MACHINE).text


def test_everybody_with_a_past_slice_or_a_lease_gets_one() -> None:
    found = owners([SliceOwner(BOB, "bob", "student")], [lease(ALICE, instance(0, 0))])
    assert [owner.uid for owner in found] == [ALICE, BOB]


def test_parents_come_first_and_an_account_that_is_gone_keeps_its_groups_limits() -> None:
    def account(uid: int) -> tuple[str, frozenset[str]]:
        if uid == BOB:
            raise PeerRefused("there is no account")
        return "alice", frozenset({"student"})

    wanted = [SliceOwner(ALICE, "alice", "student"), SliceOwner(BOB, "bob", "researcher")]
    plans = plan_slices(wanted, policy(), account)
    assert [plan.name for plan in plans][:2] == ["ds01-student.slice", "ds01-researcher.slice"]
    bobs = next(plan for plan in plans if plan.name == "ds01-researcher-bob.slice")
    assert bobs.properties["MemoryMax"] == 128 << 30
    assert plans[1].properties["MemoryMax"] == 200 << 30


def test_the_last_good_policy_is_published(tmp_path: Path) -> None:
    last_good, published = tmp_path / "last.json", tmp_path / "policy.json"
    last_good.write_text(GOOD)
    published.write_text(SHIPPED.read_text())
    assert set(restore_policy(last_good, published).groups) == {"student", "researcher"}
    assert published.read_text() == GOOD
    assert published.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("last_good", ["", "{", '{"schema": 9}'])
def test_a_bad_last_good_policy_leaves_the_shipped_one(tmp_path: Path, last_good: str) -> None:
    (tmp_path / "last.json").write_text(last_good)
    published = tmp_path / "policy.json"
    published.write_text(SHIPPED.read_text())
    assert restore_policy(tmp_path / "last.json", published).default_group == "default"


def test_no_policy_at_all_stops_the_boot(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid):
        restore_policy(tmp_path / "last.json", tmp_path / "policy.json")


def test_devices_are_written_for_units_that_exist() -> None:
    devices, gpus = DeviceFolder(), Gpus(REFERENCE_SITE[:1])
    held = (lease(ALICE, instance(0, 0), name="l1"), lease(BOB, instance(0, 1), name="l2"))
    problems = asyncio.run(restore_devices(held, gpus.read, devices))
    assert set(devices.nodes()) == {"l1"}
    assert len(problems) == 1
    assert "0:1" in problems[0]


def test_silent_gpus_leave_no_entry_and_are_told() -> None:
    devices = DeviceFolder()
    problems = asyncio.run(restore_devices((lease(ALICE, instance(0, 0)),), Gpus(None).read, devices))
    assert devices.nodes() == {}
    assert Restored((), tuple(problems)).event().name == "boot.degraded"
    assert Restored(("ds01-student.slice",), ()).event().name == "boot.restored"
