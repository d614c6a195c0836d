"""Create bodies: what passes, what is refused by name, what is bounded; and the property that ties them together."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import STUDENT

from ds01.common.limits import Limits, Policies
from ds01.common.model import EngineFacts
from ds01.common.sizes import Asked, parse_asked, sizes_for
from ds01.docker_shim.admin_create import build_admin, parse_admin_wish
from ds01.docker_shim.fields import CONFIG, EXEC_CREATE, EXEC_START, HOST_CONFIG, Use, judge
from ds01.docker_shim.guard import vet
from ds01.docker_shim.model import GpuWish, HealthTimes, Json, Origin, Owner, Reason, Refused, Wish
from ds01.docker_shim.rewrite import DS01_LABELS, Built, backstop, bound, build
from ds01.docker_shim.strictjson import dump, parse_object
from ds01.docker_shim.wish import parse_name, parse_wish

OWNER = Owner(1001, "alice", "student", "ds01-student-alice.slice")
ORIGIN = Origin("req-12345678", "docker", "train")
FULL_ENGINE = EngineFacts(cpu_quota=True, cpu_shares=True, memory=True, swap=True, pids=True, cpus=64)
BARE_ENGINE = EngineFacts(cpu_quota=False, cpu_shares=False, memory=False, swap=False, pids=False, cpus=64)

CLI_26 = json.loads(
    """{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,
    "Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["echo","hi"],"Image":"busybox","Volumes":{},
    "WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
    "LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no",
    "MaximumRetryCount":0},"AutoRemove":true,"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[24,80],"CapAdd":null,
    "CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,
    "IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,
    "ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,
    "Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],
    "BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,
    "CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],
    "DeviceCgroupRules":null,"DeviceRequests":[{"Driver":"","Count":1,"DeviceIDs":null,"Capabilities":[["gpu"]],
    "Options":{}}],"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,
    "Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,
    "ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,
    "Aliases":null,"MacAddress":"","DriverOpts":null,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"",
    "IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"""
)
"""What the docker CLI sends for `docker run --rm --gpus 1 busybox echo hi`."""

SDK: dict[str, Json] = {
    "Hostname": None,
    "Domainname": None,
    "ExposedPorts": None,
    "User": None,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": True,
    "Env": None,
    "Cmd": ["true"],
    "Image": "busybox",
    "Volumes": None,
    "NetworkDisabled": False,
    "Entrypoint": None,
    "WorkingDir": None,
    "HostConfig": {"NetworkMode": "default", "Privileged": False, "CapAdd": None, "Binds": [], "Devices": []},
    "NetworkingConfig": None,
    "MacAddress": None,
    "Labels": None,
    "StopSignal": None,
    "Healthcheck": None,
    "StopTimeout": None,
    "Runtime": None,
}
"""What docker-py sends for a plain run."""


def wish_of(host: dict[str, Any] | None = None, **config: Any) -> Wish | Refused:
    return parse_wish({"Image": "busybox", **config, "HostConfig": host or {}})


def body_of(
    wish: Wish | Refused,
    engine: EngineFacts = FULL_ENGINE,
    image: HealthTimes | None = None,
    limits: Limits = STUDENT,
) -> Built:
    assert isinstance(wish, Wish)
    sizes = bound(wish, limits, engine.cpus)
    assert not isinstance(sizes, Refused)
    lease = "l-1" if wish.gpus.gpus else ""
    built = build(wish, sizes, OWNER, ORIGIN, lease, backstop(limits, Policies()), engine, image)
    assert vet(built.body, OWNER.uid, limits, engine.cpus) == ""
    return built


def refused_of(host: dict[str, Any], limits: Limits = STUDENT, cpus: int = 64) -> Refused:
    wish = wish_of(host)
    refused = wish if isinstance(wish, Refused) else bound(wish, limits, cpus)
    assert isinstance(refused, Refused)
    return refused


def host_of(built: Built) -> dict[str, Json]:
    host = built.body["HostConfig"]
    assert isinstance(host, dict)
    return host


