"""The compiled library, asked through pynvml as monitoring tools do."""

from __future__ import annotations

import os
import signal
import subprocess

from fakehost import FakeHost, build_library

NOT_SUPPORTED, INVALID_ARGUMENT, TIMEOUT, GPU_IS_LOST = 3, 2, 10, 15
XID = 8


def test_soname_is_the_one_that_programs_ask_for() -> None:
    listing = subprocess.run(
        ["readelf", "-d", build_library() / "libnvidia-ml.so.1"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "Library soname: [libnvidia-ml.so.1]" in listing.stdout


def test_identity_of_a_whole_gpu(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    assert probe.value("nvmlDeviceGetCount()") == 4
    uuid = host.status()["gpus"][2]["uuid"]
    assert probe.value("nvmlDeviceGetUUID(gpu(2))") == uuid
    assert probe.value(f"nvmlDeviceGetMinorNumber(nvmlDeviceGetHandleByUUID('{uuid}'))") == 2
    assert probe.value("nvmlDeviceGetName(gpu(2))") == "NVIDIA A100-SXM4-40GB"
    assert probe.value("nvmlDeviceGetPciInfo(gpu(2)).busId") == "00000000:17:00.0"
    assert probe.value("nvmlSystemGetCudaDriverVersion()") == 12080


def test_readings_follow_the_topology_of_a_running_process(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    assert probe.value("nvmlDeviceGetUtilizationRates(gpu(2)).gpu") == 0
    host.fakegpu("set", "2", "util=85", "mem=30000", "temp=71")
    assert probe.value("nvmlDeviceGetUtilizationRates(gpu(2)).gpu") == 85
    assert probe.value("nvmlDeviceGetMemoryInfo(gpu(2)).used") == 30000 << 20
    assert probe.value("nvmlDeviceGetMemoryInfo(gpu(2), version=nvmlMemory_v2).total") == 40960 << 20
    assert probe.value("nvmlDeviceGetTemperature(gpu(2), 0)") == 71
    assert probe.value("nvmlDeviceGetPowerUsage(gpu(2))") > 300_000


def test_total_energy_rises(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    first = probe.value("nvmlDeviceGetTotalEnergyConsumption(gpu(0))")
    host.fakegpu("set", "0", "util=100")
    second = probe.value("nvmlDeviceGetTotalEnergyConsumption(gpu(0))")
    host.fakegpu("set", "0", "util=0")
    assert first < second < probe.value("nvmlDeviceGetTotalEnergyConsumption(gpu(0))")


def test_use_is_not_counted_in_mig_mode(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    assert probe.ask("nvmlDeviceGetUtilizationRates(gpu(0))") == {"error": NOT_SUPPORTED}
    assert probe.ask("nvmlDeviceGetUtilizationRates(mig(0, 0))") == {"error": NOT_SUPPORTED}
    assert probe.ask("nvmlDeviceGetPowerUsage(mig(0, 0))") == {"error": NOT_SUPPORTED}
    assert probe.value("nvmlDeviceGetPowerUsage(gpu(0))") == 52_000


def test_a_mig_device_knows_its_parent_and_size(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    parent = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig(1, 2))"
    assert probe.value(f"nvmlDeviceGetIndex({parent})") == 1
    assert probe.value("nvmlDeviceGetName(mig(1, 2))").endswith("MIG 2g.10gb")
    assert probe.value("nvmlDeviceGetMemoryInfo(mig(1, 2)).total") == 9856 << 20
    assert probe.value("nvmlDeviceGetAttributes_v2(mig(1, 2)).computeInstanceSliceCount") == 2


def test_the_handle_of_a_destroyed_instance_stands_for_nothing(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    probe.value("kept.update(old=mig(0, 0))")
    host.fakegpu("mig", "0", "3x2g.10gb")
    assert probe.ask("nvmlDeviceGetUUID(old)") == {"error": INVALID_ARGUMENT}
    assert probe.value("nvmlDeviceGetUUID(mig(0, 0))") == host.status()["instances"][0]["uuid"]


def test_processes_are_listed_on_their_instance_while_they_live(host: FakeHost) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        host.fakegpu("process", "0:1", str(sleeper.pid), "700")
        host.fakegpu("process", "2", str(os.getpid()), "900")
        probe = host.probe()
        probe.value("nvmlInit()")
        pids = "[p.pid for p in nvmlDeviceGetComputeRunningProcesses({})]"
        assert probe.value(pids.format("mig(0, 1)")) == [sleeper.pid]
        assert probe.value(pids.format("gpu(0)")) == [sleeper.pid]
        assert probe.value(pids.format("mig(0, 0)")) == []
        assert probe.value(pids.format("gpu(2)")) == [os.getpid()]
        assert probe.value("nvmlDeviceGetMemoryInfo(mig(0, 1)).used") == 700 << 20
        sleeper.kill()
        sleeper.wait()
        assert probe.value(pids.format("mig(0, 1)")) == []


def test_a_lost_gpu_says_so_and_the_others_go_on(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    probe.value("kept.update(old=gpu(2))")
    host.fakegpu("lost", "2")
    assert probe.ask("gpu(2)") == {"error": GPU_IS_LOST}
    assert probe.ask("nvmlDeviceGetUUID(old)") == {"error": GPU_IS_LOST}
    assert probe.value("nvmlDeviceGetIndex(gpu(3))") == 3
    host.fakegpu("ok", "2")
    assert probe.value("nvmlDeviceGetIndex(old)") == 2


def test_a_call_on_a_hanging_gpu_returns_when_the_gpu_does(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    host.fakegpu("hang", "1")
    assert probe.value("nvmlDeviceGetIndex(gpu(0))") == 0
    probe.send("nvmlDeviceGetIndex(gpu(1))")
    assert not probe.answers_within(0.3)
    host.fakegpu("ok", "1")
    assert probe.receive() == {"value": 1}


def test_a_hanging_process_can_be_killed(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    host.fakegpu("hang", "1")
    probe.send("nvmlDeviceGetIndex(gpu(1))")
    assert not probe.answers_within(0.3)
    probe.process.kill()
    assert probe.process.wait(timeout=20) == -signal.SIGKILL


def test_an_xid_is_told_once_to_those_who_registered_before_it(host: FakeHost) -> None:
    host.fakegpu("xid", "2", "31")
    probe = host.probe()
    probe.value("nvmlInit()")
    probe.value("kept.update(events=nvmlEventSetCreate())")
    probe.value("register(events, 2)")
    host.fakegpu("xid", "3", "48")
    assert probe.ask("wait(events, 0)") == {"error": TIMEOUT}
    probe.send("wait(events, 20000)")
    host.fakegpu("xid", "2", "79")
    assert probe.receive() == {"value": [XID, 79, host.status()["gpus"][2]["uuid"]]}
    assert probe.ask("wait(events, 0)") == {"error": TIMEOUT}


def test_waiting_for_events_of_a_lost_gpu_fails(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    probe.value("kept.update(events=nvmlEventSetCreate())")
    probe.value("register(events, 2)")
    host.fakegpu("lost", "2")
    assert probe.ask("wait(events, 20000)") == {"error": GPU_IS_LOST}


def test_a_topology_that_is_being_broken_is_an_error_not_a_crash(host: FakeHost) -> None:
    probe = host.probe()
    probe.value("nvmlInit()")
    good = host.topology.read_text()
    for bad in ("", "gpu index=9\n", good.replace("minor=0", "minor=x"), "\0\0", good[: len(good) // 2], "x" * 5000):
        host.topology.with_name("new").write_text(bad)
        host.topology.with_name("new").replace(host.topology)
        assert probe.ask("nvmlDeviceGetCount()").keys() == {"error"}, bad[:40]
    host.topology.with_name("new").write_text(good)
    host.topology.with_name("new").replace(host.topology)
    assert probe.value("nvmlDeviceGetCount()") == 4
