"""What was asked, kept in a label and worked out again under other limits."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import STUDENT

from ds01.common.limits import Limits
from ds01.common.sizes import Asked, ContainerSizes, cpus_to_nano, parse_asked, sizes_for

GIB = 1 << 30
CPU = 10**9
SWAPPING = replace(STUDENT, memory_swap_bytes=40 * GIB)
"""32 GiB of memory and 8 GiB of swap."""

LABELS = [
    (Asked(), "policy"),
    (Asked(cpus_nano=1_500_000_000), "cpus_nano=1500000000"),
    (Asked(pids=100, memory_bytes=4 * GIB), "memory_bytes=4294967296 pids=100"),
    (Asked(1, 2, 3, 4), "cpus_nano=1 memory_bytes=2 memory_swap_bytes=3 pids=4"),
]


@pytest.mark.parametrize(("asked", "label"), LABELS)
def test_a_label_says_what_was_asked_and_is_read_back(asked: Asked, label: str) -> None:
    assert asked.label() == label
    assert parse_asked(label) == asked


@pytest.mark.parametrize(
    "label",
    [
        "",
        " ",
        "policy ",
        "policy pids=1",
        "pids",
        "pids=",
        "pids=0",
        "pids=01",
        "pids=-1",
        "pids=+1",
        "pids=1.5",
        "pids=1 ",
        "pids=1  cpus_nano=1",
        "pids=1 memory_bytes=2",
        "pids=1 pids=1",
        "pids=1\n",
        "pids=\u0661",
        "Pids=1",
        "shm_bytes=1",
        "pids=9223372036854775808",
        "pids=99999999999999999999999",
        "label=1",
    ],
)
def test_what_is_not_a_label_of_ours_says_nothing(label: str) -> None:
    assert parse_asked(label) is None


ROWS = [
    ("nothing is the limit", Asked(), STUDENT, 64, (16 * CPU, 32 * GIB, 32 * GIB, 4096)),
    ("what is asked below it is kept", Asked(CPU, GIB, 2 * GIB, 9), SWAPPING, 64, (CPU, GIB, 2 * GIB, 9)),
    (
        "more is the limit",
        Asked(99 * CPU, 99 * GIB, 99 * GIB, 9999),
        SWAPPING,
        64,
        (16 * CPU, 32 * GIB, 40 * GIB, 4096),
    ),
    ("the machine is a limit", Asked(), STUDENT, 2, (2 * CPU, 32 * GIB, 32 * GIB, 4096)),
    ("and asking does not help", Asked(cpus_nano=8 * CPU), STUDENT, 2, (2 * CPU, 32 * GIB, 32 * GIB, 4096)),
    ("a machine of unknown size is none", Asked(), STUDENT, 0, (16 * CPU, 32 * GIB, 32 * GIB, 4096)),
    ("swap not asked is the allowance", Asked(memory_bytes=GIB), SWAPPING, 64, (16 * CPU, GIB, 9 * GIB, 4096)),
    ("no allowance, no swap", Asked(memory_bytes=GIB), STUDENT, 64, (16 * CPU, GIB, GIB, 4096)),
    (
        "asked swap may be more than the allowance",
        Asked(memory_bytes=GIB, memory_swap_bytes=30 * GIB),
        SWAPPING,
        64,
        (16 * CPU, GIB, 30 * GIB, 4096),
    ),
    (
        "together is never less than memory",
        Asked(memory_swap_bytes=2 * GIB),
        SWAPPING,
        64,
        (16 * CPU, 2 * GIB, 2 * GIB, 4096),
    ),
    (
        "a limit of swap below that of memory allows none",
        Asked(),
        replace(STUDENT, memory_swap_bytes=GIB),
        64,
        (16 * CPU, 32 * GIB, 32 * GIB, 4096),
    ),
    (
        "and asking does not help there",
        Asked(memory_swap_bytes=40 * GIB),
        replace(STUDENT, memory_swap_bytes=GIB),
        64,
        (16 * CPU, 32 * GIB, 32 * GIB, 4096),
    ),
]


@pytest.mark.parametrize(("asked", "limits", "cpus", "sizes"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_sizes(asked: Asked, limits: Limits, cpus: int, sizes: tuple[int, int, int, int]) -> None:
    assert sizes_for(asked, limits, cpus) == ContainerSizes(*sizes)


amounts = st.none() | st.integers(1, 2**40)
wishes = st.builds(Asked, amounts, amounts, amounts, amounts)
engines = st.integers(0, 256)


@st.composite
def limits_of(draw: st.DrawFn, at_least: Limits | None = None) -> Limits:
    """Limits, none of them below those of `at_least`: nor is the swap that they leave beside the memory."""
    low = at_least or replace(STUDENT, cpus=0.01, memory_bytes=1, memory_swap_bytes=1, pids=1)
    more = st.integers(0, 2**40)
    memory = draw(more)
    return replace(
        low,
        cpus=low.cpus + draw(st.integers(0, 256)) / 4,
        memory_bytes=low.memory_bytes + memory,
        memory_swap_bytes=low.memory_swap_bytes + memory + draw(more),
        pids=low.pids + draw(more),
    )


@given(wishes)
def test_every_wish_survives_its_label(asked: Asked) -> None:
    assert parse_asked(asked.label()) == asked


@given(st.text(max_size=80) | st.lists(st.sampled_from(["pids=1", "policy", "cpus_nano=2", "x=1"])).map(" ".join))
def test_no_text_that_another_made_is_read_as_ours(label: str) -> None:
    asked = parse_asked(label)
    assert asked is None or asked.label() == label


@given(wishes, limits_of(), engines)
def test_never_above_the_limit_nor_above_what_was_asked(asked: Asked, limits: Limits, cpus: int) -> None:
    found = sizes_for(asked, limits, cpus)
    assert found.cpus_nano <= cpus_to_nano(limits.cpus)
    assert not cpus or found.cpus_nano <= cpus * CPU
    assert found.memory_bytes <= limits.memory_bytes
    assert found.memory_bytes <= found.memory_swap_bytes <= limits.memory_swap_bytes
    assert found.pids <= limits.pids
    for size, wish in zip(astuple(found), astuple(asked), strict=True):
        assert size > 0
        assert wish is None or size <= wish


@given(st.data(), wishes, limits_of(), engines)
def test_more_limit_is_never_less_size(data: st.DataObject, asked: Asked, limits: Limits, cpus: int) -> None:
    higher = data.draw(limits_of(at_least=limits))
    found, more = sizes_for(asked, limits, cpus), sizes_for(asked, higher, cpus)
    assert all(new >= old for old, new in zip(astuple(found), astuple(more), strict=True))


@given(wishes, limits_of(), engines)
def test_working_it_out_again_changes_nothing(asked: Asked, limits: Limits, cpus: int) -> None:
    found = sizes_for(asked, limits, cpus)
    assert sizes_for(Asked(*astuple(found)), limits, cpus) == found