@pytest.mark.parametrize("body", [CLI_26, SDK], ids=["docker CLI 26", "docker-py"])
def test_what_real_clients_send_for_nothing_special_passes(body: dict[str, Json]) -> None:
    built = body_of(parse_wish(body))
    assert built.warnings == ()
    assert host_of(built)["CgroupParent"] == OWNER.slice


def test_a_gpu_request_becomes_the_lease_and_nothing_else() -> None:
    assert host_of(body_of(parse_wish(CLI_26)))["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["ds01.io/gpu=l-1"]}
    ]
    assert "DeviceRequests" not in host_of(body_of(wish_of()))


REFUSED_HOST: list[tuple[str, Json]] = [
    ("Binds", ["/:/host"]),
    ("Mounts", [{"Type": "bind", "Source": "/", "Target": "/host"}]),
    ("Tmpfs", {"/x": ""}),
    ("VolumesFrom", ["other"]),
    ("VolumeDriver", "local"),
    ("NetworkMode", "host"),
    ("NetworkMode", "none"),
    ("NetworkMode", "container:other"),
    ("PortBindings", {"80/tcp": [{"HostPort": "80"}]}),
    ("PublishAllPorts", True),
    ("Links", ["other:x"]),
    ("Dns", ["1.1.1.1"]),
    ("ExtraHosts", ["a:1.2.3.4"]),
    ("Privileged", True),
    ("CapAdd", ["SYS_ADMIN"]),
    ("CapDrop", ["ALL"]),
    ("SecurityOpt", ["seccomp=unconfined"]),
    ("Devices", [{"PathOnHost": "/dev/nvidia0"}]),
    ("DeviceCgroupRules", ["b *:* rwm"]),
    ("Runtime", "nvidia"),
    ("CgroupParent", "/escaped"),
    ("Cgroup", "container:x"),
    ("CgroupnsMode", "host"),
    ("IpcMode", "host"),
    ("IpcMode", "shareable"),
    ("PidMode", "host"),
    ("UTSMode", "host"),
    ("UsernsMode", "host"),
    ("GroupAdd", ["0"]),
    ("Annotations", {"org.systemd.property.TasksMax": "uint64 1"}),
    ("Annotations", {"cdi.k8s.io/x": "ds01.io/gpu=l-2"}),
    ("LogConfig", {"Type": "syslog", "Config": {"syslog-address": "unix:///run/ds01/allocator.sock"}}),
    ("LogConfig", {"Type": "json-file", "Config": {"max-size": "1g"}}),
    ("LogConfig", {"Type": "journald"}),
    ("OomScoreAdj", -1000),
    ("OomScoreAdj", 500),
    ("OomKillDisable", True),
    ("Ulimits", [{"Name": "nofile", "Soft": 1, "Hard": 1}]),
    ("Sysctls", {"net.ipv4.ip_forward": "1"}),
    ("StorageOpt", {"size": "1G"}),
    ("ReadonlyRootfs", True),
    ("MaskedPaths", []),
    ("ReadonlyPaths", []),
    ("MemorySwappiness", 60),
    ("KernelMemory", 1),
    ("CpusetCpus", "0"),
    ("CpuRealtimeRuntime", 1),
    ("BlkioWeight", 10),
    ("BlkioDeviceReadBps", [{"Path": "/dev/sda", "Rate": 1}]),
    ("Isolation", "hyperv"),
]


