"""The main job, on the real host: what people type, what they get, what the kernel, systemd and Docker say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lib.people import (
    docker_run,
    eventually,
    gpu_nodes,
    held,
    inspect,
    ledger,
    mine,
    overview,
    pid_of,
    set_policy,
    wipe,
)
from lib.running import RunningHost

COMMON_NODES = {"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"}


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def test_alice_deploys_and_gets_exactly_one_instance(host: RunningHost) -> None:
    told = host.run("alice", ["container", "deploy", "train", "--image", "busybox", "-d"])
    assert "0:0 (2g.10gb)" in told.out
    nodes = gpu_nodes(host, "train._.1001") - COMMON_NODES
    assert {node for node in nodes if "caps" not in node} == {"/dev/nvidia0"}
    assert len([node for node in nodes if "caps" in node]) == 2, "one GPU instance and its compute instance"
    assert mine(host, "alice") == ["0:0"]


def test_the_container_is_in_her_slice_with_its_limits(host: RunningHost) -> None:
    host.run("alice", ["container", "deploy", "train", "--image", "busybox", "-d"])
    cgroup = host.root(["cat", f"/proc/{pid_of(host, 'train._.1001')}/cgroup"]).out
    assert "/ds01.slice/ds01-student.slice/ds01-student-alice.slice/docker-" in cgroup
    shown = host.root(["systemctl", "show", "ds01-student-alice.slice", "-p", "MemoryMax,TasksMax,CPUQuotaPerSecUSec"])
    assert "infinity" not in shown.out
    has_bytes = int(host.root("awk '/MemTotal/{print $2}' /proc/meminfo").out) * 1024
    scope = scope_of(host, "train._.1001", "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec")
    assert abs(int(scope["MemoryMax"]) - has_bytes // 8) < 4096
    assert scope["TasksMax"] == "4096"
    assert f"CPUQuotaPerSecUSec={scope['CPUQuotaPerSecUSec']}\n" in shown.out, "half of the machine, as for the slice"


def scope_of(host: RunningHost, container: str, *properties: str) -> dict[str, str]:
    """Properties of a container's scope: limits hold there also where the engine can't set them itself."""
    name = f"docker-{inspect(host, container)['Id']}.scope"
    shown = host.root(["systemctl", "show", name, *(f"--property={item}" for item in properties)])
    return dict(line.split("=", 1) for line in shown.out.splitlines())


def test_the_scope_carries_systemds_last_resort(host: RunningHost) -> None:
    identity = docker_run(host, "alice", "backstop")
    shown = host.root(["systemctl", "show", f"docker-{identity}.scope", "-p", "RuntimeMaxUSec,TimeoutStopUSec"]).out
    assert "infinity" not in shown
    assert "TimeoutStopUSec=1min" in shown


def test_bob_uses_plain_docker_and_gets_another_instance(host: RunningHost) -> None:
    host.run("alice", ["container", "deploy", "train", "--image", "busybox", "-d"])
    docker_run(host, "bob", "sweep", "--gpus", "1")
    assert mine(host, "bob") == ["1:0"]
    assert not (gpu_nodes(host, "sweep") & gpu_nodes(host, "train._.1001")) - COMMON_NODES


@pytest.mark.parametrize("image", ["busybox", "cuda", "debian"])
def test_without_a_request_there_is_no_gpu(host: RunningHost, image: str) -> None:
    docker_run(host, "alice", "bare", image=image)
    assert gpu_nodes(host, "bare") == set()
    told = host.run("alice", ["docker", "exec", "bare", "sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"])
    assert told.out.strip() == "void"
    assert held(host) == {}


def test_no_limit_means_the_limit(host: RunningHost) -> None:
    docker_run(host, "alice", "a1", "--pids-limit", "-1")
    assert scope_of(host, "a1", "TasksMax") == {"TasksMax": "4096"}


def test_several_instances_are_distinct(host: RunningHost) -> None:
    docker_run(host, "alice", "two", "--gpus", "2")
    assert len(mine(host, "alice")) == 2
    assert len({node for node in gpu_nodes(host, "two") if "caps" in node}) == 4


def test_all_means_one_and_says_so(host: RunningHost) -> None:
    told = host.run("alice", ["docker", "run", "-d", "--name", "greedy", "--gpus", "all", "busybox", "sleep", "9"])
    assert "one" in told.err.lower() or "1" in told.err
    assert len(mine(host, "alice")) == 1


def test_each_sees_only_their_own(host: RunningHost) -> None:
    docker_run(host, "alice", "a1")
    docker_run(host, "bob", "b1")
    names = ["docker", "ps", "-a", "--format", "{{.Names}}"]
    assert host.run("alice", names).out.split() == ["a1"]
    assert host.run("bob", names).out.split() == ["b1"]
    assert set(host.run("ada", names).out.split()) == {"a1", "b1"}


@pytest.mark.parametrize(
    "command",
    [
        ["exec", "a1", "id"],
        ["logs", "a1"],
        ["inspect", "a1"],
        ["stop", "-t", "0", "a1"],
        ["start", "a1"],
        ["kill", "a1"],
        ["rm", "a1"],
        ["attach", "a1"],
        ["wait", "a1"],
    ],
)
def test_what_is_not_ones_own_does_not_exist(host: RunningHost, command: list[str]) -> None:
    identity = docker_run(host, "alice", "a1")
    for reference in ("a1", identity, identity[:12], identity.upper()):
        words = ["docker", *(reference if word == "a1" else word for word in command)]
        told = host.run("bob", words, check=False)
        assert told.status != 0, words
        assert "alice" not in told.out + told.err
        assert "1001" not in told.out + told.err
    host.run("bob", ["docker", "rm", "-f", identity], check=False)  # docker calls it a success if there is none
    assert inspect(host, identity)["State"]["Running"]


def test_over_quota_says_both_numbers_at_every_door(host: RunningHost) -> None:
    told = host.run("mallory", ["container", "deploy", "big", "--image", "busybox", "--gpus", "3", "-d"], check=False)
    assert told.status == 77
    assert "3" in told.err
    assert "2" in told.err
    told = host.run("mallory", ["docker", "run", "--rm", "--gpus", "3", "busybox", "true"], check=False)
    assert told.status == 125
    assert "Error response from daemon" in told.err
    assert "limit is 2" in told.err
    rows = ledger(host, "SELECT reason, uid FROM record WHERE event = 'gpu.denied' ORDER BY id DESC LIMIT 2")
    assert rows == [["over-units-per-container", 1004]] * 2
    entry = host.journal("DS01_EVENT=gpu.denied", "DS01_USER=mallory")[-1]
    assert (entry["DS01_LIMIT"], entry["DS01_REQUESTED"]) == ("2", "3")
    assert entry["_SYSTEMD_UNIT"] == "ds01-gpu-allocator.service"


def test_a_quota_counts_what_is_held_elsewhere(host: RunningHost) -> None:
    docker_run(host, "mallory", "m1", "--gpus", "2")
    told = host.run("mallory", ["docker", "run", "-d", "--gpus", "1", "busybox", "sleep", "9"], check=False)
    assert told.status == 125
    assert "2 of 2" in told.err


def test_too_many_containers_are_refused(host: RunningHost) -> None:
    set_policy(host, {"groups.student.max_containers_per_user": 2})
    docker_run(host, "alice", "a1")
    docker_run(host, "alice", "a2")
    told = host.run("alice", ["docker", "run", "-d", "busybox", "sleep", "9"], check=False)
    assert told.status == 125
    assert "2" in told.err


@pytest.mark.parametrize(
    "flags",
    [
        ["-v", "/home/alice:/x"],
        ["-v", "data:/x"],
        ["-p", "8080:80"],
        ["--network", "host"],
        ["--privileged"],
        ["--pid", "host"],
        ["--ipc", "host"],
        ["--userns", "host"],
        ["--cap-add", "SYS_ADMIN"],
        ["--device", "/dev/kmsg"],
        ["--device", "/dev/nvidia0"],
        ["--device", "ds01.io/gpu=l1"],
        ["--security-opt", "seccomp=unconfined"],
        ["--cgroup-parent", "ds01-student-bob.slice"],
        ["--sysctl", "net.ipv4.ip_forward=1"],
        ["--ulimit", "nofile=9"],
        ["--volumes-from", "a1"],
        ["--tmpfs", "/x"],
        ["--log-driver", "journald"],
        ["--annotation", "org.systemd.property.TasksMax='uint64 1'"],
        ["--label", "ds01.user=bob"],
        ["--oom-score-adj", "-500"],
        ["--runtime", "io.containerd.runc.v2"],
        ["--gpus", "device=0"],
        ["--memory", "4000g"],
        ["--pids-limit", "1000000"],
    ],
    ids=lambda flags: " ".join(flags)[:40],
)
def test_what_is_not_offered_is_refused_by_name_and_leaves_nothing(host: RunningHost, flags: list[str]) -> None:
    told = host.run("alice", ["docker", "run", "-d", *flags, "busybox", "sleep", "9"], check=False)
    assert told.status == 125, told.err
    assert "Error response from daemon" in told.err
    assert host.run("alice", ["docker", "ps", "-aq"]).out == ""
    assert held(host) == {}


@pytest.mark.parametrize(
    "words",
    [
        ["volume", "ls"],
        ["network", "ls"],
        ["pull", "busybox"],
        ["tag", "busybox", "mine"],
        ["rmi", "busybox"],
        ["commit", "a1"],
        ["cp", "a1:/etc/passwd", "-"],
        ["rename", "a1", "a2"],
        ["pause", "a1"],
        ["update", "--memory", "9g", "a1"],
        ["system", "df"],
        ["swarm", "init"],
        ["export", "a1"],
        ["top", "a1"],
    ],
    ids=lambda words: words[0],
)
def test_routes_that_are_not_offered_are_refused_by_name(host: RunningHost, words: list[str]) -> None:
    docker_run(host, "alice", "a1")
    told = host.run("alice", ["docker", *words], check=False)
    assert told.status != 0
    assert "Error response from daemon" in told.err + told.out
    entry = host.journal("DS01_EVENT=access.refused", "DS01_USER=alice")[-1]
    assert entry["_SYSTEMD_UNIT"] == "ds01-docker-shim.service"


def test_refusals_are_rows_of_the_ledger(host: RunningHost) -> None:
    before = ledger(host, "SELECT count(*) FROM record WHERE event = 'access.refused' AND uid = 1003")[0][0]
    host.run("carol", ["docker", "volume", "ls"], check=False)
    query = "SELECT count(*) FROM record WHERE event = 'access.refused' AND uid = 1003"
    eventually(lambda: ledger(host, query)[0][0] > before, "the refusal is in the ledger")


def test_five_ask_at_once_for_the_last_unit(host: RunningHost) -> None:
    docker_run(host, "rita", "filler", "--gpus", "3")
    set_policy(host, {"groups.researcher.allow_full_gpu": False})
    docker_run(host, "ada", "ada1", "--gpus", "2")
    assert sum(unit["state"] == "free" and unit["profile"] != "full" for unit in overview(host)["units"]) == 1
    users = ("alice", "bob", "carol", "mallory", "rita")

    def ask(user: str) -> int:
        argv = ["docker", "run", "-d", "--name", f"race-{user}", "--gpus", "1", "busybox", "sleep", "99"]
        return host.run(user, argv, check=False).status

    with ThreadPoolExecutor(5) as pool:
        statuses = list(pool.map(ask, users))
    assert sorted(statuses) == [0, 125, 125, 125, 125]
    containers = {unit["container"] for unit in held(host).values()}
    assert len([name for name in containers if name.startswith("race-")]) == 1
    assert sum(unit["state"] == "free" and unit["profile"] != "full" for unit in overview(host)["units"]) == 0


def test_a_whole_gpu_is_for_those_who_may(host: RunningHost) -> None:
    docker_run(host, "rita", "r3", "--gpus", "3")
    docker_run(host, "ada", "a3", "--gpus", "3")
    docker_run(host, "rita", "whole", "--gpus", "1")
    assert "2" in mine(host, "rita")
    assert {node for node in gpu_nodes(host, "whole") if "caps" not in node} - COMMON_NODES == {"/dev/nvidia2"}
    told = host.run("alice", ["container", "deploy", "x", "--image", "busybox", "-d"], check=False)
    assert told.status == 75


def test_stopping_holds_and_a_start_within_the_hold_finds_the_same_unit(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    (unit,) = mine(host, "alice")
    host.run("alice", ["docker", "stop", "-t", "0", "train"])
    eventually(lambda: held(host)[unit]["state"] == "held", "the unit is held")
    assert held(host, "bob")[unit]["until"] is not None
    host.run("alice", ["docker", "start", "train"])
    eventually(lambda: held(host)[unit]["state"] == "active", "the unit is in use again")


def test_after_the_hold_another_unit_will_do(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    docker_run(host, "alice", "train", "--gpus", "1")
    (unit,) = mine(host, "alice")
    before = gpu_nodes(host, "train")
    host.run("alice", ["docker", "stop", "-t", "0", "train"])
    eventually(lambda: unit not in held(host), "the hold ends")
    docker_run(host, "bob", "thief", "--gpus", "1")
    assert mine(host, "bob") == [unit]
    host.run("alice", ["docker", "start", "train"])
    (now,) = mine(host, "alice")
    assert now != unit
    assert gpu_nodes(host, "train") != before
    assert not (gpu_nodes(host, "train") & gpu_nodes(host, "thief")) - COMMON_NODES


def test_a_start_with_nothing_free_is_refused_and_does_not_start(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    docker_run(host, "alice", "train", "--gpus", "1")
    (unit,) = mine(host, "alice")
    host.run("alice", ["docker", "stop", "-t", "0", "train"])
    eventually(lambda: unit not in held(host), "the hold ends")
    docker_run(host, "ada", "everything", "--gpus", "8")
    told = host.run("alice", ["docker", "start", "train"], check=False)
    assert told.status != 0
    assert "free" in told.err
    assert not inspect(host, "train")["State"]["Running"]


def test_retire_frees_at_once(host: RunningHost) -> None:
    host.run("alice", ["container", "deploy", "train", "--image", "busybox", "-d"])
    told = host.run("alice", ["container", "retire", "train"])
    assert "0:0" in told.out
    assert held(host) == {}
    assert host.run("alice", ["docker", "ps", "-aq"]).out == ""
    released = ledger(host, "SELECT uid FROM record WHERE event = 'gpu.released' ORDER BY id DESC LIMIT 1")
    assert released == [[1001]]


def test_a_container_that_removes_itself_frees_its_unit(host: RunningHost) -> None:
    host.run("alice", ["docker", "run", "--rm", "--gpus", "1", "busybox", "true"])
    eventually(lambda: held(host) == {}, "the unit is free")


def test_the_list_shows_what_is_mine_with_its_gpu(host: RunningHost) -> None:
    host.run("alice", ["container", "deploy", "train", "--image", "busybox", "-d"])
    docker_run(host, "bob", "other", "--gpus", "1")
    rows = json.loads(host.run("alice", ["container", "list", "--json"]).out)
    assert [(row["name"], row["state"], row["gpus"]) for row in rows] == [("train", "running", ["0:0 (2g.10gb)"])]
    assert "train" in host.run("alice", ["container", "list"]).out
    assert "no containers" in host.run("carol", ["container", "list"]).out


def test_status_names_nobody_but_oneself_except_to_administrators(host: RunningHost) -> None:
    docker_run(host, "alice", "secret-project", "--gpus", "1")
    (unit,) = mine(host, "alice")
    seen_by_bob = held(host, "bob")[unit]
    assert (seen_by_bob["group"], seen_by_bob["user"], seen_by_bob["container"]) == ("student", "", "")
    assert "secret-project" not in host.run("bob", ["ds01", "status"]).out
    assert held(host, "ada")[unit]["user"] == "alice"
    assert "you" in host.run("alice", ["ds01", "status"]).out


def test_varlinkctl_is_the_debugger(host: RunningHost) -> None:
    socket = "/run/ds01/allocator.sock"
    assert "io.ds01.Allocator" in host.run("alice", ["varlinkctl", "info", socket]).out
    described = host.run("alice", ["varlinkctl", "introspect", socket, "io.ds01.Allocator"]).out
    for method in ("Lease", "Renew", "Release", "List", "Explain"):
        assert f"method {method}" in described
    call = ["varlinkctl", "call", socket, "io.ds01.Allocator.Explain", '{"gpus": "3"}']
    assert "over-units-per-container" in host.run("alice", call).out
    forbidden = ["varlinkctl", "call", socket, "io.ds01.Allocator.Release", '{"lease": "l", "reason": "mine"}']
    for user in ("mallory", "root", "ada"):
        assert host.run(user, forbidden, check=False).status != 0


def test_the_journal_teaches(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    told = host.root(["journalctl", "-x", "-n", "40", "--no-pager", "--namespace=ds01", "DS01_EVENT=gpu.granted"])
    assert "Nobody else gets these units" in told.out
    assert "@DS01" not in told.out
    rows = ledger(host, "SELECT event FROM record WHERE uid = 1001 ORDER BY id DESC LIMIT 3")
    assert ["gpu.granted"] in rows


def test_one_request_id_runs_from_the_client_to_the_engine(host: RunningHost) -> None:
    docker_run(host, "alice", "traced", "--gpus", "1")
    request = inspect(host, "traced")["Config"]["Labels"]["ds01.request"]
    assert request
    assert host.journal("DS01_EVENT=gpu.granted", f"DS01_REQUEST={request}")


def test_explain_says_what_one_would_get(host: RunningHost) -> None:
    told = host.run("alice", ["ds01", "explain", "gpu"])
    assert "would be granted now: 0:0 (2g.10gb)" in told.out
    told = host.run("alice", ["ds01", "explain", "gpu", "3"])
    assert "would be refused now" in told.out
