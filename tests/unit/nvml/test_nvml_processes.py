"""Who uses the GPUs, as the reader tells it from the simulated driver's library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fakehost import FakeHost

PID, PARENT = os.getpid(), os.getppid()


def uuid(host: FakeHost, index: int) -> str:
    return str(host.status()["gpus"][index]["uuid"])


def process(gpu_uuid: str, gpu_instance: int, pid: int, memory_bytes: int | None) -> dict[str, Any]:
    return {"gpu_uuid": gpu_uuid, "gpu_instance": gpu_instance, "pid": pid, "memory_bytes": memory_bytes}


def test_an_idle_host_has_no_processes_and_nothing_unknown(host: FakeHost) -> None:
    assert host.probe().value("processes()") == {"processes": [], "unknown": []}


def test_processes_are_told_with_their_instance_whatever_their_kind(host: FakeHost) -> None:
    host.fakegpu("process", "0:1", str(PID), "700")
    host.fakegpu("process", "2", str(PID), "unknown", "graphics")
    host.fakegpu("process", "3", str(PID), "300", "mps")
    found = host.probe().value("processes()")
    instances = host.status()["instances"]
    assert {one["gpu_uuid"]: one for one in found["processes"]} == {
        uuid(host, 0): process(uuid(host, 0), instances[1]["gi"], PID, 700 << 20),
        uuid(host, 2): process(uuid(host, 2), -1, PID, None),
        uuid(host, 3): process(uuid(host, 3), -1, PID, 300 << 20),
    }
    assert len(found["processes"]) == 3
    assert found["unknown"] == []


def test_a_process_on_several_lists_is_told_once_with_the_memory_that_is_known(host: FakeHost) -> None:
    host.fakegpu("process", "2", str(PID), "900")
    host.fakegpu("process", "2", str(PID), "unknown", "graphics")
    host.fakegpu("process", "2", str(PARENT), "5")
    found = host.probe().value("processes()")["processes"]
    assert found == sorted(
        [process(uuid(host, 2), -1, PID, 900 << 20), process(uuid(host, 2), -1, PARENT, 5 << 20)],
        key=lambda one: one["pid"],
    )


def test_a_gpu_that_errs_is_unknown_and_hides_no_other(host: FakeHost) -> None:
    host.fakegpu("process", "3", str(PID), "300")
    probe = host.probe()
    probe.value("inventory()")
    host.fakegpu("lost", "2")
    found = probe.value("processes()")
    assert found == {"processes": [process(uuid(host, 3), -1, PID, 300 << 20)], "unknown": [uuid(host, 2)]}


def test_a_gpu_whose_uuid_was_never_told_is_unknown_without_a_name(host: FakeHost) -> None:
    host.fakegpu("lost", "2")
    assert host.probe().value("processes()")["unknown"] == [""]


def test_without_a_library_nothing_is_known(host: FakeHost, tmp_path: Path) -> None:
    assert "unavailable" in host.probe(library_folder=tmp_path).ask("processes()")