@pytest.mark.parametrize(("field", "value"), REFUSED_HOST)
def test_a_host_config_field_outside_the_list_is_refused_by_name(field: str, value: Json) -> None:
    for spelling in (field, field.lower(), field.upper()):
        refused = wish_of({spelling: value})
        assert isinstance(refused, Refused)
        assert refused.reason is Reason.FIELD
        assert f"HostConfig.{field}" in refused.message
        assert refused.hint


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({"Volumes": {"/data": {}}}, 403),
        ({"MacAddress": "02:00:00:00:00:01"}, 403),
        ({"Runtime": "nvidia"}, 403),
        ({"Labels": {"ds01.uid": "0"}}, 403),
        ({"Labels": {"DS01.lease": "l-2"}}, 403),
        ({"NetworkingConfig": {"EndpointsConfig": {"host": {}}}}, 403),
        ({"NetworkingConfig": {"EndpointsConfig": {"default": {"IPAddress": "1.2.3.4"}}}}, 403),
        ({"NetworkingConfig": {"EndpointsConfig": {"default": {"New": 1}}}}, 403),
        ({"NetworkingConfig": {"New": 1}}, 403),
        ({"NewField": 1}, 403),
        ({"Image": ""}, 400),
        ({"Image": "../containers/x"}, 400),
        ({"Image": "a/../b"}, 400),
        ({"Image": "a//b"}, 400),
        ({"Image": "a?x=1"}, 400),
        ({"Image": 5}, 400),
        ({"Env": "A=1"}, 400),
        ({"Env": [1]}, 400),
        ({"Cmd": {"a": 1}}, 400),
        ({"Tty": "yes"}, 400),
        ({"StopTimeout": 2**70}, 400),
        ({"User": "a\0b"}, 400),
        ({"Healthcheck": {"New": 1}}, 403),
        ({"Healthcheck": {"Test": "x"}}, 400),
        ({"image": "busybox"}, 400),
        ({"ExposedPorts": {"80/tcp": {"HostPort": "80"}}}, 400),
    ],
)
def test_config_fields_are_judged(config: dict[str, Any], status: int) -> None:
    refused = wish_of(**config)
    assert isinstance(refused, Refused)
    assert refused.status == status


def test_two_spellings_of_one_field_are_refused() -> None:
    for twice in ({"Memory": 1, "memory": 2}, {"\u212aernelMemory": 1, "KernelMemory": 0}):
        refused = wish_of(dict(twice))
        assert isinstance(refused, Refused)


def test_a_key_that_go_would_fold_is_judged_as_the_field() -> None:
    refused = wish_of({"Bind\u017f": ["/:/host"]})
    assert isinstance(refused, Refused)
    assert "HostConfig.Binds" in refused.message


@pytest.mark.parametrize(
    ("host", "limit", "requested"),
    [
        ({"Memory": 64 << 30}, "32 GiB", "64 GiB"),
        ({"MemorySwap": 64 << 30}, "32 GiB", "64 GiB"),
        ({"Memory": 1 << 30, "MemoryReservation": 2 << 30}, "1 GiB", "2 GiB"),
        ({"NanoCpus": 64_000_000_000}, "16 CPUs", "64 CPUs"),
        ({"CpuQuota": 2_000_000, "CpuPeriod": 100_000}, "16 CPUs", "20 CPUs"),
        ({"CpuQuota": 100_000, "CpuPeriod": 1000}, "16 CPUs", "100 CPUs"),
        ({"PidsLimit": 5000}, "4096 processes", "5000 processes"),
        ({"ShmSize": 9 << 30}, "8 GiB", "9 GiB"),
    ],
)
def test_more_than_the_limit_is_refused_with_both_numbers(host: dict[str, Any], limit: str, requested: str) -> None:
    refused = refused_of(host)
    assert (refused.status, refused.limit, refused.requested) == (403, limit, requested)
    assert limit in refused.sentence
    assert requested in refused.sentence


@pytest.mark.parametrize(
    "host",
    [
        {"NanoCpus": 1, "CpuQuota": 1},
        {"CpuQuota": 1000, "CpuPeriod": 1},
        {"CpuShares": 1},
        {"Memory": -5},
        {"NanoCpus": -1},
        {"NanoCpus": 9_999_999},
        {"MemorySwap": -2},
        {"MemoryReservation": -1},
        {"ShmSize": -1},
        {"Memory": 4 << 30, "MemorySwap": 1 << 30},
        {"RestartPolicy": {"Name": "sometimes"}},
        {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -1}},
        {"ConsoleSize": [1]},
        {"ConsoleSize": [1, 70000]},
        {"Memory": True},
        {"AutoRemove": 2},
    ],
)
def test_sizes_that_make_no_sense_are_malformed(host: dict[str, Any]) -> None:
    assert refused_of(host).status == 400


def test_what_is_not_said_is_set_to_the_limit() -> None:
    host = host_of(body_of(wish_of()))
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (32 << 30, 32 << 30, 16_000_000_000)
    assert (host["PidsLimit"], host["ShmSize"]) == (4096, 8 << 30)


