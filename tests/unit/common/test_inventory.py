"""What the allocator makes of ds01-nvml's answers."""

from __future__ import annotations

from typing import Any

import pytest

from ds01.common.errors import Unavailable
from ds01.common.gpus import GpuProcess
from ds01.common.inventory import GpuProcesses, Inventory, parse_inventory, parse_processes
from ds01.common.model import UnitKey


def gpu(index: int, **changes: Any) -> dict[str, Any]:
    whole = {"index": index, "uuid": f"GPU-{index}", "minor": index, "name": "A100", "memory_bytes": 40 << 30}
    return {**whole, "mig_enabled": False, "usable": True, "reason": "", "instances": [], "links": [], **changes}


def instance(number: int, start: int) -> dict[str, Any]:
    sizes = {"placement_start": start, "placement_size": 2, "compute_slices": 2, "memory_bytes": 10 << 30}
    return {"uuid": f"MIG-{number}", "gpu_instance": number, "compute_instance": 0, "profile": "2g.10gb", **sizes}


def parse(*gpus: dict[str, Any]) -> Inventory:
    return parse_inventory({"driver": "570", "gpus": list(gpus)})


CUT = gpu(0, mig_enabled=True, instances=[instance(3, 0), instance(4, 2)])


def test_units_are_whole_gpus_and_instances() -> None:
    found = parse(CUT, gpu(1))
    assert [(unit.name, str(unit.key), unit.uuid) for unit in found.units] == [
        ("0:0", "GPU-0@0+2", "MIG-3"),
        ("0:1", "GPU-0@2+2", "MIG-4"),
        ("1", "GPU-1", "GPU-1"),
    ]
    assert (found.withheld, found.unusable) == ({}, frozenset())


def test_a_gpu_that_is_not_fit_for_work_is_listed_without_units() -> None:
    ill = {"usable": False, "reason": "it had Xid 79"}
    found = parse({**CUT, **ill}, gpu(1), gpu(2, **ill))
    assert [unit.name for unit in found.units] == ["1"]
    assert found.withheld == {0: "it had Xid 79", 2: "it had Xid 79"}
    assert found.gpus == {"GPU-0": 0, "GPU-1": 1, "GPU-2": 2}
    assert found.unusable == {"GPU-0", "GPU-2"}


def test_a_gpu_without_a_uuid_is_withheld_and_not_listed() -> None:
    found = parse(gpu(0, uuid="", usable=False, reason="lost"))
    assert (found.withheld, found.gpus, found.unusable, found.instances) == ({0: "lost"}, {}, {""}, {})
    assert found.is_unknown("GPU-7"), "it may be this one"


def test_a_cut_gpu_without_instances_is_withheld_and_usable() -> None:
    found = parse(gpu(0, mig_enabled=True))
    assert found.withheld == {0: "it is in MIG mode and has no instances"}
    assert (found.unusable, found.gpus) == (frozenset(), {"GPU-0": 0})


def test_links_are_told_by_index() -> None:
    found = parse(gpu(0, links=[1, 2]), gpu(1, links=[0]), gpu(2, links=[0]))
    assert found.links == {0: frozenset({1, 2}), 1: frozenset({0}), 2: frozenset({0})}


@pytest.mark.parametrize(
    ("process", "unit"),
    [
        (GpuProcess("GPU-0", 4, 1, None), UnitKey("GPU-0", "2+2")),
        (GpuProcess("GPU-1", -1, 1, None), UnitKey("GPU-1")),
        (GpuProcess("GPU-2", 3, 1, None), UnitKey("GPU-2", "0+2")),
        (GpuProcess("GPU-0", -1, 1, None), None),
        (GpuProcess("GPU-0", 9, 1, None), None),
        (GpuProcess("GPU-9", -1, 1, None), None),
    ],
)
def test_a_process_is_matched_with_its_unit(process: GpuProcess, unit: UnitKey | None) -> None:
    ill = gpu(2, mig_enabled=True, instances=[instance(3, 0)], usable=False, reason="it had Xid 79")
    assert parse(CUT, gpu(1), ill).unit_of(process) == unit


def test_an_inventory_needs_but_units_and_reasons() -> None:
    assert Inventory((), {}) == Inventory((), {}, {}, {}, frozenset(), {})


def test_processes_are_read_and_memory_may_be_missing() -> None:
    told = {"gpu_uuid": "GPU-0", "gpu_instance": 3, "pid": 42, "memory_bytes": 7}
    untold = {"gpu_uuid": "GPU-1", "gpu_instance": -1, "pid": 43}
    assert parse_processes({"processes": [told, untold], "unknown": ["GPU-2", ""]}) == GpuProcesses(
        (GpuProcess("GPU-0", 3, 42, 7), GpuProcess("GPU-1", -1, 43, None)), frozenset({"GPU-2", ""})
    )


@pytest.mark.parametrize("raw", [{}, {"gpus": [{}]}, {"gpus": None}, {"gpus": [{"usable": True, "uuid": "GPU-0"}]}])
def test_an_inventory_that_is_none_is_unavailable(raw: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="can't be understood"):
        parse_inventory(raw)


@pytest.mark.parametrize(
    "raw", [{}, {"processes": []}, {"processes": [{}], "unknown": []}, {"processes": [1], "unknown": []}]
)
def test_processes_that_are_none_are_unavailable(raw: dict[str, Any]) -> None:
    with pytest.raises(Unavailable, match="can't be understood"):
        parse_processes(raw)
