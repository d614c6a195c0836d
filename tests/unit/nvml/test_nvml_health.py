"""What makes a GPU unfit for work, how that is told, and what makes it fit again; on the simulated driver's library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakehost import FakeHost, Probe

XID_79 = "it had Xid 79 (the GPU has fallen off the bus); reset GPU 2 or reboot"


def gpu(probe: Probe, index: int) -> Any:
    return probe.value("inventory()")["gpus"][index]


def reason(probe: Probe, index: int = 2) -> str:
    found = gpu(probe, index)
    assert found["usable"] == (found["reason"] == "")
    return str(found["reason"])


def watching(host: FakeHost) -> Probe:
    """A reader that hears of Xids: NVML tells only those who registered before, so one is raised until it is noted."""
    probe = host.probe()
    probe.value("watch()")
    raise_until(host, probe, 3, 79, lambda: reason(probe, 3) != "")
    (host.notes / host.status()["gpus"][3]["uuid"]).unlink()
    assert reason(probe, 3) == ""
    return probe


def raise_until(host: FakeHost, probe: Probe, index: int, code: int, seen: Callable[[], bool]) -> None:
    for _ in range(40):
        host.fakegpu("xid", str(index), str(code))
        if wait_for(seen, 0.3):
            return
    raise AssertionError(f"Xid {code} of GPU {index} is not noted")


def wait_for(seen: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["ecc=1"], "it had 1 uncorrectable ECC error since the driver was loaded; reset GPU 2"),
        (["ecc=3"], "it had 3 uncorrectable ECC errors since the driver was loaded; reset GPU 2"),
        (["rowpending=1"], "a row of its memory is remapped at the next reset; reset GPU 2"),
        (["pagepending=1"], "a page of its memory is retired at the next reset; reset GPU 2"),
    ],
)
def test_memory_errors_withhold_a_gpu_until_its_reset(host: FakeHost, settings: list[str], expected: str) -> None:
    probe = host.probe()
    host.fakegpu("ecc", "2", *settings)
    assert reason(probe) == expected
    assert [gpu(probe, index)["usable"] for index in (0, 1, 3)] == [True] * 3
    host.fakegpu("reset", "2")
    assert reason(probe) == ""


def test_a_failed_remapping_outlives_a_reset(host: FakeHost) -> None:
    probe = host.probe()
    host.fakegpu("ecc", "2", "rowfailed=1")
    host.fakegpu("reset", "2")
    assert reason(probe) == "a row of its memory could not be remapped; have the board replaced"


def test_every_reason_is_told(host: FakeHost) -> None:
    host.fakegpu("ecc", "2", "ecc=2", "rowpending=1")
    assert reason(host.probe()).count("; reset GPU 2") == 2


def test_a_gpu_that_retires_pages_and_has_none_pending_is_well(host: FakeHost) -> None:
    host.fakegpu("ecc", "2", "pagepending=0")
    assert reason(host.probe()) == ""


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("reset", "the driver asks for a reset of the GPU"),
        ("reboot", "the driver asks for a reboot"),
        ("none", ""),
        ("not-offered", ""),
    ],
)
def test_what_the_driver_asks_for_is_told(host: FakeHost, action: str, expected: str) -> None:
    host.fakegpu("recovery", "2", action)
    assert reason(host.probe()) == expected


def test_an_unfit_gpu_that_answers_shows_its_instances(host: FakeHost) -> None:
    probe = host.probe()
    good = gpu(probe, 0)
    host.fakegpu("ecc", "0", "ecc=1")
    assert gpu(probe, 0)["instances"] == good["instances"] != []


def test_a_fatal_xid_withholds_its_gpu_alone(host: FakeHost) -> None:
    probe = watching(host)
    host.fakegpu("xid", "2", "79")
    assert wait_for(lambda: reason(probe) == XID_79)
    assert [gpu(probe, index)["usable"] for index in (0, 1, 3)] == [True] * 3


@pytest.mark.parametrize("code", [13, 31, 43, 45, 63, 94, 999])
def test_an_xid_of_a_program_or_of_no_known_number_withholds_nothing(host: FakeHost, code: int) -> None:
    probe = watching(host)
    host.fakegpu("xid", "2", str(code))
    host.fakegpu("xid", "3", "79")  # told after it
    assert wait_for(lambda: reason(probe, 3) != "")
    assert reason(probe) == ""


def test_a_fatal_xid_outlives_the_reader(host: FakeHost) -> None:
    probe = watching(host)
    host.fakegpu("xid", "2", "79")
    assert wait_for(lambda: reason(probe) == XID_79)
    probe.close()
    again = host.probe()
    assert [reason(again), reason(again)] == [XID_79, XID_79]


def noted(host: FakeHost) -> Probe:
    """A reader that has seen GPU 2 after its Xid."""
    uuid = host.status()["gpus"][2]["uuid"]
    (host.notes / uuid).write_text('{"xid": 79}')
    probe = host.probe()
    assert reason(probe) == XID_79
    return probe


def test_a_reset_ends_a_fatal_xid(host: FakeHost) -> None:
    probe = noted(host)
    host.fakegpu("reset", "2")
    assert reason(probe) == ""
    assert list(host.notes.iterdir()) == []


def test_a_reset_while_no_reader_runs_ends_a_fatal_xid(host: FakeHost) -> None:
    noted(host).close()
    host.fakegpu("reset", "2")
    assert reason(host.probe()) == ""


def test_a_gpu_that_was_lost_and_answers_again_is_well(host: FakeHost) -> None:
    probe = noted(host)
    host.fakegpu("lost", "2")
    assert reason(probe) == (
        f"GPU 2 is lost: it has fallen off the bus or can't be reached; reset it or reboot; {XID_79}"
    )
    host.fakegpu("ok", "2")
    assert reason(probe) == ""


def test_a_lost_gpu_that_was_seen_before_a_restart_is_well_when_it_answers_again(host: FakeHost) -> None:
    probe = noted(host)
    host.fakegpu("lost", "2")
    assert not gpu(probe, 2)["usable"]
    probe.close()
    host.fakegpu("ok", "2")
    assert reason(host.probe()) == ""


def test_a_driver_that_was_loaded_anew_ends_a_fatal_xid(host: FakeHost) -> None:
    probe = noted(host)
    host.configure("none")
    host.boot()
    assert "unavailable" in probe.ask("inventory()")
    (note,) = host.notes.iterdir()
    assert json.loads(note.read_text())["gone"]
    host.configure("full,full,full,full")
    host.boot()
    assert reason(probe) == ""


def test_a_gpu_that_was_not_listed_in_between_is_well(host: FakeHost) -> None:
    probe = noted(host)
    host.configure("full")
    host.boot()
    assert len(probe.value("inventory()")["gpus"]) == 1
    (note,) = host.notes.iterdir()
    assert json.loads(note.read_text())["gone"]
    host.configure("full,full,full,full")
    host.boot()
    assert reason(probe) == ""


def test_what_the_driver_asked_for_and_asks_no_more_ends_a_fatal_xid(host: FakeHost) -> None:
    probe = noted(host)
    host.fakegpu("recovery", "2", "reset")
    assert reason(probe) == f"{XID_79}; the driver asks for a reset of the GPU"
    host.fakegpu("recovery", "2", "none")
    assert reason(probe) == ""


def test_a_gpu_whose_note_is_removed_by_hand_is_well(host: FakeHost) -> None:
    probe = noted(host)
    (host.notes / host.status()["gpus"][2]["uuid"]).unlink()
    assert reason(probe) == ""


def test_a_note_that_can_not_be_read_makes_the_gpus_unavailable(host: FakeHost) -> None:
    (host.notes / host.status()["gpus"][2]["uuid"]).write_text("?")
    assert "can't be read" in host.probe().ask("inventory()")["unavailable"]


def test_xids_are_heard_of_after_the_driver_was_loaded_anew(host: FakeHost) -> None:
    probe = watching(host)
    host.configure("none")
    host.boot()
    assert wait_for(lambda: "unavailable" in probe.ask("inventory()"))
    host.configure("full,full,full,full")
    host.boot()
    raise_until(host, probe, 2, 79, lambda: reason(probe) != "")


def test_xids_are_heard_of_a_gpu_that_answers_only_later(host: FakeHost) -> None:
    host.fakegpu("lost", "2")
    probe = watching(host)
    host.fakegpu("ok", "2")
    raise_until(host, probe, 2, 79, lambda: reason(probe) != "")


def test_a_lost_gpu_does_not_keep_others_from_being_heard_of(host: FakeHost) -> None:
    probe = watching(host)
    host.fakegpu("lost", "2")
    raise_until(host, probe, 0, 95, lambda: reason(probe, 0) != "")


def test_a_gpu_without_events_is_no_error(host: FakeHost) -> None:
    host.fakegpu("events", "2", "off")
    probe = watching(host)
    assert reason(probe) == ""


def test_the_name_of_a_lost_gpu_is_known_when_its_xid_is_told(host: FakeHost) -> None:
    probe = watching(host)
    topology = host.topology.read_text()
    lines = [line.replace("state=ok", "state=lost") if "index=2 " in line else line for line in topology.splitlines()]
    lines.append("xid seq=1000 gpu=2 code=79")
    fresh: Path = host.topology.with_name("fresh")
    fresh.write_text("\n".join(lines) + "\n")
    fresh.replace(host.topology)
    assert wait_for(lambda: reason(probe).endswith(XID_79))