def test_what_is_said_is_kept() -> None:
    asked = {
        "Memory": 1 << 30,
        "CpuQuota": 150_000,
        "PidsLimit": 100,
        "ShmSize": 1 << 20,
        "CpuShares": 512,
        "Init": True,
    }
    host = host_of(body_of(wish_of({**asked, "RestartPolicy": {"Name": "always"}, "AutoRemove": False})))
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (1 << 30, 1_500_000_000, 100)
    assert (host["CpuShares"], host["Init"]) == (512, True)
    assert host["RestartPolicy"] == {"Name": "always", "MaximumRetryCount": 0}


def test_limits_that_the_engine_cannot_apply_go_to_the_scope() -> None:
    host = host_of(body_of(wish_of({"NanoCpus": 2_000_000_000}), BARE_ENGINE))
    assert not {"NanoCpus", "Memory", "MemorySwap", "PidsLimit", "CpuShares"} & set(host)
    annotations = host["Annotations"]
    assert isinstance(annotations, dict)
    assert annotations["org.systemd.property.CPUQuotaPerSecUSec"] == "uint64 2000000"
    assert annotations["org.systemd.property.MemoryMax"] == f"uint64 {32 << 30}"
    assert annotations["org.systemd.property.TasksMax"] == "uint64 4096"


def test_a_container_without_a_limit_of_its_runtime_has_no_backstop() -> None:
    unlimited = replace(STUDENT, max_runtime_s=None)
    assert host_of(body_of(wish_of(), limits=unlimited))["Annotations"] == {}
    assert vet(body_of(wish_of()).body, OWNER.uid, unlimited, 64)


def test_a_backstop_after_all_of_history_is_still_a_number_of_systemds() -> None:
    longest = backstop(replace(STUDENT, max_runtime_s=1e15), Policies())["org.systemd.property.RuntimeMaxUSec"]
    assert longest == f"uint64 {10**18}"


TWO_CPUS = replace(FULL_ENGINE, cpus=2)
UNKNOWN_CPUS = replace(FULL_ENGINE, cpus=0)


@pytest.mark.parametrize(
    ("engine", "host", "nano"),
    [
        (TWO_CPUS, {}, 2_000_000_000),
        (TWO_CPUS, {"NanoCpus": 2_000_000_000}, 2_000_000_000),
        (TWO_CPUS, {"NanoCpus": 500_000_000}, 500_000_000),
        (UNKNOWN_CPUS, {}, 16_000_000_000),
        (replace(BARE_ENGINE, cpus=2), {}, None),
    ],
)
def test_no_more_cpus_than_the_engine_sees(engine: EngineFacts, host: dict[str, Any], nano: int | None) -> None:
    sent = host_of(body_of(wish_of(host), engine))
    assert sent.get("NanoCpus") == nano
    if nano is None:
        annotations = sent["Annotations"]
        assert isinstance(annotations, dict)
        assert annotations["org.systemd.property.CPUQuotaPerSecUSec"] == "uint64 2000000"


@pytest.mark.parametrize(
    ("cpus", "limit", "sentence"),
    [
        (2, 64.0, "'--cpus' asks for 8 CPUs in one container, and this machine has 2 CPUs; ask for 2 CPUs or less"),
        (1, 64.0, "'--cpus' asks for 8 CPUs in one container, and this machine has 1 CPU; ask for 1 CPU or less"),
        (4, 2.0, "'--cpus' asks for 8 CPUs in one container, and your limit is 2 CPUs; ask for 2 CPUs or less"),
        (0, 2.0, "'--cpus' asks for 8 CPUs in one container, and your limit is 2 CPUs; ask for 2 CPUs or less"),
    ],
)
def test_more_cpus_than_there_are_is_refused_with_what_would_pass(cpus: int, limit: float, sentence: str) -> None:
    refused = refused_of({"NanoCpus": 8_000_000_000}, replace(STUDENT, cpus=limit), cpus)
    assert (refused.status, refused.reason, refused.sentence) == (403, Reason.OVER_LIMIT, sentence)


