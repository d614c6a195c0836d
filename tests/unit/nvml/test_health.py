"""When a GPU that had a fatal Xid is well again, as a table; and what a GPU without a name means for the notes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ds01.common.gpus import Gpu, Look, Sight, Vitals
from ds01.nvml.checkup import Checkup
from ds01.nvml.health import XidNote, follow, judge
from ds01.nvml.notes import XidNotes

GPU = Gpu(0, "GPU-0", 0, "A100", 40 << 30, False, True, "", [], [])


@pytest.mark.parametrize(
    ("note", "vitals", "well"),
    [
        (XidNote(79), Vitals(), False),
        (XidNote(79), Vitals(energy_mj=0, recovery_action=0), False),
        (XidNote(79, gone=True), Vitals(), True),
        (XidNote(79, energy_mj=100), Vitals(energy_mj=99), True),
        (XidNote(79, energy_mj=100), Vitals(energy_mj=100), False),
        (XidNote(79, energy_mj=100), Vitals(energy_mj=101), False),
        (XidNote(79, energy_mj=100), Vitals(), False),
        (XidNote(79, recovery_action=1), Vitals(recovery_action=0), True),
        (XidNote(79, recovery_action=1), Vitals(recovery_action=2), False),
        (XidNote(79, recovery_action=1), Vitals(), False),
        (XidNote(79, recovery_action=0), Vitals(recovery_action=0), False),
    ],
)
def test_only_a_proof_of_a_reset_ends_an_xid(note: XidNote, vitals: Vitals, well: bool) -> None:
    assert (follow(note, Sight(GPU, vitals)) is None) == well


def test_what_is_seen_is_noted_for_the_next_time() -> None:
    seen = Sight(GPU, Vitals(energy_mj=7, recovery_action=1))
    assert follow(XidNote(79), seen) == XidNote(79, energy_mj=7, recovery_action=1)


def test_an_error_that_is_not_lost_proves_nothing() -> None:
    note = XidNote(79, energy_mj=7)
    assert follow(note, Sight(GPU, None)) == note


def test_an_action_of_a_newer_driver_is_told_by_its_number() -> None:
    assert judge(Sight(GPU, Vitals(recovery_action=42)), None).reason == "the driver asks for recovery action 42"


def test_what_nvml_does_not_offer_means_nothing() -> None:
    assert judge(Sight(GPU, Vitals()), None) == GPU


class Reader:
    """Shows one GPU after the other, one at each look."""

    def __init__(self, *sights: Sight) -> None:
        self._sights = list(sights)

    def look(self) -> Look:
        return Look("570", [self._sights.pop(0)])


@pytest.mark.parametrize(("lost", "usable"), [(True, True), (False, False)])
def test_a_noted_gpu_is_gone_when_the_one_without_a_name_is_lost_and_not_when_it_errs(
    tmp_path: Path, lost: bool, usable: bool
) -> None:
    notes = XidNotes(tmp_path)
    notes.add("GPU-0", 79)
    nameless = Sight(replace(GPU, uuid="", usable=False, reason="NVML answers 'x'"), None, lost=lost)
    checkup = Checkup(Reader(nameless, Sight(GPU, Vitals(energy_mj=1))), notes)
    assert not checkup.inventory().gpus[0].usable
    assert checkup.inventory().gpus[0].usable == usable


def test_the_newest_xid_counts_and_nothing_seen_before_it(tmp_path: Path) -> None:
    notes = XidNotes(tmp_path)
    notes.add("GPU-0", 48)
    seen = [Sight(GPU, Vitals(energy_mj=energy)) for energy in (100, 50, 40)]
    checkup = Checkup(Reader(*seen), notes)
    assert checkup.inventory().gpus[0].reason.startswith("it had Xid 48 ")
    notes.add("GPU-0", 79)
    assert checkup.inventory().gpus[0].reason.startswith("it had Xid 79 ")
    assert checkup.inventory().gpus[0].usable
