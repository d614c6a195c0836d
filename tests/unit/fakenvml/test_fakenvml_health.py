"""Health, links, kinds of processes and events of the compiled library, asked through pynvml as monitoring tools do."""

from __future__ import annotations

import os

import pytest
from fakehost import FakeHost, Probe

NOT_SUPPORTED, TIMEOUT, MISMATCH = 3, 10, 18
XID = 8


def opened(host: FakeHost) -> Probe:
    probe = host.probe()
    probe.value("nvmlInit()")
    return probe


def test_ecc_errors_are_counted_by_kind(host: FakeHost) -> None:
    probe = opened(host)
    total = "nvmlDeviceGetTotalEccErrors(gpu(2), {}, {})"
    host.fakegpu("ecc", "2", "ecc=3")
    uncorrected, volatile = "NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC"
    assert probe.value(total.format(uncorrected, volatile)) == 3
    assert probe.value(total.format("NVML_MEMORY_ERROR_TYPE_CORRECTED", volatile)) == 0
    assert probe.value(total.format(uncorrected, "NVML_AGGREGATE_ECC")) == 0


def test_rows_and_pages(host: FakeHost) -> None:
    probe = opened(host)
    assert probe.value("nvmlDeviceGetRemappedRows(gpu(2))") == [0, 0, 0, 0]
    assert probe.ask("nvmlDeviceGetRetiredPagesPendingStatus(gpu(2))") == {"error": NOT_SUPPORTED}
    host.fakegpu("ecc", "2", "rowpending=1", "rowfailed=1", "pagepending=1")
    assert probe.value("nvmlDeviceGetRemappedRows(gpu(2))") == [0, 1, 1, 1]
    assert probe.value("nvmlDeviceGetRetiredPagesPendingStatus(gpu(2))") == 1
    assert probe.ask("nvmlDeviceGetRemappedRows(mig(0, 0))") == {"error": NOT_SUPPORTED}


def test_the_recovery_action_is_a_field(host: FakeHost) -> None:
    probe = opened(host)
    fields = "[[f.nvmlReturn, f.value.uiVal] for f in nvmlDeviceGetFieldValues(gpu(2), [230, 1])]"
    assert probe.value(fields) == [[0, 0], [NOT_SUPPORTED, 0xDEAD]]
    host.fakegpu("recovery", "2", "drain-and-reset")
    assert probe.value(fields)[0] == [0, 4]
    host.fakegpu("recovery", "2", "not-offered")
    assert probe.value(fields)[0] == [NOT_SUPPORTED, 0xDEAD]


def test_energy_begins_anew_with_a_reset(host: FakeHost) -> None:
    probe = opened(host)
    host.fakegpu("set", "2", "util=100")
    before = probe.value("nvmlDeviceGetTotalEnergyConsumption(gpu(2))")
    host.fakegpu("reset", "2")
    assert probe.value("nvmlDeviceGetTotalEnergyConsumption(gpu(2))") < before


@pytest.mark.parametrize(("one", "other", "status"), [(0, 1, 0), (1, 0, 0), (0, 3, 5), (1, 2, 0)])
def test_peers_reach_each_other_over_nvlink_where_it_joins_them(
    host: FakeHost, one: int, other: int, status: int
) -> None:
    host.configure("full,full,mig,full nvlink=0-1,1-2")
    host.boot()
    probe = opened(host)
    assert probe.value(f"nvmlDeviceGetP2PStatus(gpu({one}), gpu({other}), NVML_P2P_CAPS_INDEX_NVLINK)") == status
    assert probe.value(f"nvmlDeviceGetP2PStatus(gpu({one}), gpu({other}), NVML_P2P_CAPS_INDEX_PCI)") == 5


def test_each_kind_of_process_has_its_list(host: FakeHost) -> None:
    pid = os.getpid()
    host.fakegpu("process", "2", str(pid), "100")
    host.fakegpu("process", "2", str(pid), "unknown", "graphics")
    probe = opened(host)
    listed = "[[p.pid, p.usedGpuMemory] for p in nvmlDeviceGet{}RunningProcesses(gpu(2))]"
    assert probe.value(listed.format("Compute")) == [[pid, 100 << 20]]
    assert probe.value(listed.format("Graphics")) == [[pid, None]]
    assert probe.value(listed.format("MPSCompute")) == []
    assert probe.value("nvmlDeviceGetMemoryInfo(gpu(2)).used") == 100 << 20


def test_a_library_of_another_version_is_refused_and_open_programs_go_on(host: FakeHost) -> None:
    before = opened(host)
    host.fakegpu("driver-mismatch", "on")
    assert host.probe().ask("nvmlInit()") == {"error": MISMATCH}
    assert before.value("[nvmlInit(), nvmlDeviceGetCount()][1]") == 4
    host.fakegpu("driver-mismatch", "off")
    assert opened(host).value("nvmlDeviceGetCount()") == 4


def test_an_event_is_told_to_every_set_that_registered(host: FakeHost) -> None:
    probes = [opened(host), opened(host)]
    for probe in probes:
        probe.value("kept.update(a=nvmlEventSetCreate(), b=nvmlEventSetCreate())")
        probe.value("[register(a, 2), register(b, 2)]")
    host.fakegpu("xid", "2", "79")
    for probe in probes:
        for name in ("a", "b"):
            assert probe.value(f"wait({name}, 20000)")[:2] == [XID, 79]
            assert probe.ask(f"wait({name}, 0)") == {"error": TIMEOUT}


def test_a_gpu_without_events_refuses_registration(host: FakeHost) -> None:
    host.fakegpu("events", "2", "off")
    probe = opened(host)
    probe.value("kept.update(events=nvmlEventSetCreate())")
    assert probe.ask("register(events, 2)") == {"error": NOT_SUPPORTED}
    probe.value("register(events, 3)")