SWAPPING = replace(STUDENT, memory_swap_bytes=40 << 30)


@pytest.mark.parametrize(
    ("limits", "host", "memory_gib", "together_gib"),
    [
        (STUDENT, {}, 32, 32),
        (STUDENT, {"Memory": 4 << 30}, 4, 4),
        (STUDENT, {"Memory": 4 << 30, "MemorySwap": -1}, 4, 4),
        (STUDENT, {"MemorySwap": 2 << 30}, 2, 2),
        (SWAPPING, {}, 32, 40),
        (SWAPPING, {"MemorySwap": -1}, 32, 40),
        (SWAPPING, {"Memory": 4 << 30}, 4, 12),
        (SWAPPING, {"Memory": 4 << 30, "MemorySwap": 4 << 30}, 4, 4),
        (SWAPPING, {"Memory": 4 << 30, "MemorySwap": 40 << 30}, 4, 40),
    ],
)
def test_swap_is_what_was_asked_or_the_allowance(
    limits: Limits, host: dict[str, Any], memory_gib: int, together_gib: int
) -> None:
    sent = host_of(body_of(wish_of(host), limits=limits))
    assert (sent["Memory"], sent["MemorySwap"]) == (memory_gib << 30, together_gib << 30)


def test_more_memory_and_swap_than_the_limit_is_refused_with_both_numbers() -> None:
    refused = refused_of({"Memory": 4 << 30, "MemorySwap": 41 << 30}, SWAPPING)
    assert (refused.status, refused.limit, refused.requested) == (403, "40 GiB", "41 GiB")
    assert "41 GiB of memory and swap" in refused.sentence


@pytest.mark.parametrize(
    ("host", "label"),
    [
        ({}, "policy"),
        ({"MemorySwap": -1, "PidsLimit": -1, "Memory": 0, "ShmSize": 1 << 20}, "policy"),
        ({"CpuQuota": 150_000, "Memory": 4 << 30}, "cpus_nano=1500000000 memory_bytes=4294967296"),
        ({"MemorySwap": 1 << 30, "PidsLimit": 100}, "memory_swap_bytes=1073741824 pids=100"),
    ],
)
def test_a_label_keeps_what_was_asked_so_that_it_can_be_worked_out_again(host: dict[str, Any], label: str) -> None:
    body = body_of(wish_of(host)).body
    labels = body["Labels"]
    assert isinstance(labels, dict)
    assert labels["ds01.sizes"] == label
    asked = parse_asked(label)
    assert isinstance(asked, Asked)
    sent, again = body["HostConfig"], sizes_for(asked, STUDENT, 64)
    assert isinstance(sent, dict)
    assert (sent["NanoCpus"], sent["Memory"]) == (again.cpus_nano, again.memory_bytes)
    assert (sent["MemorySwap"], sent["PidsLimit"]) == (again.memory_swap_bytes, again.pids)


def test_sizes_of_an_administrators_container_are_nobodys() -> None:
    for said in ({}, {"Labels": {"ds01.unmanaged": "1"}}, {"Labels": {"ds01.sizes": "policy"}}):
        wish = parse_admin_wish({"Image": "busybox", "HostConfig": {"Memory": 1 << 30}, **said})
        assert not isinstance(wish, Refused)
        labels = build_admin(wish, OWNER, ORIGIN, "").body["Labels"]
        assert isinstance(labels, dict)
        assert labels["ds01.sizes"] == ""


def test_the_backstop_is_runtime_extensions_and_a_day() -> None:
    assert backstop(STUDENT, Policies()) == {
        "org.systemd.property.RuntimeMaxUSec": f"uint64 {(48 + 72 + 24) * 3600 * 1_000_000}",
        "org.systemd.property.TimeoutStopUSec": "uint64 60000000",
    }


def test_every_label_of_the_closed_set_is_written() -> None:
    labels = body_of(wish_of(Labels={"mine": "x"})).body["Labels"]
    assert isinstance(labels, dict)
    assert set(labels) == {"mine", *DS01_LABELS}
    assert (labels["ds01.uid"], labels["ds01.lease"], labels["ds01.protected"]) == ("1001", "", "")


