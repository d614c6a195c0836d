"""What commands make of a topology, without a host."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml
from fakesite import cdi, changes
from fakesite.errors import SiteError
from fakesite.nodes import check_majors, wanted
from fakesite.profiles import parse_host
from fakesite.topology import NOT_OFFERED, Kind, State, Topology, parse, render
from hypothesis import given
from hypothesis import strategies as st

DEFAULT = parse_host("3x2g.10gb,3x2g.10gb,full,full")


def counting() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"uuid-{next(numbers)}"


def default_topology() -> Topology:
    topology = changes.booted(DEFAULT, "seed", 100.0)
    return changes.rebuilt(topology, dict(enumerate(DEFAULT)), 12, counting())


def test_after_a_reboot_mig_mode_is_kept_and_instances_are_gone() -> None:
    topology = changes.booted(DEFAULT, "seed", 100.0)
    assert [gpu.mig for gpu in topology.gpus] == [1, 1, 0, 0]
    assert topology.instances == ()


def test_gpu_uuids_are_the_hosts_own_and_stable() -> None:
    uuids = [gpu.uuid for gpu in changes.booted(DEFAULT, "seed", 100.0).gpus]
    assert uuids == [gpu.uuid for gpu in changes.booted(DEFAULT, "seed", 900.0).gpus]
    assert len({*uuids, *(gpu.uuid for gpu in changes.booted(DEFAULT, "other", 100.0).gpus)}) == 8


def test_cutting_one_gpu_leaves_the_others_alone() -> None:
    before = default_topology()
    after = changes.rebuilt(before, {1: parse_host("7x1g.5gb")[0]}, 100, lambda: "fresh")
    assert after.of(0) == before.of(0)
    assert [instance.profile for instance in after.of(1)] == ["1g.5gb"] * 7
    assert [instance.gicap for instance in after.of(1)] == list(range(100, 114, 2))


def test_the_file_says_what_the_records_say() -> None:
    topology = changes.xid_added(default_topology(), 1, 79)
    topology = changes.process_added(topology, "0:1", 4242, 3000)
    topology = changes.process_added(topology, "2", 4242, NOT_OFFERED, Kind.GRAPHICS)
    topology = changes.memory_errors_set(topology, 2, {"ecc": 3, "rowpending": 1, "pagepending": 0})
    topology = replace(changes.recovery_set(topology, 3, "not-offered"), mismatch=True)
    assert parse(render(topology)) == topology


def test_a_process_is_on_each_list_once() -> None:
    topology = default_topology()
    for kind in (Kind.COMPUTE, Kind.GRAPHICS, Kind.COMPUTE):
        topology = changes.process_added(topology, "2", 7, 100, kind)
    topology = changes.process_added(topology, "2", 7, 200)
    assert sorted((p.kind, p.mem) for p in topology.processes) == [(Kind.COMPUTE, 200), (Kind.GRAPHICS, 100)]


def test_a_reset_begins_anew_and_keeps_what_the_gpu_is() -> None:
    before = changes.memory_errors_set(default_topology(), 0, {"ecc": 3, "rowpending": 1, "rowfailed": 1})
    before = changes.recovery_set(changes.health_set(before, 0, State.LOST), 0, "reset")
    after = changes.was_reset(before, 0, 500.0)
    gpu, old = after.gpu(0), before.gpu(0)
    assert (gpu.uuid, gpu.serial, gpu.minor, gpu.mig) == (old.uuid, old.serial, old.minor, 1)
    assert (gpu.state, gpu.ecc, gpu.rowpending, gpu.rowfailed, gpu.recovery) == (State.OK, 0, 0, 1, 0)
    assert gpu.energy_at(500.0) == 0 < old.energy_at(500.0)
    assert after.of(0) == ()
    assert after.of(1) == before.of(1)


def test_words_for_memory_and_recovery_are_checked() -> None:
    for change in (
        lambda: changes.memory_errors_set(default_topology(), 0, {"mem": 1}),
        lambda: changes.recovery_set(default_topology(), 0, "magic"),
    ):
        with pytest.raises(SiteError):
            change()


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0.001, 1e6)), max_size=20))
def test_energy_never_falls_whatever_the_use(steps: list[tuple[int, float]]) -> None:
    topology, now_s, last = default_topology(), 100.0, 0
    for util, elapsed_s in steps:
        now_s += elapsed_s
        topology = changes.gauges_set(topology, "2", {"util": util}, now_s)
        energy = topology.gpu(2).energy_at(now_s + 0.001)
        assert energy >= last
        last = energy


def test_only_the_newest_xids_are_kept_and_their_numbers_go_on() -> None:
    topology = default_topology()
    for code in range(100):
        topology = changes.xid_added(topology, 0, code)
    assert len(topology.xids) == 64
    assert topology.xids[-1].seq == 100


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("0", {"util": 101}),
        ("0", {"speed": 1}),
        ("0:0", {"util": 5}),
        ("9", {"util": 5}),
        ("0:3", {"mem": 5}),
        ("x", {}),
    ],
)
def test_impossible_readings_are_refused(target: str, settings: dict[str, int]) -> None:
    with pytest.raises(SiteError):
        changes.gauges_set(default_topology(), target, settings, 200.0)


def test_a_process_needs_an_instance_on_a_gpu_in_mig_mode() -> None:
    with pytest.raises(SiteError, match="MIG mode"):
        changes.process_added(default_topology(), "0", 1, 100)


def devices_of(topology: Topology) -> dict[str, list[str]]:
    text = cdi.render(topology, cdi.Path("/usr/lib/x86_64-linux-gnu"))
    assert text is not None
    found = yaml.safe_load(text)
    return {d["name"]: [node["path"] for node in d["containerEdits"]["deviceNodes"]] for d in found["devices"]}


def test_cdi_offers_each_unit_by_index_and_uuid_with_its_nodes() -> None:
    topology = default_topology()
    devices = devices_of(topology)
    assert devices["0:1"] == ["/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap14", "/dev/nvidia-caps/nvidia-cap15"]
    assert devices["2"] == ["/dev/nvidia2"]
    assert devices[topology.of(0)[1].uuid] == devices["0:1"]
    assert devices[topology.gpu(2).uuid] == devices["2"]
    assert "0" not in devices
    assert topology.gpu(0).uuid not in devices
    assert set(devices["all"]) == {path for paths in devices.values() for path in paths}


def test_every_device_of_the_cdi_file_has_a_node() -> None:
    topology = default_topology()
    nodes = {f"/dev/{node.path}" for node in wanted(topology)}
    assert {path for paths in devices_of(topology).values() for path in paths} <= nodes


def test_cdi_edits_for_all_devices_have_the_vendors_form() -> None:
    found = yaml.safe_load(cdi.render(default_topology(), cdi.Path("/usr/lib/x86_64-linux-gnu")) or "")
    edits = found["containerEdits"]
    assert (found["kind"], found["cdiVersion"]) == ("nvidia.com/gpu", "0.5.0")
    assert edits["env"] == ["NVIDIA_VISIBLE_DEVICES=void"]
    assert [n["path"] for n in edits["deviceNodes"]] == ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"]
    assert all(mount["hostPath"] == mount["containerPath"] for mount in edits["mounts"])
    assert "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1" in [mount["hostPath"] for mount in edits["mounts"]]
    for hook in edits["hooks"]:
        assert (hook["hookName"], hook["path"]) == ("createContainer", "/usr/bin/nvidia-cdi-hook")
        assert hook["args"][0] == "nvidia-cdi-hook"


def test_gpus_in_mig_mode_without_instances_offer_nothing() -> None:
    assert cdi.render(changes.booted(parse_host("mig,mig"), "seed", 0.0), cdi.Path("/usr/lib")) is None
    assert "1" not in devices_of(changes.booted(parse_host("full,mig"), "seed", 0.0))


def test_a_major_that_this_kernel_uses_is_refused() -> None:
    check_majors("Character devices:\n  1 mem\n195 \n\nBlock devices:\n420 loop\n")
    with pytest.raises(SiteError, match="420 belongs to the driver 'other'"):
        check_majors("Character devices:\n420 other\n\nBlock devices:\n")
