"""The reader on the simulated driver's library: what it says in every state of the GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakehost import FakeHost


def test_every_gpu_and_instance_is_read(host: FakeHost) -> None:
    found = host.probe().value("inventory()")
    status = host.status()
    assert found["driver"] == "570.124.06"
    assert [gpu["uuid"] for gpu in found["gpus"]] == [gpu["uuid"] for gpu in status["gpus"]]
    assert [(gpu["index"], gpu["minor"], gpu["mig_enabled"]) for gpu in found["gpus"]] == [
        (0, 0, True),
        (1, 1, True),
        (2, 2, False),
        (3, 3, False),
    ]
    assert all(gpu["usable"] and gpu["memory_bytes"] == 40 << 30 for gpu in found["gpus"])
    instances = [instance for gpu in found["gpus"] for instance in gpu["instances"]]
    assert [instance["uuid"] for instance in instances] == [instance["uuid"] for instance in status["instances"]]
    assert {k: v for k, v in instances[1].items() if k != "uuid"} == {
        "gpu_instance": 4,
        "compute_instance": 0,
        "profile": "2g.10gb",
        "placement_start": 2,
        "placement_size": 2,
        "compute_slices": 2,
        "memory_bytes": 9856 << 20,
    }


@pytest.mark.parametrize(
    ("layout", "units"),
    [
        ("7x1g.5gb", [("1g.5gb", start, 1, 1) for start in range(7)]),
        ("4x1g.10gb", [("1g.10gb", start, 2, 1) for start in (0, 2, 4, 6)]),
        ("1x4g.20gb+1x3g.20gb", [("4g.20gb", 0, 4, 4), ("3g.20gb", 4, 4, 3)]),
        ("1x7g.40gb", [("7g.40gb", 0, 8, 7)]),
        ("mig", []),
        ("full", []),
    ],
)
def test_layouts_are_read_as_they_were_made(
    host: FakeHost, layout: str, units: list[tuple[str, int, int, int]]
) -> None:
    host.fakegpu("mig", "0", layout)
    gpu = host.probe().value("inventory()")["gpus"][0]
    keys = ("profile", "placement_start", "placement_size", "compute_slices")
    assert [tuple(instance[key] for key in keys) for instance in gpu["instances"]] == units
    assert gpu["mig_enabled"] == (layout != "full")


def test_a_running_reader_sees_instances_made_again(host: FakeHost) -> None:
    probe = host.probe()
    before = probe.value("inventory()")["gpus"][0]["instances"]
    host.fakegpu("mig-apply")
    after = probe.value("inventory()")["gpus"][0]["instances"]
    assert [i["placement_start"] for i in after] == [i["placement_start"] for i in before]
    assert {i["uuid"] for i in after}.isdisjoint(i["uuid"] for i in before)


def test_a_lost_gpu_keeps_its_name_and_says_why(host: FakeHost) -> None:
    probe = host.probe()
    good = probe.value("inventory()")["gpus"]
    host.fakegpu("lost", "0")
    gpus = probe.value("inventory()")["gpus"]
    assert gpus[0] == {
        **good[0],
        "usable": False,
        "reason": "GPU 0 is lost: it has fallen off the bus or can't be reached; reset it or reboot",
        "instances": [],
    }
    assert gpus[1:] == good[1:]
    host.fakegpu("ok", "0")
    assert probe.value("inventory()")["gpus"] == good


def test_a_gpu_that_was_never_read_is_listed_without_a_uuid(host: FakeHost) -> None:
    host.fakegpu("lost", "3")
    gpu = host.probe().value("inventory()")["gpus"][3]
    assert (gpu["index"], gpu["uuid"], gpu["minor"], gpu["usable"]) == (3, "", -1, False)
    assert gpu["reason"].startswith("GPU 3 is lost: ")


def test_a_hanging_gpu_holds_the_reading_until_it_answers(host: FakeHost) -> None:
    probe = host.probe()
    good = probe.value("inventory()")
    host.fakegpu("hang", "2")
    probe.send("inventory()")
    assert not probe.answers_within(0.3)
    host.fakegpu("ok", "2")
    assert probe.receive() == {"value": good}


def test_without_a_library_the_gpus_are_unavailable(host: FakeHost, tmp_path: Path) -> None:
    answer = host.probe(library_folder=tmp_path).ask("inventory()")
    assert answer == {
        "unavailable": "the NVIDIA driver can't be asked: its library 'libnvidia-ml.so.1' is missing;"
        " install the driver"
    }


def test_without_a_driver_the_gpus_are_unavailable_until_it_is_loaded(host: FakeHost) -> None:
    host.configure("none")
    host.boot()
    probe = host.probe()
    assert probe.ask("inventory()") == {
        "unavailable": "the NVIDIA driver can't be asked: it is not loaded; run 'modprobe nvidia', or see 'dkms status'"
    }
    host.configure("full")
    host.boot()
    assert len(probe.value("inventory()")["gpus"]) == 1


def test_a_driver_that_was_unloaded_and_loaded_again_is_read(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("inventory()")
    host.configure("none")
    host.boot()
    assert "unavailable" in probe.ask("inventory()")
    host.configure("3x2g.10gb")
    host.boot()
    assert len(probe.value("inventory()")["gpus"][0]["instances"]) == 3


def test_a_driver_that_was_upgraded_and_not_reloaded_says_what_to_do(host: FakeHost) -> None:
    host.fakegpu("driver-mismatch", "on")
    probe = host.probe()
    assert probe.ask("inventory()") == {
        "unavailable": "the NVIDIA driver can't be asked: it was upgraded and not reloaded, so that its library and the"
        " kernel module differ; reboot"
    }
    host.fakegpu("driver-mismatch", "off")
    assert len(probe.value("inventory()")["gpus"]) == 4


def test_a_reading_closes_the_library_that_it_opened(host: FakeHost) -> None:
    probe = host.probe()
    for reading in ("inventory()", "processes()"):
        probe.value(reading)
        host.fakegpu("driver-mismatch", "on")
        assert "unavailable" in probe.ask(reading)
        host.fakegpu("driver-mismatch", "off")


def test_a_gpu_in_the_place_of_another_does_not_get_its_name(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("inventory()")
    host.configure("full,full")
    host.boot()
    host.fakegpu("lost", "0")
    assert probe.value("inventory()")["gpus"][0]["uuid"] == ""


def test_nvlink_is_told_from_both_ends_and_not_in_mig_mode(host: FakeHost) -> None:
    host.configure("full,full,3x2g.10gb,full nvlink=0-1,1-2,1-3")
    host.boot()
    probe = host.probe()
    assert [gpu["links"] for gpu in probe.value("inventory()")["gpus"]] == [[1], [0, 3], [], [1]]
    host.fakegpu("mig", "2", "full")
    assert [gpu["links"] for gpu in probe.value("inventory()")["gpus"]] == [[1], [0, 2, 3], [1], [1]]


def test_no_link_leads_to_a_lost_gpu(host: FakeHost) -> None:
    host.configure("full,full,full nvlink=0-1,1-2")
    host.boot()
    probe = host.probe()
    host.fakegpu("lost", "1")
    gpus = probe.value("inventory()")["gpus"]
    assert [(gpu["links"], gpu["usable"]) for gpu in gpus] == [([], True), ([], False), ([], True)]