def test_nvidia_variables_are_removed_with_a_word() -> None:
    built = body_of(wish_of(Env=["A=1", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]))
    assert built.body["Env"] == ["A=1", "NVIDIA_VISIBLE_DEVICES=void"]
    assert "--gpus" in built.warnings[0]
    assert body_of(wish_of()).body["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("own", "image", "sent"),
    [
        (None, None, None),
        (None, HealthTimes(30 * SECOND), None),
        (None, HealthTimes(1_000_000), {"Interval": 5 * SECOND}),
        (None, HealthTimes(0, 1), {"StartInterval": 5 * SECOND}),
        ({"Interval": SECOND}, None, {"Interval": 5 * SECOND}),
        ({"Test": ["NONE"]}, HealthTimes(1), {"Test": ["NONE"], "Interval": 5 * SECOND}),
        ({"Interval": 60 * SECOND}, HealthTimes(1), {"Interval": 60 * SECOND}),
        ({"Interval": -1}, None, {"Interval": 5 * SECOND}),
        ({}, None, None),
    ],
)
def test_health_checks_are_not_more_often_than_every_five_seconds(
    own: dict[str, Json] | None, image: HealthTimes | None, sent: dict[str, Json] | None
) -> None:
    built = body_of(wish_of(Healthcheck=own), image=image)
    assert built.body.get("Healthcheck") == sent


@pytest.mark.parametrize(
    ("own", "image", "sent"),
    [
        ({"Interval": 10 * SECOND}, None, {"Interval": 60 * SECOND}),
        ({"Interval": 60 * SECOND}, None, {"Interval": 60 * SECOND}),
        (None, HealthTimes(30 * SECOND), {"Interval": 60 * SECOND}),
    ],
)
def test_the_least_interval_is_the_policys(
    own: dict[str, Json] | None, image: HealthTimes | None, sent: dict[str, Json]
) -> None:
    slow = replace(STUDENT, min_healthcheck_interval_s=60.0)
    built = body_of(wish_of(Healthcheck=own), image=image, limits=slow)
    assert built.body.get("Healthcheck") == sent
    assert vet({**built.body, "Healthcheck": {"Interval": 59 * SECOND}}, OWNER.uid, slow, 64)
    assert any("to 60 s" in warning for warning in built.warnings) is (own != sent)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b"[]", "object"),
        (b'"x"', "object"),
        (b"{", "JSON"),
        (b"{}{}", "JSON"),
        (b'{"a":1.5}', "whole"),
        (b'{"a":1e3}', "whole"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b'{"a":' + b"[" * 17 + b"]" * 17 + b"}", "deeper"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "brackets"),
        (b'{"a":' + b"9" * 5000 + b"}", "JSON"),
        (b'{"a":"' + b"x" * (1 << 20) + b'"}', "bytes"),
    ],
)
def test_doubtful_json_is_refused(text: bytes, word: str) -> None:
    refused = parse_object(text)
    assert isinstance(refused, Refused)
    assert refused.status == 400
    assert word in refused.message


@pytest.mark.parametrize("text", [b"", b"null", b" {} ", b"{}\n"])
def test_an_empty_body_is_an_empty_object(text: bytes) -> None:
    assert parse_object(text) == {}


@pytest.mark.parametrize(
    ("table", "body", "passes"),
    [
        (EXEC_CREATE, {"Cmd": ["sh"], "Tty": True, "User": "root", "Privileged": False, "ConsoleSize": None}, True),
        (EXEC_CREATE, {"Cmd": ["sh"], "Privileged": True}, False),
        (EXEC_CREATE, {"Cmd": ["sh"], "privileged": True}, False),
        (EXEC_CREATE, {"Cmd": ["sh"], "New": 1}, False),
        (EXEC_START, {"Detach": False, "Tty": True, "ConsoleSize": [24, 80]}, True),
        (EXEC_START, {"Detach": 1}, False),
        (EXEC_START, {"Cmd": ["x"]}, False),
    ],
)
def test_exec_bodies(table: dict[str, Any], body: dict[str, Json], passes: bool) -> None:
    assert isinstance(judge(table, body, ""), dict) is passes


