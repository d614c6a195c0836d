from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scene import Scene, play
from worlds import ALICE, BOB, REFERENCE_SITE

from ds01.common.model import Denied, Lease, Reason
from ds01.gpu_allocator.foreign import Foreign, gpus_of, occupied, of_foreign

GPU = {"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]]}


def inspected(env: tuple[str, ...] = (), **host: object) -> dict[str, Any]:
    return {"Id": "c1", "Name": "/mine", "HostConfig": host, "Config": {"Env": list(env)}}


def node(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (inspected(DeviceRequests=[{**GPU, "Count": -1}]), ("all",)),
        (inspected(DeviceRequests=[{**GPU, "Count": 2}]), ("all",)),
        (inspected(DeviceRequests=[{**GPU, "DeviceIDs": ["0", "GPU-3"]}]), ("0", "GPU-3")),
        (inspected(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0:1"]}]), ("0:1",)),
        (inspected(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]), ("all",)),
        (inspected(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1", "a.b/c=2"]}]), ("1",)),
        (inspected(Devices=[node("/dev/nvidia0"), node("/dev/nvidiactl"), node("/dev/nvidia-uvm")]), ("0",)),
        (inspected(Devices=[node("/dev/nvidia12")]), ("12",)),
        (inspected(Devices=[node("/dev/nvidia-caps/nvidia-cap3")]), ("all",)),
        (inspected(("NVIDIA_VISIBLE_DEVICES=0,1",), Runtime="nvidia"), ("0", "1")),
        (inspected(("NVIDIA_VISIBLE_DEVICES=all",), Runtime="nvidia"), ("all",)),
        (inspected(("NVIDIA_VISIBLE_DEVICES=0,",), Runtime="nvidia"), ("0",)),
        (inspected(("NVIDIA_VISIBLE_DEVICES=0",), Privileged=True), ("all",)),
    ],
)
def test_every_way_to_have_gpus_is_seen(raw: Mapping[str, Any], names: tuple[str, ...]) -> None:
    assert gpus_of(raw) == Foreign("c1", "mine", "all" in names, names)


@pytest.mark.parametrize(
    "raw",
    [
        {"Id": "c1"},
        {"Id": "c1", "HostConfig": None, "Config": None},
        inspected(),
        inspected(DeviceRequests=None, Devices=None),
        inspected(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": ["ds01.io/gpu=l1"]}]),
        inspected(DeviceRequests=[{"Driver": "cdi", "DeviceIDs": None}]),
        inspected(Devices=[node("/dev/nvidiactl"), node("/dev/nvidia-modeset"), node("/dev/fuse"), {}]),
        inspected(("NVIDIA_VISIBLE_DEVICES=all",), Runtime="runc"),
        inspected(("NVIDIA_VISIBLE_DEVICES=none",), Runtime="nvidia"),
        inspected(("NVIDIA_VISIBLE_DEVICES=void",), Runtime="nvidia"),
        inspected(("NVIDIA_VISIBLE_DEVICES=",), Runtime="nvidia"),
        inspected(("NVIDIA_VISIBLE_DEVICES",), Runtime="nvidia"),
        inspected(Runtime="nvidia"),
        inspected(Privileged=True),
    ],
)
def test_a_container_without_gpus_is_none(raw: Mapping[str, Any]) -> None:
    assert gpus_of(raw) is None


def test_a_container_may_have_gpus_in_several_ways() -> None:
    found = gpus_of(inspected(DeviceRequests=[{**GPU, "DeviceIDs": ["0"]}], Devices=[node("/dev/nvidia3")]))
    assert found is not None
    assert found.names == ("0", "3")


EVERYTHING = [unit.name for unit in REFERENCE_SITE]


@pytest.mark.parametrize(
    ("names", "hit"),
    [
        (("2",), ["2"]),
        (("0",), ["0:0", "0:1", "0:2"]),
        (("0:1",), ["0:1"]),
        (("GPU-1",), ["1:0", "1:1", "1:2"]),
        (("GPU-2", "3"), ["2", "3"]),
        (("MIG-1-2",), ["1:2"]),
        (("all",), EVERYTHING),
        (("2", "all"), EVERYTHING),
        (("9",), EVERYTHING),
        (("2", "9"), EVERYTHING),
        (("GPU-",), EVERYTHING),
        (("what",), EVERYTHING),
    ],
)
def test_units_that_it_may_stand_on_are_taken(names: tuple[str, ...], hit: list[str]) -> None:
    found = occupied([Foreign("c1", "mine", "all" in names, names)], REFERENCE_SITE)
    assert [unit.name for unit in REFERENCE_SITE if unit.key in found] == hit
    assert all("past the shim" in why for why in found.values())


def test_nobody_occupies_nothing() -> None:
    assert occupied([], REFERENCE_SITE) == {}


def test_it_is_told_with_its_name_and_what_it_has() -> None:
    event = of_foreign(Foreign("c1", "mine", False, ("0", "1")))
    assert (event.name, event.container, event.container_name, event.gpu) == ("gpu.bypassed", "c1", "mine", "0,1")
    assert "every GPU" in of_foreign(Foreign("c1", "mine", True, ("all",))).message


def start_foreign(scene: Scene, *ids: str) -> str:
    identity = scene.engine.create("", 0)
    scene.engine.set(identity, running=True)
    scene.engine.made_with[identity] = {**inspected(DeviceRequests=[{**GPU, "DeviceIDs": list(ids)}]), "Id": identity}
    return identity


def test_its_units_are_given_to_nobody_until_it_ends_and_it_is_told_once(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        await scene.allocator.look()
        identity = start_foreign(scene, "0")
        for _ in range(2):
            await scene.side.reconcile()
            await scene.settle()
        assert scene.journal.names().count("gpu.bypassed") == 1
        assert isinstance(denied := await scene.lease(ALICE, "0:0"), Denied)
        assert denied.reason is Reason.NONE_FREE
        del scene.engine.containers[identity]
        await scene.side.reconcile()
        assert isinstance(await scene.lease(ALICE, "0:0"), Lease)

    play(tmp_path, story)


def test_it_is_seen_although_the_gpus_answer_after_the_engine(tmp_path: Path) -> None:
    """After a start both are asked at once."""

    async def story(scene: Scene) -> None:
        start_foreign(scene, "0")
        scene.crash()
        await scene.side.reconcile()
        await scene.allocator.look()
        assert isinstance(await scene.lease(ALICE, "0:0"), Denied)

    play(tmp_path, story)


def test_a_container_with_a_lease_is_not_foreign(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        _, identity = await scene.run(ALICE)
        scene.engine.made_with[identity] = {**inspected(DeviceRequests=[{**GPU, "Count": -1}]), "Id": identity}
        await scene.allocator.look()
        await scene.side.reconcile()
        await scene.settle()
        assert "gpu.bypassed" not in scene.journal.names()
        assert isinstance(await scene.lease(BOB), Lease)

    play(tmp_path, story)


def test_a_container_that_hangs_its_own_inspection_keeps_nobody_from_gpus(tmp_path: Path) -> None:
    """Whoever has a container can make it do so, and the shim's have no GPU but by a lease."""

    async def story(scene: Scene) -> None:
        identity = scene.engine.create("", BOB)
        scene.engine.set(identity, running=True)
        scene.engine.stuck.add(identity)
        await scene.side.reconcile()
        assert isinstance(await scene.lease(ALICE), Lease)

    play(tmp_path, story)


def test_what_root_started_and_nobody_can_tell_of_may_have_every_gpu(tmp_path: Path) -> None:
    async def story(scene: Scene) -> None:
        identity = scene.engine.create("", BOB)
        running = replace(scene.engine.containers[identity], running=True, owner_uid=None)
        scene.engine.containers[identity] = running
        scene.engine.stuck.add(identity)
        await scene.side.reconcile()
        assert isinstance(await scene.lease(ALICE), Denied)
        scene.engine.stuck.clear()
        await scene.side.reconcile()
        assert isinstance(await scene.lease(ALICE), Lease)

    play(tmp_path, story)
