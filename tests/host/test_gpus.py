"""GPUs by every name, and GPUs in trouble: judged by the device nodes that containers really have."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lib.people import (
    ENGINE,
    docker_run,
    eventually,
    gpu_nodes,
    heal,
    held,
    inspect,
    mine,
    nodes_by_unit,
    overview,
    pid_of,
    real_units,
    set_policy,
    wipe,
)
from lib.running import RunningHost

SITE = "/etc/fakegpu/site"
WITHHELD = r"GPU \d is given to nobody|had Xid"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    before = host.read(SITE)
    yield
    if host.read(SITE) != before:
        host.write(SITE, before)
    heal(host)
    wipe(host)
    eventually(lambda: all(unit["state"] == "free" for unit in overview(host)["units"]), "every GPU is well")


def site(host: RunningHost, spec: str) -> None:
    """Other GPUs, as many as before. `_clean` brings the usual ones back."""
    host.write(SITE, spec + "\n")
    heal(host)
    time.sleep(1.1)  # an inventory is believed for a second


def uuid_of(host: RunningHost, unit: str) -> str:
    """The UUID that the driver gives to a unit now."""
    shown = host.root(["fakegpu", "status"]).out.splitlines()
    return next(line.split()[-1] for line in shown if line.split()[0] == unit)


def asked(host: RunningHost, user: str, *options: str) -> tuple[list[str], str]:
    """What a container that is started with these options really has, and what Docker said to its user; it is gone
    again."""
    argv = ["docker", "run", "-d", "--name", "asked", *options, "busybox", "sleep", "infinity"]
    told = host.run(user, argv, check=False)
    assert told.status == 0, f"{options}: {told.err}"
    found = real_units(host, "asked")
    assert mine(host, user) == found, options
    host.run(user, ["docker", "rm", "-f", "asked"])
    return found, told.err


def explained(host: RunningHost, user: str, request: str, *options: str) -> dict[str, Any]:
    """`ds01 explain gpu REQUEST --json`."""
    return dict(json.loads(host.run(user, ["ds01", "explain", "gpu", request, "--json", *options]).out))


def events(host: RunningHost, name: str, since_s: float) -> list[dict[str, str]]:
    """Entries of the journal for one event."""
    return list(host.journal(f"DS01_EVENT={name}", since_s=since_s))


def reason_of(host: RunningHost, unit: str, user: str = "alice") -> str:
    """What `ds01 status` says against a unit, or against its GPU as a whole."""
    rows = {row["name"]: row["reason"] for row in overview(host, user)["units"]}
    return rows[unit] if unit in rows else rows.get(unit.split(":")[0], "")


def stop(host: RunningHost, user: str, container: str) -> None:
    """`docker stop`, without the ten seconds."""
    host.run(user, ["docker", "stop", "-t", "0", container])


def state_of(host: RunningHost, unit: str) -> str:
    """The state of a unit, '' if there is none."""
    return next((str(row["state"]) for row in overview(host)["units"] if row["name"] == unit), "")


# --- every spelling ---


def test_every_spelling_gives_what_it_says(host: RunningHost) -> None:
    mig, whole = uuid_of(host, "1:1"), uuid_of(host, "3")
    spellings: Sequence[tuple[str, tuple[str, ...], list[str]]] = (
        ("alice", ("--gpus", "1"), ["0:0"]),
        ("alice", ("--gpus", "2"), ["0:0", "1:0"]),
        ("alice", ("--gpus", "device=0:1"), ["0:1"]),
        ("alice", ("--gpus", '"device=0:2,1:2"'), ["0:2", "1:2"]),
        ("alice", ("--gpus", "device=2g.10gb"), ["0:0"]),
        ("alice", ("--gpus", "device=2x2g.10gb"), ["0:0", "1:0"]),
        ("alice", ("--gpus", "device=10g"), ["0:0"]),
        ("alice", ("--gpus", f"device={mig}"), ["1:1"]),
        ("alice", ("--gpus", f"device={mig[:16]}"), ["1:1"]),
        ("alice", ("--device", "nvidia.com/gpu=1:2"), ["1:2"]),
        ("alice", ("--gpus", "all"), ["0:0"]),
        ("alice", ("--device", "nvidia.com/gpu=all"), ["0:0"]),
        ("rita", ("--gpus", "device=full"), ["2"]),
        ("rita", ("--gpus", "device=2xfull"), ["2", "3"]),
        ("rita", ("--gpus", "device=3"), ["3"]),
        ("rita", ("--gpus", f"device={whole[:16]}"), ["3"]),
        ("rita", ("--device", "nvidia.com/gpu=2"), ["2"]),
    )
    for user, options, units in spellings:
        found, said = asked(host, user, *options)
        assert found == units, options
        assert ("'all' is 1 GPU unit" in said) == options[-1].endswith("all"), said
        several = len(units) > 1 and ":" in units[0]
        assert ("one CUDA process can use one MIG instance only" in said) == several, said


def test_a_size_is_its_smallest_profile_and_a_cut_gpu_has_no_name_of_its_own(host: RunningHost) -> None:
    site(host, "3x2g.10gb,2x1g.10gb+1x3g.20gb,full,full")
    assert asked(host, "alice", "--gpus", "device=10g")[0] == ["1:1"], "one seventh, not two"
    assert asked(host, "alice", "--gpus", "device=20g")[0] == ["1:0"]
    told = host.run("rita", ["docker", "run", "--rm", "--gpus", "device=0", "busybox", "true"], check=False)
    assert told.status == 125
    assert "GPU 0 is cut into MIG instances; ask for one of 0:0, 0:1, 0:2" in told.err


def test_a_whole_gpu_is_refused_to_students_at_every_door(host: RunningHost) -> None:
    doors = {
        ("docker", "run", "--rm", "--gpus", "device=full", "busybox", "true"): 125,
        ("docker", "run", "--rm", "--gpus", "device=2", "busybox", "true"): 125,
        ("container", "deploy", "x", "--image", "busybox", "--gpus", "full", "-d"): 77,
        ("ds01", "run", "--gpus", "full", "--", "true"): 77,
    }
    for argv, status in doors.items():
        told = host.run("alice", list(argv), check=False)
        assert told.status == status, argv
        assert "allow_full_gpu" in told.err, argv
    assert explained(host, "alice", "full")["denial"]["reason"] == "full-gpu-not-allowed"
    assert held(host) == {}


def test_whole_gpus_that_go_together_are_neighbours(host: RunningHost) -> None:
    site(host, "full,full,full,full nvlink=0-3,1-2")
    assert asked(host, "rita", "--gpus", "2")[0] == ["0", "3"]
    docker_run(host, "ada", "one", "--gpus", "device=0")
    assert asked(host, "rita", "--gpus", "device=2xfull")[0] == ["1", "2"]


def test_a_gpu_in_mig_mode_without_instances_offers_nothing(host: RunningHost) -> None:
    host.gpu("mig", "0", "mig")
    eventually(lambda: "has no instances" in reason_of(host, "0"), "ds01 status says why")
    assert not [unit for unit in overview(host)["units"] if unit["name"].startswith("0:")]
    assert asked(host, "ada", "--gpus", "5")[0] == ["1:0", "1:1", "1:2", "2", "3"]
    for name in ("device=0", "device=0:0"):
        told = host.run("ada", ["docker", "run", "--rm", "--gpus", name, "busybox", "true"], check=False)
        assert told.status == 125
        assert "it is in MIG mode and has no instances" in told.err


# --- limits and words ---


@pytest.mark.parametrize(
    ("total", "most", "holds"),
    [
        ("max_mig_instances", 2, "2 of the group's 2 MIG instances"),
        ("max_gpu_equivalents", 0.6, "4/7 of the group's 3/5"),
    ],
)
def test_the_total_of_a_group_holds_over_its_users(host: RunningHost, total: str, most: float, holds: str) -> None:
    set_policy(host, {f"groups.student.total.{total}": most})
    docker_run(host, "alice", "a1", "--gpus", "1")
    docker_run(host, "bob", "b1", "--gpus", "1")
    stop(host, "alice", "a1")
    told = host.run("carol", ["docker", "run", "--rm", "--gpus", "1", "busybox", "true"], check=False)
    assert told.status == 125
    assert holds in told.err, "stopped containers count"
    docker_run(host, "rita", "r1", "--gpus", "1")
    host.run("alice", ["docker", "rm", "a1"])
    docker_run(host, "carol", "c1", "--gpus", "1")


def test_a_denial_has_the_same_numbers_at_every_door(host: RunningHost) -> None:
    docker_run(host, "alice", "a1", "--gpus", "2")
    denial = explained(host, "alice", "1")["denial"]
    numbers = (denial["reason"], denial["limit"], denial["used"], denial["requested"])
    assert numbers == ("over-mig-instances", "2", "2", "1")
    assert [(one["name"], one["units"]) for one in denial["to_end"]] == [("a1", "0:0,1:0")]
    sentence = "you hold 2 of 2 MIG instances, and 1 more was asked for"
    docker = host.run("alice", ["docker", "run", "--rm", "--gpus", "1", "busybox", "true"], check=False)
    deploy = host.run("alice", ["container", "deploy", "x", "--image", "busybox", "-d"], check=False)
    assert (docker.status, deploy.status) == (125, 77)
    for said in (denial["message"], docker.err, deploy.err, host.run("alice", ["ds01", "explain", "gpu"]).out):
        assert sentence in said
    assert "container retire" in docker.err
    assert "container retire" in deploy.err


def test_explain_names_everything_that_speaks_against_it(host: RunningHost) -> None:
    docker_run(host, "alice", "a1", "--gpus", "2")
    docker_run(host, "ada", "rest", "--gpus", "6")
    set_policy(host, {"groups.student.total.max_mig_instances": 2})
    against = [denial["reason"] for denial in explained(host, "alice", "3")["against"]]
    assert against == [
        "over-units-per-container",
        "over-mig-instances",
        "over-gpu-equivalents",
        "over-group-total",
        "none-free",
    ]
    shown = host.run("alice", ["ds01", "explain", "gpu", "3"]).out
    assert all(reason in shown for reason in against)
    assert "rest" not in shown


def test_a_snapshot_decides_the_same_anywhere_and_later(host: RunningHost) -> None:
    docker_run(host, "alice", "mine", "--gpus", "1")
    docker_run(host, "bob", "bobs-secret", "--gpus", "2")
    host.run("alice", ["ds01", "status", "--snapshot", "/tmp/world.json"])
    requests = ("1", "2", "full", "device=0:1", "9", "3x2g.10gb")
    live = {request: explained(host, "alice", request) for request in requests}
    assert {verdict["grant"] is None for verdict in live.values()} == {True, False}
    text = host.run("alice", ["cat", "/tmp/world.json"]).out
    assert "mine" in text
    assert "bob" not in text
    host.run("bob", ["docker", "rm", "-f", "bobs-secret"])
    docker_run(host, "ada", "rest", "--gpus", "7")
    assert explained(host, "alice", "1") != live["1"], "the world has changed"
    host.root("systemctl stop ds01-gpu-allocator.socket ds01-gpu-allocator.service")
    host.run("alice", ["chmod", "644", "/tmp/world.json"])
    for user in ("alice", "carol"):
        assert {one: explained(host, user, one, "--snapshot", "/tmp/world.json") for one in requests} == live
    host.root("systemctl start ds01-gpu-allocator.socket ds01-gpu-allocator.service")


# --- created, stopped, started ---


def test_a_container_that_is_never_started_gives_its_unit_back(host: RunningHost) -> None:
    set_policy(host, {"policies.created_container_timeout": "2s"})
    host.run("alice", ["docker", "create", "--name", "later", "--gpus", "1", "busybox", "sleep", "infinity"])
    assert mine(host, "alice") == ["0:0"]
    eventually(lambda: held(host) == {}, "the unit is given back")
    docker_run(host, "bob", "b1", "--gpus", "device=0:0")
    host.run("alice", ["docker", "start", "later"])
    assert real_units(host, "later") == mine(host, "alice") == ["1:0"], "least used first"


def test_a_restart_within_the_hold_has_the_same_units(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "3s"})
    docker_run(host, "alice", "train", "--gpus", "device=1:2")
    lease = held(host)["1:2"]["lease"]
    docker_run(host, "bob", "b1", "--gpus", "1")
    stop(host, "alice", "train")
    eventually(lambda: state_of(host, "1:2") == "held", "it is held")
    told = host.run("carol", ["docker", "run", "--rm", "--gpus", "device=1:2", "busybox", "true"], check=False)
    assert told.status == 125
    host.run("alice", ["docker", "start", "train"])
    assert real_units(host, "train") == ["1:2"]
    assert held(host)["1:2"]["lease"] == lease


# --- GPUs in trouble ---


@pytest.mark.expect_warnings(WITHHELD)
@pytest.mark.parametrize(
    ("trouble", "words", "cure"),
    [
        (("xid", "2", "79"), "Xid 79", ("reset", "2")),
        (("ecc", "2", "ecc=2"), "2 uncorrectable ECC errors", ("reset", "2")),
        (("lost", "2"), "fallen off the bus", ("ok", "2")),
    ],
    ids=["xid", "ecc", "lost"],
)
def test_a_gpu_in_trouble_is_withheld_until_it_is_well(
    host: RunningHost, trouble: tuple[str, ...], words: str, cure: tuple[str, ...]
) -> None:
    docker_run(host, "rita", "train", "--gpus", "device=2")
    pid, lease, since = pid_of(host, "train"), held(host)["2"]["lease"], time.time()
    host.gpu(*trouble)
    eventually(lambda: words in reason_of(host, "2"), "ds01 status says why")
    assert words in host.run("alice", ["ds01", "status"]).out
    assert "GPU 2 is withheld" in host.run("rita", ["ds01", "explain", "gpu", "full"]).out
    assert asked(host, "ada", "--gpus", "device=full")[0] == ["3"], "new requests go elsewhere"
    told = host.run("ada", ["docker", "run", "--rm", "--gpus", "device=2xfull", "busybox", "true"], check=False)
    assert told.status == 125
    assert words in told.err
    host.root(["systemctl", "restart", "ds01-nvml.service"])
    time.sleep(1.1)  # an inventory is believed for a second
    assert words in reason_of(host, "2"), "known after a restart as well"
    assert pid_of(host, "train") == pid, "what runs goes on"
    (withheld,) = events(host, "gpu.withheld", since)
    assert words in withheld["MESSAGE"]
    assert not events(host, "gpu.restored", since)
    host.gpu(*cure)
    eventually(lambda: reason_of(host, "2") == "", "it comes back by itself")
    assert len(events(host, "gpu.restored", since)) == 1
    assert (pid_of(host, "train"), held(host)["2"]["lease"], held(host)["2"]["state"]) == (pid, lease, "active")


def test_an_application_error_withholds_nothing(host: RunningHost) -> None:
    since = time.time()
    for number in ("13", "31", "43"):
        host.gpu("xid", "0", number)
    eventually(
        lambda: len([entry for entry in host.journal(since_s=since) if "it goes on" in entry.get("MESSAGE", "")]) == 3,
        "all three are told",
    )
    time.sleep(1.1)
    assert all(unit["state"] == "free" for unit in overview(host)["units"])
    assert not events(host, "gpu.withheld", since)


@pytest.mark.expect_warnings(WITHHELD)
def test_a_driver_that_hangs_stops_grants_and_nothing_else(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    docker_run(host, "alice", "runs", "--gpus", "1")
    docker_run(host, "bob", "plain")
    host.run("bob", ["docker", "create", "--name", "waits", "--gpus", "1", "busybox", "sleep", "infinity"])
    before, pid = sorted(held(host)), pid_of(host, "runs")
    host.gpu("hang", "0")
    time.sleep(1.1)
    doors = {
        "ds01 status": 69,
        "ds01 queue": 69,
        "ds01 explain gpu": 69,
        "docker run --rm --gpus 1 busybox true": 125,
        "docker start waits": 1,
        "container deploy x --image busybox -d": 69,
        "ds01 run -- true": 69,
    }
    with ThreadPoolExecutor(len(doors)) as pool:
        told = list(pool.map(lambda line: host.run("bob", line, check=False, timeout_s=15), doors))
    for (line, status), said in zip(doors.items(), told, strict=True):
        assert (said.status, "the driver may hang" in said.err) == (status, True), f"{line}: {said.err}"
    for line in ("docker ps", "docker logs plain", "docker exec plain true", "docker run --rm busybox true"):
        host.run("bob", line, timeout_s=10)
    assert pid_of(host, "runs") == pid
    host.gpu("ok", "0")
    eventually(lambda: host.run("alice", ["ds01", "status"], check=False).status == 0, "it answers again")
    assert sorted(held(host)) == before, "nothing was granted or released"
    host.run("bob", ["docker", "start", "waits"])
    assert real_units(host, "waits") == mine(host, "bob")


@pytest.mark.parametrize(
    ("breaks", "mends", "remedy"),
    [
        ("fakegpu driver-mismatch on", "fakegpu driver-mismatch off", "library and the kernel module differ; reboot"),
        (f"mv {LIBRARY} /root/", f"mv /root/libnvidia-ml.so.1 {LIBRARY}", "is missing; install the driver"),
    ],
    ids=["mismatch", "library"],
)
def test_a_driver_that_can_not_be_asked_is_told_with_the_remedy(
    host: RunningHost, breaks: str, mends: str, remedy: str
) -> None:
    docker_run(host, "alice", "runs", "--gpus", "1")
    pid = pid_of(host, "runs")
    host.root(breaks)
    try:
        host.root(["systemctl", "restart", "ds01-nvml.service"])
        time.sleep(1.1)
        told = host.run("alice", ["ds01", "status"], check=False)
        assert (told.status, remedy in told.err) == (69, True), told.err
        told = host.run("bob", ["docker", "run", "--rm", "--gpus", "1", "busybox", "true"], check=False)
        assert (told.status, remedy in told.err) == (125, True), told.err
        assert pid_of(host, "runs") == pid
    finally:
        host.root(mends)
    eventually(lambda: held(host)["0:0"]["state"] == "active", "the lease is there once more")


# --- layouts that change ---


@pytest.mark.expect_warnings(r"Lost: lease")
def test_a_layout_that_changes_under_a_container_is_told_to_its_owner(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    docker_run(host, "bob", "sweep", "--gpus", "1")
    pids, bobs = (pid_of(host, "train"), pid_of(host, "sweep")), held(host)["1:0"]
    host.gpu("mig", "0", "1x3g.20gb")
    eventually(lambda: "lost" in {unit["state"] for unit in overview(host)["units"]}, "it is lost")
    told = host.run("alice", ["ds01", "status"]).out
    assert "note: GPU 0:0 of your container 'train' does not exist any more" in told
    assert "start it again" in told
    assert "note:" not in host.run("bob", ["ds01", "status"]).out
    assert (pid_of(host, "train"), pid_of(host, "sweep")) == pids, "nothing is ended"
    assert held(host)["1:0"] == bobs
    stop(host, "alice", "train")
    host.run("alice", ["docker", "start", "train"])
    assert real_units(host, "train") == mine(host, "alice") == ["1:1"]


def test_a_layout_that_goes_and_comes_back_finds_its_leases(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "device=0:0")
    lease, nodes = held(host)["0:0"]["lease"], gpu_nodes(host, "train")
    stop(host, "alice", "train")
    eventually(lambda: state_of(host, "0:0") == "held", "it is held")
    host.gpu("mig", "0", "mig")
    eventually(lambda: state_of(host, "0:0") == "waiting-for-unit", "it waits")
    assert lease not in host.read("/run/cdi/ds01.json")
    assert "does not exist at the moment" in host.run("alice", ["ds01", "status"]).out
    host.root(["fakegpu", "mig-apply"])
    eventually(lambda: state_of(host, "0:0") == "held", "it is back")
    host.run("alice", ["docker", "start", "train"])
    assert real_units(host, "train") == ["0:0"]
    assert held(host)["0:0"]["lease"] == lease
    assert gpu_nodes(host, "train") != nodes, "the vendor's file is new, and was read without a restart"


# --- past the allocator ---


@pytest.mark.expect_warnings("without a lease")
@pytest.mark.parametrize(
    ("options", "units"),
    [
        (["--device", "/dev/nvidia2"], {"2"}),
        (["--device", "nvidia.com/gpu=3"], {"3"}),
        (["--device", "nvidia.com/gpu=0:1"], {"0:1"}),
        (["--device", "nvidia.com/gpu=all"], {"0:0", "0:1", "0:2", "1:0", "1:1", "1:2", "2", "3"}),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_what_root_starts_past_the_shim_is_seen_and_left_alone(
    host: RunningHost, options: list[str], units: set[str]
) -> None:
    since = time.time()
    host.root(["docker", "-H", ENGINE, "run", "-d", "--name", "rogue", *options, "busybox", "sleep", "infinity"])
    assert set(real_units(host, "rogue")) == units

    def withheld() -> set[str]:
        return {unit["name"] for unit in overview(host)["units"] if unit["state"] == "withheld"}

    eventually(lambda: withheld() == units, "nobody is given what it has", 20)
    assert all("was started past the shim" in reason_of(host, unit) for unit in units)
    (event,) = events(host, "gpu.bypassed", since)
    assert event["DS01_CONTAINER_NAME"] == "rogue"
    names = f"device={sorted(units)[0]}"
    told = host.run("ada", ["docker", "run", "--rm", "--gpus", names, "busybox", "true"], check=False)
    assert told.status == 125
    assert "past the shim" in told.err
    assert inspect(host, "rogue")["State"]["Running"]
    host.root(["docker", "-H", ENGINE, "rm", "-f", "rogue"])
    eventually(lambda: not withheld(), "free again", 20)


@pytest.mark.expect_warnings("computes on GPU")
def test_a_process_outside_of_any_lease_is_seen_and_left_alone(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "device=0:0")
    since = time.time()
    intruder = host.start("mallory", ["sh", "-c", "echo $$; exec sleep 300"])
    assert intruder.stdout is not None
    pid = intruder.stdout.readline().decode().strip()
    for unit, number in (("1:0", pid), ("0:0", pid), ("0:0", str(pid_of(host, "train")))):
        host.gpu("process", unit, number, "100")
    eventually(lambda: len(events(host, "gpu.intruded", since)) == 2, "both are told")
    told = {entry["DS01_GPU"]: entry for entry in events(host, "gpu.intruded", since)}
    assert told.keys() == {"1:0", "0:0"}, "alice's own process is none"
    assert all(entry["DS01_USER"] == "mallory" and pid in entry["MESSAGE"] for entry in told.values())
    assert "alice" in told["0:0"]["MESSAGE"]
    assert "a process without a lease computes on it" in reason_of(host, "1:0")
    assert state_of(host, "1:0") == "withheld"
    assert asked(host, "bob", "--gpus", "1")[0] == ["1:1"]
    assert intruder.poll() is None, "never killed"
    host.gpu("process", "clear")
    eventually(lambda: state_of(host, "1:0") == "free", "free again")
    assert len(events(host, "gpu.intruded", since)) == 2
    intruder.end("KILL")
    intruder.communicate(timeout=10)


# --- what a lease means ---


def entry_of(text: str, lease: str) -> Mapping[str, Any]:
    """The devices of a lease in our specification."""
    return next(one for one in json.loads(text)["devices"] if one["name"] == lease)


@pytest.mark.expect_warnings("has other GPU nodes than its lease")
def test_a_container_with_other_nodes_than_its_lease_is_told(host: RunningHost) -> None:
    """Somebody rewrites the file while we are stopped; Docker believes it."""
    host.run("alice", ["docker", "create", "--name", "train", "--gpus", "1", "busybox", "sleep", "infinity"])
    ours = held(host)["0:0"]["lease"]
    host.root(["systemctl", "kill", "-s", "STOP", "ds01-gpu-allocator.service"])
    since = time.time()
    try:
        text = host.read("/run/cdi/ds01.json")
        units = nodes_by_unit(host)
        for old, new in zip(sorted(units["0:0"]), sorted(units["1:2"]), strict=True):
            text = text.replace(f'"{old}"', f'"{new}"')
        assert entry_of(text, ours)
        host.write("/run/cdi/ds01.json", text)
        time.sleep(0.5)  # the engine reads it when it has heard of it
        host.root(["docker", "-H", ENGINE, "start", "train"])
    finally:
        host.root(["systemctl", "kill", "-s", "CONT", "ds01-gpu-allocator.service"])
    assert real_units(host, "train") == ["1:2"]
    eventually(lambda: events(host, "gpu.mismatched", since), "it is told")
    (event,) = events(host, "gpu.mismatched", since)
    assert (event["DS01_LEASE"], event["DS01_USER"]) == (ours, "alice")
    assert all(node in event["MESSAGE"] for node in units["0:0"] ^ units["1:2"])


INOTIFY = """
    import ctypes, os, struct, sys, threading
    libc = ctypes.CDLL(None)
    fd = libc.inotify_init1(0)
    libc.inotify_add_watch(fd, b"/run/cdi", 0x40 | 0x80 | 0x100)
    print("watching", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    while True:
        data = os.read(fd, 65536)
        while data:
            _, mask, cookie, length = struct.unpack_from("iIII", data)
            name = data[16:16 + length].rstrip(bytes(1)).decode()
            kind = {0x40: "from", 0x80: "to", 0x100: "made"}.get(mask, "other")
            print(kind, cookie, name, flush=True)
            data = data[16 + length:]
    """


def test_our_file_is_renamed_inside_its_folder(host: RunningHost) -> None:
    """dockerd's cache hears of nothing else: of a file that is moved in from elsewhere it goes on with the old one."""
    watcher = host.start("root", ["python3", "-c", textwrap.dedent(INOTIFY)])
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"watching\n"
    docker_run(host, "alice", "train", "--gpus", "1")
    out, _ = watcher.communicate(b"", timeout=10)
    seen = [line.split() for line in out.decode().splitlines()]
    moved_in = [cookie for kind, cookie, name in seen if (kind, name) == ("to", "ds01.json")]
    moved_out = {cookie: name for kind, cookie, name in seen if kind == "from"}
    assert moved_in
    for cookie in moved_in:
        assert moved_out[cookie].startswith(".ds01.json."), seen
        assert ["made", "0", moved_out[cookie]] in seen or len(moved_in) > 1
