"""The docker client as everybody knows it: streams, exit statuses, terminals, through the mediated socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lib.people import docker_run, wipe
from lib.running import RunningHost


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def test_docker_is_docker(host: RunningHost) -> None:
    assert host.run("alice", ["docker", "run", "--rm", "busybox", "sh", "-c", "exit 42"], check=False).status == 42
    data = bytes(range(256)) * 4096
    told = host.run("alice", ["docker", "run", "--rm", "-i", "busybox", "cat"], stdin=data)
    assert told.raw_out == data
    docker_run(host, "alice", "box")
    told = host.run("alice", ["docker", "exec", "-i", "box", "cat"], stdin=data)
    assert told.raw_out == data
    told = host.run("alice", ["docker", "exec", "box", "sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (told.status, told.out, told.err) == (3, "out\n", "err\n")
    told = host.run("alice", "docker run --name talk busybox echo hello; docker logs talk; docker wait talk")
    assert told.out == "hello\nhello\n0\n"
    assert "busybox" in host.run("alice", ["docker", "images"]).out
    assert "26." in host.run("alice", ["docker", "version", "--format", "{{.Server.Version}}"]).out
    assert host.run("alice", ["docker", "info", "--format", "{{.CgroupDriver}}"]).out == "systemd\n"


def test_inspecting_nothing_says_that_there_is_nothing(host: RunningHost) -> None:
    told = host.run("alice", ["docker", "inspect", "typo"], check=False)
    assert told.status == 1
    assert "No such object: typo" in told.err


def test_a_terminal_is_a_terminal(host: RunningHost) -> None:
    script = "docker run --rm -it busybox sh -c 'tty; stty size'"
    told = host.run("alice", ["script", "-qec", f"stty rows 33 cols 77; {script}", "/dev/null"], check=False)
    assert "/dev/pts/" in told.out or "/dev/console" in told.out
    assert "33 77" in told.out


def test_deploy_at_a_terminal_opens_a_shell_in_the_container(host: RunningHost) -> None:
    line = "container deploy shelly --image busybox"
    told = host.run("alice", ["script", "-qec", line, "/dev/null"], stdin="hostname; exit 3\n", check=False)
    assert "'shelly' runs on GPU 0:0" in told.out
    assert "\nshelly\r\n" in told.out, "the prompt of a shell names the project"
    assert told.status == 3
