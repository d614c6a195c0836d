from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import BOB, REFERENCE_SITE, instance, lease, whole

from ds01.common.model import Lease, Unit, UnitKey
from ds01.gpu_allocator.choose import MOST_SETS, candidates, choose, keys, named, resolved_profile
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.world import World

EIGHT = tuple(whole(index) for index in range(8))
RING = {index: frozenset({(index - 1) % 8, (index + 1) % 8}) for index in range(8)}
PAIRS = {index: frozenset({index ^ 1}) for index in range(8)}

SMALL = replace(instance(0, 0, "1g.5gb", 1), key=UnitKey("GPU-0", "6+1"), name="0:3", uuid="MIG-0-s")
LARGE = replace(instance(1, 0, "3g.20gb", 3), key=UnitKey("GPU-1", "4+4"), name="1:3", uuid="MIG-1-l")


def wants(text: str) -> GpuRequest:
    request = parse_request(text)
    assert isinstance(request, GpuRequest), request
    return request


def chosen(text: str, world: World) -> list[str] | None:
    request = wants(text)
    would_do = keys(candidates(request, world, allow_full=True))
    found = choose(request, [unit for unit in world.free() if unit.key in would_do], world)
    return None if found is None else [unit.name for unit in found]


@pytest.mark.parametrize(
    ("units", "leases", "gpus", "expected"),
    [
        (REFERENCE_SITE, (), "1", ["0:0"]),
        (REFERENCE_SITE, (), "3", ["0:0", "1:0", "0:1"]),
        (REFERENCE_SITE, (lease(BOB, instance(0, 2)),), "1", ["1:0"]),
        (REFERENCE_SITE, (lease(BOB, instance(0, 2), instance(1, 2)),), "1", ["0:0"]),
        ((LARGE, *REFERENCE_SITE, SMALL), (), "1", ["0:3"]),
        ((LARGE, *REFERENCE_SITE, SMALL), (), "3", ["0:3", "1:0", "0:0"]),
        ((LARGE, whole(2)), (), "1", ["1:3"]),
        (REFERENCE_SITE, (), "7", ["0:0", "1:0", "0:1", "1:1", "0:2", "1:2", "2"]),
        (REFERENCE_SITE, (), "9", None),
        (REFERENCE_SITE, (lease(BOB, whole(2)),), "2xfull", None),
        (REFERENCE_SITE, (lease(BOB, instance(0, 0)),), "0:0", None),
    ],
)
def test_small_ones_first_of_the_gpu_that_is_used_least(
    units: tuple[Unit, ...], leases: tuple[Lease, ...], gpus: str, expected: list[str] | None
) -> None:
    assert chosen(gpus, World(units, leases)) == expected


@pytest.mark.parametrize(
    ("links", "taken", "count", "expected"),
    [
        ({}, (), 2, ["0", "1"]),
        (PAIRS, (), 2, ["0", "1"]),
        (PAIRS, (0,), 2, ["2", "3"]),
        (PAIRS, (0, 2, 4), 2, ["6", "7"]),
        (PAIRS, (0, 2, 4, 6), 2, ["1", "3"]),
        (PAIRS, (0,), 4, ["2", "3", "4", "5"]),
        (RING, (1,), 3, ["0", "6", "7"]),
        (RING, (0, 1, 2), 3, ["3", "4", "5"]),
        (PAIRS, (0,), 1, ["1"]),
    ],
)
def test_whole_gpus_that_go_together_are_neighbours(
    links: dict[int, frozenset[int]], taken: tuple[int, ...], count: int, expected: list[str]
) -> None:
    world = World(EIGHT, tuple(lease(BOB, whole(index)) for index in taken), links=links)
    assert chosen(f"{count}xfull", world) == expected


def test_a_large_machine_is_not_searched_for_ever() -> None:
    many = tuple(whole(index) for index in range(40))
    nobody = {0: frozenset({39})}
    assert MOST_SETS < 10_000
    found = chosen("20xfull", World(many, (), links=nobody))
    assert found is not None
    assert len(found) == 20


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("full", "full"),
        ("2g.10gb", "2g.10gb"),
        ("3g.10gb", "3g.10gb"),
        ("10gb", "1g.10gb"),
        ("20gb", "3g.20gb"),
        ("5gb", "1g.5gb+me"),
        ("0gb", "0gb"),
        ("40gb", "40gb"),
    ],
)
def test_a_size_is_the_smallest_profile_of_it_that_is_here(asked: str, expected: str) -> None:
    units = [
        instance(0, 0, "2g.10gb", 2),
        instance(0, 1, "1g.10gb", 1),
        instance(0, 2, "4g.20gb", 4),
        instance(1, 0, "3g.20gb", 3),
        instance(1, 1, "1g.5gb+me", 1),
        whole(2),
    ]
    assert resolved_profile(asked, units) == expected


NAMED = (
    replace(whole(0), key=UnitKey("GPU-aa11"), uuid="GPU-aa11"),
    replace(whole(1), key=UnitKey("GPU-aa22"), uuid="GPU-aa22"),
    replace(instance(2, 0), key=UnitKey("GPU-cc33", "0+2"), uuid="MIG-dd44"),
    replace(instance(2, 1), key=UnitKey("GPU-cc33", "2+2"), uuid="MIG-ee55"),
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("0", "0"),
        ("2:1", "2:1"),
        ("GPU-aa11", "0"),
        ("GPU-aa2", "1"),
        ("MIG-ee55", "2:1"),
        ("MIG-d", "2:0"),
        ("GPU-aa", "beginning of 2 UUIDs"),
        ("MIG-", "beginning of 2 UUIDs"),
        ("2", "cut into MIG instances; ask for one of 2:0, 2:1"),
        ("GPU-cc33", "cut into MIG instances; ask for one of 2:0, 2:1"),
        ("7", "no GPU 7 here"),
        ("2:7", "no GPU 2:7 here"),
        ("GPU-zz", "no GPU GPU-zz here"),
        ("aa11", "no GPU aa11 here"),
        ("", "no GPU  here"),
    ],
)
def test_a_unit_by_its_name(name: str, found: str) -> None:
    unit = named(name, NAMED)
    if isinstance(unit, Unit):
        assert unit.name == found
    else:
        assert found in unit


def test_the_same_unit_under_two_names_is_one_candidate() -> None:
    assert len(candidates(wants("0,GPU-aa11"), World(NAMED, ()), allow_full=True)) == 1


@pytest.mark.parametrize(("gpus", "count"), [("1", 6), ("full", 0), ("2", 6), ("0:0,2", 1), ("10g", 6)])
def test_whole_gpus_are_no_candidates_for_who_may_have_none(gpus: str, count: int) -> None:
    assert len(candidates(wants(gpus), World(REFERENCE_SITE, ()), allow_full=False)) == count


@given(st.permutations(REFERENCE_SITE), st.sampled_from(["1", "2", "5", "7", "2xfull", "10g"]))
def test_the_order_in_which_units_are_told_does_not_matter(order: list[Unit], gpus: str) -> None:
    assert chosen(gpus, World(tuple(order), ())) == chosen(gpus, World(REFERENCE_SITE, ()))


@given(st.permutations(range(8)), st.integers(2, 4))
def test_nor_does_it_for_neighbours(order: list[int], count: int) -> None:
    shuffled = World(tuple(whole(index) for index in order), (), links=RING)
    assert chosen(f"{count}xfull", shuffled) == chosen(f"{count}xfull", World(EIGHT, (), links=RING))


def test_sizes_are_exact() -> None:
    assert sum((unit.size for unit in REFERENCE_SITE), Fraction(0)) == Fraction(26, 7)
