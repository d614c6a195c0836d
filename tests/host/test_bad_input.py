"""What goes wrong: each case has a clear error or a time-out of its own, others don't wait, nothing is left behind."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator

import pytest
from lib.people import ENGINE, SLEEP, belongings, docker_run, eventually, held, leaks, mine, overview, set_policy, wipe
from lib.running import RunningHost

DOCKER = "/run/docker.sock"
ALLOCATOR = "/run/ds01/allocator.sock"


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    """Nothing may be left by any of these: leases, scopes, containers, volumes, mounts, descriptors."""
    before = belongings(host)
    yield
    wipe(host)
    eventually(lambda: not leaks(before, belongings(host)), f"nothing leaked: {leaks(before, belongings(host))}")


def ask_gpu(host: RunningHost, user: str = "alice") -> tuple[int, str]:
    """`docker run --gpus 1` in the background: status and what was said."""
    told = host.run(user, ["docker", "run", "-d", "--gpus", "1", "busybox", *SLEEP], check=False)
    return told.status, told.err


@pytest.mark.expect_warnings("Stopped|Stopping|dependency|activat")
def test_the_allocator_is_down(host: RunningHost) -> None:
    host.root("systemctl stop ds01-gpu-allocator.socket ds01-gpu-allocator.service")
    begun = time.monotonic()
    status, said = ask_gpu(host)
    took_s = time.monotonic() - begun
    docker_run(host, "bob", "no-gpu")
    told = host.run("alice", ["ds01", "status"], check=False)
    host.root("systemctl start ds01-gpu-allocator.socket ds01-gpu-allocator.service")
    assert status == 125
    assert "allocator" in said
    assert took_s < 10
    assert told.status == 69
    assert "try again" in told.err
    eventually(lambda: ask_gpu(host)[0] == 0, "GPUs are granted again")


@pytest.mark.expect_warnings("Stopped|Stopping|dependency|activat|docker")
def test_the_engine_is_down(host: RunningHost) -> None:
    host.root("systemctl stop docker.socket docker.service")
    begun = time.monotonic()
    told = host.run("alice", ["docker", "ps"], check=False)
    took_s = time.monotonic() - begun
    cli = host.run("alice", ["container", "list"], check=False)
    host.root("systemctl start docker.socket docker.service")
    assert told.status != 0
    assert "engine" in told.err.lower()
    assert took_s < 4
    assert cli.status == 69
    eventually(lambda: host.run("alice", ["docker", "ps"], check=False).status == 0, "docker answers again")


def test_limits_sync_is_down(host: RunningHost) -> None:
    host.root("systemctl stop ds01-limits-sync.socket ds01-limits-sync.service")
    told = host.run("alice", ["docker", "run", "-d", "busybox", *SLEEP], check=False)
    host.root("systemctl start ds01-limits-sync.socket ds01-limits-sync.service")
    assert told.status == 125, "without a slice nothing is started"
    assert "slice" in told.err or "limits" in told.err


@pytest.mark.expect_warnings("is given to nobody")
def test_a_gpu_is_lost(host: RunningHost) -> None:
    try:
        for gpu in ("0", "1"):
            host.gpu("lost", gpu)
        eventually(
            lambda: {u["name"] for u in overview(host)["units"] if u["state"] == "withheld"} == {"0", "1"}, "seen"
        )
        status, said = ask_gpu(host)
        assert status == 125
        assert said
        docker_run(host, "rita", "whole", "--gpus", "1")
        assert mine(host, "rita") == ["2"]
    finally:
        for gpu in ("0", "1"):
            host.gpu("ok", gpu)
    eventually(lambda: sum(u["state"] == "free" for u in overview(host)["units"]) == 7, "they come back by themselves")


def test_nvml_hangs(host: RunningHost) -> None:
    docker_run(host, "bob", "before", "--gpus", "1")
    try:
        host.gpu("hang", "3")
        time.sleep(1.2)  # older than what the allocator decides on
        begun = time.monotonic()
        status, said = ask_gpu(host)
        took_s = time.monotonic() - begun
        assert status == 125
        assert "NVML" in said or "GPU" in said
        assert took_s < 10
        docker_run(host, "carol", "no-gpu")
    finally:
        host.gpu("ok", "3")
    eventually(lambda: ask_gpu(host)[0] == 0, "GPUs are granted again")
    assert len(mine(host, "bob")) == 1


def test_an_image_that_does_not_exist(host: RunningHost) -> None:
    told = host.run("alice", ["docker", "run", "--rm", "--gpus", "1", "nothing:latest", "true"], check=False)
    assert told.status == 125
    told = host.run("alice", ["container", "deploy", "x", "--image", "nothing", "-d"], check=False)
    assert told.status == 66
    assert "nothing" in told.err
    assert held(host) == {}


def test_a_name_that_is_taken(host: RunningHost) -> None:
    identity = docker_run(host, "alice", "popular")
    told = host.run("bob", ["docker", "run", "-d", "--gpus", "1", "--name", "popular", "busybox", *SLEEP], check=False)
    assert told.status == 125
    assert "popular" in told.err
    assert "taken" in told.err or "in use" in told.err
    assert identity[:12] not in told.err
    assert "alice" not in told.err
    assert held(host) == {}
    host.run("alice", ["container", "deploy", "one", "--image", "busybox", "-d"])
    told = host.run("alice", ["container", "deploy", "one", "--image", "busybox", "-d"], check=False)
    assert told.status == 73
    assert len(mine(host, "alice")) == 1


@pytest.mark.parametrize("name", ["", "-x", "a/b", "ä", "a" * 200, "a b", "$(reboot)"])
def test_names_that_are_no_names(host: RunningHost, name: str) -> None:
    told = host.run("alice", ["container", "deploy", "-d", "--", name], check=False)
    assert told.status == 2
    assert "name" in told.err


def test_a_command_that_can_not_start_leaves_no_lease(host: RunningHost) -> None:
    set_policy(host, {"groups.student.gpu_hold_after_stop": "1s"})
    told = host.run("alice", ["docker", "run", "--rm", "--gpus", "1", "busybox", "/no/such/thing"], check=False)
    assert told.status == 127
    eventually(lambda: held(host) == {}, "the unit is free")


CLIENT = """
    import socket, sys, time
    s = socket.socket(socket.AF_UNIX); s.settimeout(30)
    s.connect(sys.argv[1])
    begun = time.monotonic()
    try:
        data = sys.stdin.buffer.read()
        if data: s.sendall(data)
        got = s.recv(100)
    except OSError as exc:
        got = type(exc).__name__.encode()
    print(round(time.monotonic() - begun, 1), got[:60])
    """


def client(socket_path: str) -> list[str]:
    """A client that sends its standard input and waits for an answer or the end."""
    return ["python3", "-c", textwrap.dedent(CLIENT), socket_path]


@pytest.mark.parametrize(
    "data",
    [b"garbage\0", b'{"method":1}\0', b'{"method":"io.ds01.Allocator.List","parameters":7}\0', b"[]\0", b"\0\0\0"],
    ids=["no JSON", "no method", "no parameters", "no object", "nothing"],
)
def test_malformed_varlink(host: RunningHost, data: bytes) -> None:
    told = host.run("mallory", client(ALLOCATOR), stdin=data)
    assert float(told.out.split()[0]) < 5
    assert "units" not in told.out
    assert overview(host, "alice")["units"]


def test_ten_mebibytes_without_an_end(host: RunningHost) -> None:
    process = host.start("mallory", client(ALLOCATOR))
    assert process.stdin is not None
    begun = time.monotonic()
    try:
        process.stdin.write(b"a" * (10 << 20))
        process.stdin.close()
    except BrokenPipeError:
        process.stdin = None
    assert overview(host, "alice")["units"]
    assert time.monotonic() - begun < 5, "others do not wait"
    process.wait(30)


@pytest.mark.parametrize("socket_path", [ALLOCATOR, DOCKER])
@pytest.mark.parametrize("data", [b"", b'{"method":"io.ds01', b"GET /_ping HTTP/1.1\r\nHost:"])
def test_a_client_that_says_nothing_or_half_is_ended_after_a_time(
    host: RunningHost, socket_path: str, data: bytes
) -> None:
    told = host.run("mallory", client(socket_path), stdin=data)
    assert float(told.out.split()[0]) < 20
    assert host.run("alice", ["docker", "ps"]).status == 0


def test_clients_that_die_half_way(host: RunningHost) -> None:
    script = """
        import socket
        for i in range(200):
            s = socket.socket(socket.AF_UNIX); s.connect("/run/docker.sock")
            s.sendall(b"POST /v1.45/containers/create HTTP/1.1\\r\\nHost: d\\r\\nContent-Type: application/json\\r\\n"
                      b"Content-Length: 5000\\r\\n\\r\\n{")
            s.close()
        """
    host.run("mallory", ["python3", "-c", textwrap.dedent(script)])
    assert host.run("alice", ["docker", "ps"]).status == 0


def test_a_client_that_dies_in_a_create_leaves_no_lease(host: RunningHost) -> None:
    """The request is whole, the client is gone before the answer: a container or nothing, never a lease alone."""
    script = """
        import json, socket
        for i in range(10):
            body = json.dumps({"Image": "busybox", "HostConfig": {"DeviceRequests": [
                {"Count": 1, "Capabilities": [["gpu"]]}]}}).encode()
            s = socket.socket(socket.AF_UNIX); s.connect("/run/docker.sock")
            s.sendall(b"POST /v1.45/containers/create?name=ghost%d HTTP/1.1\\r\\nHost: d\\r\\n"
                      b"Content-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n" % (i, len(body)) + body)
            s.close()
        """
    host.run("mallory", ["python3", "-c", textwrap.dedent(script)])

    def consistent() -> bool:
        made = host.root(f"docker -H {ENGINE} ps -aq --filter name=ghost | wc -l").out.strip()
        return int(made) == len(held(host))

    eventually(consistent, "as many leases as containers", 75)


def test_many_connections_of_one_user_do_not_keep_others_out(host: RunningHost) -> None:
    script = """
        import socket, sys
        kept = []
        for i in range(500):
            s = socket.socket(socket.AF_UNIX); s.settimeout(2)
            try:
                s.connect(sys.argv[1]); kept.append(s)
            except OSError:
                break
        print(len(kept), flush=True)
        sys.stdin.read()
        """
    for path in (DOCKER, ALLOCATOR):
        process = host.start("mallory", ["python3", "-c", textwrap.dedent(script), path])
        assert process.stdout is not None
        process.stdout.readline()
        assert host.run("alice", ["docker", "ps"], timeout_s=15).status == 0
        assert overview(host, "alice")["units"]
        process.communicate(b"", timeout=30)
