"""Requests that must not pass, byte by byte on the Docker socket, judged on the host and not by the answer alone."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import pytest
from lib.people import ENGINE, docker_run, held, wipe
from lib.running import RunningHost


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def python(text: str) -> list[str]:
    """A program for the host's Python."""
    return ["python3", "-c", textwrap.dedent(text)]


def engine(host: RunningHost, *words: str) -> str:
    """Docker as root, straight at the engine."""
    return host.root(["docker", "-H", ENGINE, *words]).out.strip()


SEND = """
    import socket, sys
    s = socket.socket(socket.AF_UNIX); s.settimeout(15)
    s.connect("/run/docker.sock")
    s.sendall(sys.stdin.buffer.read())
    got = b""
    try:
        while chunk := s.recv(65536):
            got += chunk
    except OSError:
        pass
    sys.stdout.buffer.write(got)
    """


def raw(host: RunningHost, request: bytes, user: str = "mallory") -> bytes:
    """What the Docker socket answers to these very bytes."""
    return host.run(user, python(SEND), stdin=request).raw_out


def create(body: bytes) -> bytes:
    head = b"POST /v1.45/containers/create?name=smuggled HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    return head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "body",
    [
        b'{"Image":"busybox","HostConfig":{"Privileged":true}}',
        b'{"Image":"busybox","hostconfig":{"privileged":true}}',
        b'{"Image":"busybox","HostConfig":{"Privileged":false,"privileged":true}}',
        b'{"Image":"busybox","HostConfig":{},"HostConfig":{"Privileged":true}}',
        b'{"Image":"busybox","HostConfig":{},"hostConfig":{"Privileged":true}}',
        b'{"Image":"busybox","HostConfig":{"Binds":["/:/x"]}}',
        b'{"Image":"busybox","HostConfig":{"NoSuchFieldYet":{"a":1}}}',
        b'{"Image":"busybox","HostConfig":{"PidMode":"host"}}',
        b'{"Image":"busybox","HostConfig":{"CgroupParent":"system.slice"}}',
        b'{"Image":"busybox","HostConfig":{"Annotations":{"cdi.k8s.io/x":"nvidia.com/gpu=all"}}}',
        b'{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["nvidia.com/gpu=all","x"]}]}}',
        b'{"Image":"busybox","HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["ds01.io/gpu=l1"]}]}}',
        b'{"Image":"busybox","Labels":{"ds01.uid":"1001"}}',
        b'{"Image":"busybox","Volumes":{"/v":{}}}',
        b'{"Image":"busybox","HostConfig":{"Memory":1e30}}',
        b'{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"host":{}}}}',
        b"[" * 100_000,
        b'{"Image":"busy\\ud800box"}',
        b'{"Image":',
        b'"x"',
        b"",
    ],
    ids=lambda body: repr(body[:60]),
)
def test_bodies_that_must_not_pass(host: RunningHost, body: bytes) -> None:
    answer = raw(host, create(body))
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert engine(host, "ps", "-aq") == ""


@pytest.mark.parametrize(
    "path",
    [
        b"//containers/json",
        b"/v1.45//containers/json",
        b"/v1.45/containers/../containers/json",
        b"/v1.45/containers/%2e%2e/json",
        b"/v1.45/containers/a1%2fjson",
        b"/v1.45/containers/a1/json%00",
        b"/v9.99/swarm",
        b"/v1.45/plugins",
        b"/v1.45/secrets",
        b"/grpc",
        b"/session",
        b"/v1.45/build?version=2",
        b"/v1.45/containers/a1/checkpoints",
        b"/v1.45/containers/a1/archive?path=/",
        b"/v1.45/nothing",
        b"http://docker/v1.45/events",
        b"/v1.45/" + b"a" * 100_000,
    ],
    ids=lambda path: repr(path[:40]),
)
def test_paths_that_must_not_pass(host: RunningHost, path: bytes) -> None:
    docker_run(host, "alice", "a1")
    for method in (b"GET", b"POST"):
        answer = raw(
            host, method + b" " + path + b" HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        assert b" 200 " not in answer.split(b"\r\n")[0]
        assert b" 101 " not in answer.split(b"\r\n")[0]
        assert b"a1" not in answer or b"message" in answer


SECRET = b"GET /v1.45/containers/a1/json HTTP/1.1\r\nHost: d\r\n\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SECRET) + SECRET,
        b"POST /_ping HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECRET,
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\n\r\n" + SECRET,
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n" + SECRET,
        b"GET /_ping HTTP/1.1\nHost: d\nContent-Length: 0\n\n" + SECRET,
        b"GET /_ping HTTP/1.1\r\nHost: d\r\nX: a\r\n b\r\n\r\n" + SECRET,
        b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n" + SECRET,
    ],
    ids=["two lengths", "chunked and length", "odd coding", "upgrade", "bare newlines", "folded", "pipelined"],
)
def test_a_second_request_is_judged_like_the_first(host: RunningHost, request_bytes: bytes) -> None:
    identity = docker_run(host, "alice", "a1").encode()
    answer = raw(host, request_bytes)
    assert identity not in answer
    assert b'"Config"' not in answer