@pytest.mark.parametrize(
    ("name", "found"),
    [("", ""), ("train", "train"), ("/train", "train"), ("a.b_c-d", "a.b_c-d"), ("deadbeefcafex", "deadbeefcafex")],
)
def test_container_names_that_pass(name: str, found: str) -> None:
    assert parse_name(name) == found


@pytest.mark.parametrize("name", ["a", "-a", "a/b", "../x", "a b", "a" * 200, "\u00e9a", "deadbeefcafe", "0" * 64])
def test_container_names_that_are_refused(name: str) -> None:
    assert isinstance(parse_name(name), Refused)


GOOD_LABELS = {
    **dict.fromkeys(DS01_LABELS, ""),
    "ds01.uid": "1001",
    "ds01.lease": "l-1",
    "ds01.gpus": "1",
    "ds01.sizes": "policy",
}

TAMPERED: list[tuple[str, Any]] = [
    ("HostConfig.Binds", ["/:/host"]),
    ("HostConfig.Privileged", True),
    ("HostConfig.CgroupParent", "docker.slice"),
    ("HostConfig.CgroupParent", "ds01-student.slice"),
    ("HostConfig.CapDrop", []),
    ("HostConfig.NetworkMode", "host"),
    ("HostConfig.OomScoreAdj", -1),
    ("HostConfig.LogConfig", {"Type": "syslog"}),
    ("HostConfig.Annotations", {}),
    ("HostConfig.Memory", 33 << 30),
    ("HostConfig.Memory", 0),
    ("HostConfig.NanoCpus", 17_000_000_000),
    ("HostConfig.ShmSize", 9 << 30),
    ("HostConfig.PidsLimit", -1),
    ("HostConfig.MemorySwap", -1),
    ("HostConfig.MemorySwap", 31 << 30),
    ("HostConfig.Memory", 31 << 30),
    ("HostConfig.NanoCpus", 1_000_000_000),
    ("HostConfig.PidsLimit", 1),
    ("Labels", {**GOOD_LABELS, "ds01.sizes": ""}),
    ("Labels", {**GOOD_LABELS, "ds01.sizes": "pids=1"}),
    ("Labels", {**GOOD_LABELS, "ds01.gpus": ""}),
    ("Labels", {**GOOD_LABELS, "ds01.gpus": "device=$(x)"}),
    ("Labels", {**GOOD_LABELS, "ds01.gpus": "9" * 401}),
    ("Labels", {**GOOD_LABELS, "ds01.lease": ""}),
    ("Labels", {**GOOD_LABELS, "ds01.wait": "true"}),
    ("Labels", {**GOOD_LABELS, "ds01.wait": "8d"}),
    ("Labels", {**GOOD_LABELS, "ds01.wait": "1h", "ds01.gpus": "", "ds01.lease": ""}),
    ("Labels", {**GOOD_LABELS, "DS01.wait": "1h"}),
    ("HostConfig.DeviceRequests", [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]),
    ("HostConfig.DeviceRequests", [{"Driver": "", "Count": -1}]),
    ("Volumes", {"/x": {}}),
    ("Labels", {}),
    ("Env", ["NVIDIA_VISIBLE_DEVICES=all"]),
    ("Healthcheck", {"Interval": 1}),
]


@pytest.mark.parametrize(("path", "value"), TAMPERED)
def test_the_counter_check_finds_what_was_tampered_with(path: str, value: Json) -> None:
    body = json.loads(dump(body_of(parse_wish(CLI_26)).body))
    *outer, key = path.split(".")
    (body[outer[0]] if outer else body)[key] = value
    assert vet(body, OWNER.uid, STUDENT, 64)


@pytest.mark.parametrize("wait", ["", "1h", "7d"])
def test_the_counter_check_takes_labels_as_we_keep_them(wait: str) -> None:
    body = json.loads(dump(body_of(parse_wish(CLI_26)).body))
    body["Labels"] = {**GOOD_LABELS, "ds01.wait": wait}
    assert vet(body, OWNER.uid, STUDENT, 64) == ""


def test_the_counter_check_wants_the_owner() -> None:
    assert vet(body_of(wish_of()).body, 1002, STUDENT, 64)


