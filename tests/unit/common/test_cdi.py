from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from worlds import ALICE, BOB, REFERENCE_SITE, instance, lease

from ds01.common.cdi import KIND, NONE_DEVICE, VendorSpec, compose
from ds01.common.cdifiles import CdiFiles
from ds01.common.model import LeaseState


def vendor_of(*uuids: str) -> VendorSpec:
    nodes = {uuid: {"deviceNodes": [{"path": "/dev/nvidia0"}, {"path": f"/dev/caps/{uuid}"}]} for uuid in uuids}
    return VendorSpec("0.6.0", {"deviceNodes": [{"path": "/dev/nvidiactl"}]}, nodes)


EVERYTHING = vendor_of(*(unit.uuid for unit in REFERENCE_SITE))


def entries(spec: dict) -> dict[str, list[str]]:  # type: ignore[type-arg]
    return {
        item["name"]: [node["path"] for node in item["containerEdits"].get("deviceNodes", [])]
        for item in spec["devices"]
    }


def test_a_lease_is_a_device_with_exactly_its_nodes() -> None:
    spec = compose([lease(ALICE, instance(0, 1), name="l1")], REFERENCE_SITE, EVERYTHING)
    assert spec["kind"] == KIND
    assert entries(spec) == {NONE_DEVICE: [], "l1": ["/dev/nvidia0", "/dev/caps/MIG-0-1"]}


def test_nodes_that_instances_share_appear_once() -> None:
    spec = compose([lease(ALICE, instance(0, 0), instance(0, 1), name="l1")], REFERENCE_SITE, EVERYTHING)
    assert entries(spec)["l1"] == ["/dev/nvidia0", "/dev/caps/MIG-0-0", "/dev/caps/MIG-0-1"]


@pytest.mark.parametrize(
    ("state", "has_device"),
    [
        (LeaseState.GRANTED, True),
        (LeaseState.BOUND, True),
        (LeaseState.ACTIVE, True),
        (LeaseState.HELD, True),
        (LeaseState.DRAINING, False),
        (LeaseState.RELEASED, False),
    ],
)
def test_which_states_can_start(state: LeaseState, has_device: bool) -> None:
    spec = compose([lease(ALICE, instance(0, 0), state=state, name="l1")], REFERENCE_SITE, EVERYTHING)
    assert ("l1" in entries(spec)) is has_device


def test_an_instance_that_was_made_again_has_its_new_nodes() -> None:
    """The placement is the same, the UUID is not; the index must never be what is looked up."""
    held = lease(ALICE, instance(0, 0), name="l1")
    again = [
        unit if unit.name != "0:0" else type(unit)(unit.key, unit.name, unit.profile, "MIG-new", 0, unit.size)
        for unit in REFERENCE_SITE
    ]
    assert "l1" not in entries(compose([held], again, EVERYTHING))
    assert entries(compose([held], again, vendor_of("MIG-new")))["l1"] == ["/dev/nvidia0", "/dev/caps/MIG-new"]


def test_a_lease_with_one_unit_gone_has_no_device_at_all() -> None:
    held = lease(ALICE, instance(0, 0), instance(1, 0), name="l1")
    assert "l1" not in entries(compose([held], REFERENCE_SITE[:3], EVERYTHING))


def test_other_leases_do_not_mind() -> None:
    spec = compose(
        [lease(ALICE, instance(5, 0), name="l1"), lease(BOB, instance(0, 0), name="l2")], REFERENCE_SITE, EVERYTHING
    )
    assert set(entries(spec)) == {NONE_DEVICE, "l2"}


def test_there_is_always_a_device_since_an_empty_file_is_invalid() -> None:
    assert set(entries(compose([], (), VendorSpec("0.6.0", {}, {})))) == {NONE_DEVICE}


VENDOR_YAML = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "GPU-2"
  containerEdits: {deviceNodes: [{path: NODE}]}
- name: "GPU-3"
  containerEdits: {deviceNodes: [{path: /dev/there-is-no-such-node}]}
containerEdits: {env: [NVIDIA_VISIBLE_DEVICES=void]}
"""


@pytest.fixture
def files(tmp_path: Path) -> CdiFiles:
    (tmp_path / "node").touch()
    (tmp_path / "nvidia.yaml").write_text(VENDOR_YAML.replace("NODE", str(tmp_path / "node")))
    return CdiFiles((tmp_path / "absent.yaml", tmp_path / "nvidia.yaml"), tmp_path / "cdi")


def test_only_devices_whose_nodes_exist_now_are_read(files: CdiFiles, tmp_path: Path) -> None:
    assert set(files.vendor().devices) == {"GPU-2"}
    (tmp_path / "node").unlink()
    assert set(files.vendor().devices) == set()


def test_a_vendor_file_that_is_replaced_is_read_again(files: CdiFiles, tmp_path: Path) -> None:
    files.vendor()
    (tmp_path / "new").write_text(VENDOR_YAML.replace("GPU-2", "GPU-9").replace("NODE", str(tmp_path / "node")))
    os.replace(tmp_path / "new", tmp_path / "nvidia.yaml")
    assert set(files.vendor().devices) == {"GPU-9"}


def test_our_file_is_in_place_whole_and_readable(files: CdiFiles, tmp_path: Path) -> None:
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / ".ds01.json.4711").touch()  # what a kill in the middle of a write left
    files.write({"devices": []})
    written = tmp_path / "cdi" / "ds01.json"
    assert [item.name for item in written.parent.iterdir()] == ["ds01.json"]
    assert json.loads(written.read_text()) == {"devices": []}
    assert written.stat().st_mode & 0o777 == 0o644


def test_the_same_specification_is_not_written_twice(files: CdiFiles, tmp_path: Path) -> None:
    files.write({"devices": [1]})
    first = (tmp_path / "cdi" / "ds01.json").stat().st_ino
    files.write({"devices": [1]})
    assert (tmp_path / "cdi" / "ds01.json").stat().st_ino == first
    files.write({"devices": [2]})
    assert (tmp_path / "cdi" / "ds01.json").stat().st_ino != first