def test_exec_gives_no_more_than_the_container_has(host: RunningHost) -> None:
    docker_run(host, "mallory", "m1")
    told = host.run("mallory", ["docker", "exec", "--privileged", "m1", "id"], check=False)
    assert told.status != 0
    assert "uid=" not in told.out
    docker_run(host, "alice", "a1")
    body = b'{"Cmd":["id"],"AttachStdout":true}'
    request = (
        b"POST /v1.45/containers/a1/exec HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    answer = raw(host, request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert b" 404 " in answer.split(b"\r\n")[0]


GPU_BODY = (
    b'{"Image":"busybox","Cmd":["sleep","99"],"HostConfig":{"DeviceRequests":[{"Count":1,"Capabilities":[["gpu"]]}]}}'
)


def test_a_request_id_that_was_used_gives_no_second_container_on_the_lease(host: RunningHost) -> None:
    def ask(name: bytes) -> bytes:
        return raw(
            host,
            create(GPU_BODY)
            .replace(b"smuggled", name)
            .replace(b"Host: d", b"Host: d\r\nX-DS01-Request: again-and-again"),
        )

    first = ask(b"first")
    assert b" 201 " in first.split(b"\r\n")[0]
    host.run("mallory", ["docker", "start", "first"])
    assert b" 201 " not in ask(b"second").split(b"\r\n")[0]
    host.run("mallory", ["docker", "rm", "-f", "first"])
    assert b" 201 " not in ask(b"third").split(b"\r\n")[0]
    assert engine(host, "ps", "-aq") == ""
    assert held(host) == {}


def test_a_body_in_crumbs_is_refused_and_keeps_nobody_waiting(host: RunningHost) -> None:
    head = b"POST /v1.45/containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    crumbs = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000
    eaters = [host.start("mallory", python(SEND)) for _ in range(8)]
    for eater in eaters:
        assert eater.stdin is not None
        eater.stdin.write(crumbs)
        eater.stdin.close()
        eater.stdin = None
    assert host.run("bob", ["docker", "ps"], timeout_s=15).status == 0
    for eater in eaters:
        out, _ = eater.communicate(timeout=60)
        assert b" 413 " in out.split(b"\r\n")[0]


FLOOD = """
    import socket, sys, time
    end = time.monotonic() + 5
    kept = []
    while time.monotonic() < end:
        s = socket.socket(socket.AF_UNIX); s.setblocking(False)
        try:
            s.connect(sys.argv[1]); kept.append(s)
        except OSError:
            s.close()
        if len(kept) > 300:
            for s in kept: s.close()
            kept = []
        time.sleep(0.001)  # a program that spins can fill any queue: that is what CPU limits of logins are for
    """


@pytest.mark.parametrize("path", ["/run/docker.sock", "/run/ds01/allocator.sock"])
def test_who_only_connects_keeps_nobody_out(host: RunningHost, path: str) -> None:
    flood = [*python(FLOOD), path]
    floods = [host.start("mallory", flood) for _ in range(2)]
    for _ in range(4):
        assert host.run("bob", ["docker", "ps"], timeout_s=20).status == 0
        assert host.run("bob", ["ds01", "status"], timeout_s=20).status == 0
    for process in floods:
        process.communicate(timeout=60)