scalars = st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
sizes = st.integers(-2, 40 << 30)
host_fields = st.dictionaries(st.sampled_from(sorted(HOST_CONFIG)), values, max_size=3)
plausible_host = st.fixed_dictionaries(
    {},
    optional={
        "Memory": sizes,
        "MemorySwap": sizes,
        "NanoCpus": st.integers(-1, 20 * 10**9),
        "CpuQuota": st.integers(-1, 3_000_000),
        "CpuPeriod": st.integers(0, 1_100_000),
        "CpuShares": st.integers(0, 3000),
        "PidsLimit": st.integers(-1, 6000),
        "ShmSize": sizes,
        "AutoRemove": st.booleans(),
        "Init": st.booleans() | st.none(),
        "RestartPolicy": st.fixed_dictionaries({"Name": st.sampled_from(["", "no", "always", "on-failure", "x"])}),
        "DeviceRequests": st.lists(
            st.fixed_dictionaries({"Count": st.integers(-2, 3)})
            | st.fixed_dictionaries({"DeviceIDs": st.lists(st.text("01:GPU-gx.,\n ", max_size=9), max_size=60)}),
            max_size=2,
        ),
    },
)
config_fields = st.dictionaries(st.sampled_from(sorted(set(CONFIG) - {"HostConfig", "Image"})), values, max_size=3)
plausible_config = st.fixed_dictionaries(
    {},
    optional={
        "Env": st.lists(st.sampled_from(["A=1", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_X", ""]), max_size=4),
        "Labels": st.dictionaries(
            st.text(max_size=10) | st.just("ds01.wait"),
            st.text(max_size=5) | st.sampled_from(["1h", "true", "90d", "0.5s"]),
            max_size=3,
        ),
        "Healthcheck": st.fixed_dictionaries({"Interval": st.integers(-5, 10 * SECOND)}),
        "Cmd": st.lists(st.text(max_size=5), max_size=3),
    },
)
engines = st.builds(EngineFacts, *(st.booleans() for _ in range(5)), st.integers(0, 256))
policies = st.builds(
    lambda swap, cpus, runtime_s, health_s: replace(
        STUDENT,
        memory_swap_bytes=STUDENT.memory_bytes + swap,
        cpus=cpus,
        max_runtime_s=runtime_s,
        min_healthcheck_interval_s=health_s,
    ),
    st.integers(0, 8 << 30),
    st.floats(0.01, 64.0),
    st.none() | st.floats(60.0, 1e15),
    st.floats(1.0, 100.0),
)
images = st.none() | st.builds(HealthTimes, st.integers(-5, 10 * SECOND), st.integers(0, 10 * SECOND))


@settings(max_examples=400, deadline=None)
@given(host_fields | plausible_host, config_fields | plausible_config, engines, images, policies)
def test_whatever_is_built_passes_the_guard_again(
    host: dict[str, Json], config: dict[str, Json], engine: EngineFacts, image: HealthTimes | None, limits: Limits
) -> None:
    try:
        sent = json.dumps({**config, "Image": "busybox", "HostConfig": host}, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    untrusted = parse_object(sent)
    if isinstance(untrusted, Refused):
        return
    wish = parse_wish(untrusted)
    if isinstance(wish, Refused):
        return
    sizes = bound(wish, limits, engine.cpus)
    if isinstance(sizes, Refused):
        return
    lease = "l-0a1b2c" if wish.gpus.gpus else ""
    built = build(wish, sizes, OWNER, ORIGIN, lease, backstop(limits, Policies()), engine, image)
    again = json.loads(dump(built.body))
    assert vet(again, OWNER.uid, limits, engine.cpus) == ""
    assert again == built.body


def test_every_field_that_passes_has_a_shape_and_every_refusal_a_flag() -> None:
    for table in (CONFIG, HOST_CONFIG, EXEC_CREATE):
        for name, field in table.items():
            if field.use is Use.REFUSE:
                assert field.flag, name
                assert field.why, name


def test_a_wish_without_gpus_has_none() -> None:
    wish = wish_of()
    assert isinstance(wish, Wish)
    assert replace(wish).gpus == GpuWish()
