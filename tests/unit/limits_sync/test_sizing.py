from __future__ import annotations

from dataclasses import replace

import pytest
from sync_world import GIB, FakeEngine, policy

from ds01.common.model import EngineFacts
from ds01.common.sizes import ContainerSizes
from ds01.limits_sync.sizing import Sized, parse_sized, target, update_body

WHOLE = EngineFacts(True, True, True, True, True, cpus=64)
LIMITS = policy().limits_for("alice", ["student"])
NOW = ContainerSizes(cpus_nano=4 * 10**9, memory_bytes=16 * GIB, memory_swap_bytes=16 * GIB, pids=500)


def sized(sizes: str = "policy", **host: object) -> Sized:
    engine = FakeEngine()
    found = parse_sized(engine.containers[engine.add("train", 1001, sizes, **host)])
    assert found is not None
    return found


def test_what_inspect_says() -> None:
    found = sized("pids=100", NanoCpus=10**9, Memory=GIB, MemorySwap=GIB, PidsLimit=100)
    assert found.sizes == ContainerSizes(10**9, GIB, GIB, 100)
    assert (found.name, found.uid, found.has_gpu, found.asked.pids) == ("train", 1001, False, 100)
    assert found.cgroup == f"ds01.slice/ds01-student.slice/ds01-student-alice.slice/docker-{found.id}.scope"


@pytest.mark.parametrize(("sizes", "uid"), [("", 1001), ("cpus_nano=x", 1001), ("policy", "")])
def test_what_is_not_the_policys_is_left_alone(sizes: str, uid: object) -> None:
    engine = FakeEngine()
    raw = engine.containers[engine.add("train", 1001, sizes)]
    raw["Config"]["Labels"]["ds01.uid"] = str(uid)
    assert parse_sized(raw) is None


def test_who_asked_for_nothing_has_the_limit() -> None:
    assert target(sized(), LIMITS, WHOLE) == ContainerSizes(8 * 10**9, 32 * GIB, 32 * GIB, 1000)


def test_who_asked_for_less_keeps_it_and_more_is_bounded() -> None:
    found = target(sized(f"memory_bytes={4 * GIB} pids=5000"), LIMITS, WHOLE)
    assert (found.memory_bytes, found.pids) == (4 * GIB, 1000)


@pytest.mark.parametrize(
    ("lacks", "kept"),
    [
        ({"cpu_quota": False}, {"cpus_nano": 1}),
        ({"memory": False}, {"memory_bytes": 2, "memory_swap_bytes": 3}),
        ({"pids": False}, {"pids": 4}),
    ],
)
def test_what_the_engine_can_not_apply_is_not_sent(lacks: dict[str, bool], kept: dict[str, int]) -> None:
    container = replace(sized(), sizes=ContainerSizes(1, 2, 3, 4))
    found = target(container, LIMITS, replace(WHOLE, **lacks))
    for name, value in kept.items():
        assert getattr(found, name) == value


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({}, {}),
        ({"cpus_nano": 10**9}, {"NanoCpus": 10**9}),
        ({"pids": 7}, {"PidsLimit": 7}),
        ({"memory_bytes": GIB, "memory_swap_bytes": GIB}, {"Memory": GIB, "MemorySwap": GIB}),
        ({"memory_swap_bytes": 20 * GIB}, {"Memory": 16 * GIB, "MemorySwap": 20 * GIB}),
    ],
)
def test_only_what_differs_is_sent_and_memory_and_swap_go_together(
    change: dict[str, int], body: dict[str, int]
) -> None:
    assert update_body(replace(sized(), sizes=NOW), replace(NOW, **change)) == body


def test_without_swap_accounting_the_figure_goes_along_with_memory_and_never_alone() -> None:
    engine = replace(WHOLE, swap=False)
    container = replace(sized(), sizes=ContainerSizes(8 * 10**9, GIB, 2 * GIB, 1000))
    assert target(container, LIMITS, engine).memory_swap_bytes == 32 * GIB
    container = replace(container, sizes=ContainerSizes(8 * 10**9, 32 * GIB, -1, 1000))
    assert update_body(container, target(container, LIMITS, engine)) == {}


def test_a_reservation_above_the_new_memory_goes_down_with_it() -> None:
    container = sized(NanoCpus=10**9, Memory=16 * GIB, MemoryReservation=8 * GIB, PidsLimit=500)
    smaller = replace(container.sizes, memory_bytes=4 * GIB, memory_swap_bytes=4 * GIB)
    assert update_body(container, smaller)["MemoryReservation"] == 4 * GIB
