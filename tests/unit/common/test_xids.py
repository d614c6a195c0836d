"""Which Xid errors make a GPU unfit for work, after NVIDIA's catalogue."""

from __future__ import annotations

import pytest

from ds01.common.xids import XIDS, describe, fatal


@pytest.mark.parametrize(
    ("xid", "words"),
    [
        (46, "Xid 46 (the GPU stopped processing)"),
        (48, "Xid 48 (double-bit ECC error)"),
        (62, "Xid 62 (the GPU's internal micro-controller halted)"),
        (64, "Xid 64 (a row of memory could not be remapped, or a page not be retired)"),
        (74, "Xid 74 (NVLink error)"),
        (79, "Xid 79 (the GPU has fallen off the bus)"),
        (95, "Xid 95 (uncontained memory error)"),
        (109, "Xid 109 (context switch timeout)"),
        (119, "Xid 119 (timeout of the GPU's system processor)"),
        (120, "Xid 120 (error of the GPU's system processor)"),
        (140, "Xid 140 (unrecovered ECC error)"),
        (143, "Xid 143 (the GPU's initialisation failed)"),
        (158, "Xid 158 (fatal timeout of the GPU)"),
    ],
)
def test_what_takes_a_reset_is_fatal(xid: int, words: str) -> None:
    assert fatal(xid) == words


@pytest.mark.parametrize(
    "xid",
    [
        8,
        11,
        13,
        31,
        32,
        38,
        39,
        43,
        44,
        45,
        54,
        63,
        68,
        69,
        72,
        80,
        92,
        94,
        105,
        106,
        126,
        135,
        137,
        144,
        150,
        154,
        161,
    ],
)
def test_what_is_a_programs_fault_or_takes_no_reset_is_not(xid: int) -> None:
    assert xid in XIDS
    assert fatal(xid) is None


@pytest.mark.parametrize("xid", [0, 61, 999, 1 << 40])
def test_an_unknown_number_is_reported_and_withholds_nothing(xid: int) -> None:
    assert fatal(xid) is None
    assert describe(xid) == f"Xid {xid} (not in the catalogue that is built in)"


def test_no_row_is_both() -> None:
    assert {xid for xid, row in XIDS.items() if row.fatal} == {xid for xid in XIDS if fatal(xid)}
    assert sum(row.fatal for row in XIDS.values()) == 18


def test_a_known_number_is_described_by_its_name() -> None:
    assert describe(13) == "Xid 13 (graphics engine exception)"
