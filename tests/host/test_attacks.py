"""mallory's attacks, each tried for real, each judged on the host and not by the answer alone."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator

import pytest
from lib.people import ENGINE, SLEEP, docker_run, gpu_nodes, held, inspect, ledger, mine, pid_of, wipe
from lib.running import RunningHost

ALLOCATOR = "/run/ds01/allocator.sock"
RELEASE = r'{"method":"io.ds01.Allocator.Release","parameters":{"lease":"%s","reason":"mallory"}}'


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def python(text: str) -> list[str]:
    """A program for the host's Python."""
    return ["python3", "-c", textwrap.dedent(text)]


def engine(host: RunningHost, *words: str, check: bool = True) -> str:
    """Docker as root, straight at the engine: for arranging what mallory can't do herself."""
    return host.root(["docker", "-H", ENGINE, *words], check=check).out.strip()


# --- a container process is never host root ---


def test_no_container_process_is_host_root(host: RunningHost) -> None:
    docker_run(host, "mallory", "m1")
    uids = host.root(["grep", "^Uid:", f"/proc/{pid_of(host, 'm1')}/status"]).out.split()[1:]
    assert all(int(uid) >= 100_000 for uid in uids)


SEND_ROOT = """
    import os, socket, sys
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    socket.send_fds(s, [b"x"], [os.open("/", os.O_RDONLY)])
    print(s.recv(4096).decode())
    """
RECEIVE_ROOT = """
    import os, socket, sys
    l = socket.socket(socket.AF_UNIX); l.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); l.listen()
    c, _ = l.accept()
    _, (fd,), _, _ = socket.recv_fds(c, 1, 1)
    said = []
    for name, flags in (("etc/shadow", os.O_RDONLY), ("etc/sudoers.d/pwn", os.O_WRONLY | os.O_CREAT),
                        ("run/ds01-engine/engine.sock", os.O_PATH), ("root/x", os.O_WRONLY | os.O_CREAT)):
        try:
            os.close(os.open(name, flags, dir_fd=fd)); said.append("OPENED " + name)
        except OSError as exc:
            said.append(exc.__class__.__name__)
    c.send(" ".join(said).encode())
    """


def test_a_descriptor_of_the_root_folder_opens_nothing_in_a_container(host: RunningHost) -> None:
    """SCM_RIGHTS through a bind that root arranged: user namespaces are what closes it, also if binds were open."""
    host.root("mkdir -p /home/mallory/ws && chmod 777 /home/mallory/ws && chmod 711 /home/mallory")
    receiver = ("python3", "-c", textwrap.dedent(RECEIVE_ROOT), "/ws/s")
    engine(host, "run", "-d", "--name", "scm", "-v", "/home/mallory/ws:/ws", "debian", *receiver)
    host.root("for i in $(seq 100); do test -S /home/mallory/ws/s && break; sleep 0.1; done")
    told = host.root(["python3", "-c", textwrap.dedent(SEND_ROOT), "/home/mallory/ws/s"])
    host.root("rm -rf /home/mallory/ws; chmod 700 /home/mallory")
    assert "OPENED" not in told.out
    assert told.out.split() == ["PermissionError"] * 4
    assert host.root(["test", "-e", "/etc/sudoers.d/pwn"], check=False).status != 0


def test_without_a_bind_the_containers_files_are_out_of_reach(host: RunningHost) -> None:
    """/proc/PID/root is how the host side would reach a socket in the container, with no bind at all."""
    docker_run(host, "mallory", "m1", "--user", "1004:1004")
    pid = pid_of(host, "m1")
    for path in (f"/proc/{pid}/root/", f"/proc/{pid}/cwd/", f"/proc/{pid}/fd/"):
        told = host.run("mallory", ["ls", path], check=False)
        assert told.status != 0, path
        assert "ermission denied" in told.err


@pytest.mark.parametrize("bind", ["/home/mallory:/x", "/:/host", "/run/docker.sock:/s", "/run/ds01:/r", "/proc:/p"])
def test_binds_do_not_exist(host: RunningHost, bind: str) -> None:
    for flags in (["-v", bind], ["--mount", "type=bind,src={},dst={}".format(*bind.split(":"))]):
        told = host.run("mallory", ["docker", "run", "--rm", *flags, "busybox", "ls"], check=False)
        assert told.status == 125
    assert engine(host, "ps", "-aq") == ""


# --- device nodes ---


def test_no_user_on_the_host_opens_a_block_device_or_a_gpu(host: RunningHost) -> None:
    host.root("mknod -m 666 /srv/disk b 7 0; mknod -m 666 /srv/mem c 1 1")
    script = """
        import os
        for path in ("/srv/disk", "/srv/mem", "/dev/nvidia0", "/dev/nvidiactl", "/dev/null", "/dev/tty"):
            try:
                os.close(os.open(path, os.O_RDONLY)); print(path, "opened")
            except OSError as exc:
                print(path, exc.errno)
        """
    told = dict(line.split() for line in host.run("mallory", python(script)).out.splitlines())
    host.root("rm -f /srv/disk /srv/mem")
    assert told["/srv/disk"] == "1", "EPERM: by the device policy, not for want of a driver"
    assert told["/srv/mem"] == "1"
    assert told["/dev/nvidia0"] == "1"
    assert told["/dev/nvidiactl"] == "1"
    assert told["/dev/null"] == "opened"


def test_the_same_from_cron(host: RunningHost) -> None:
    host.root("mknod -m 666 /srv/disk b 7 0")
    job = (
        "import os, sys\ntry: os.open('/srv/disk', os.O_RDONLY); r = 'opened'\nexcept OSError as e: r = str(e.errno)\n"
    )
    host.write("/tmp/job.py", job + "open('/tmp/cron-said', 'w').write(r)\n")
    shown = host.root(["systemctl", "show", "cron.service", "-p", "DevicePolicy,ActiveState"]).out
    assert "DevicePolicy=closed" in shown
    told = host.root(
        "systemd-run --quiet --wait --pipe --uid=mallory -p DevicePolicy=closed -p DeviceAllow='char-pts rw' "
        "python3 /tmp/job.py; cat /tmp/cron-said; rm -f /srv/disk /tmp/job.py /tmp/cron-said"
    )
    assert told.out == "1"


def test_a_block_device_in_an_image_layer_leads_nowhere(host: RunningHost) -> None:
    host.root(
        "rm -rf /tmp/layer; mkdir -p /tmp/layer/bin; cp /bin/busybox /tmp/layer/bin/; ln -s busybox /tmp/layer/bin/sh;"
        "ln -s busybox /tmp/layer/bin/sleep; ln -s busybox /tmp/layer/bin/dd; mknod -m 666 /tmp/layer/blk b 7 0;"
        f"tar -C /tmp/layer -c . | docker -H {ENGINE} import - blocky; rm -rf /tmp/layer"
    )
    docker_run(host, "mallory", "m1", image="blocky")
    told = host.run("mallory", ["docker", "exec", "m1", "dd", "if=/blk", "of=/dev/null", "count=1"], check=False)
    assert told.status != 0
    assert "not permitted" in told.err or "ermission denied" in told.err
    pid = pid_of(host, "m1")
    outside = host.run("mallory", python(f"import os; os.open('/proc/{pid}/root/blk', os.O_RDWR)"), check=False)
    assert outside.status != 0
    assert "PermissionError" in outside.err


def test_a_container_can_make_no_device_node(host: RunningHost) -> None:
    docker_run(host, "mallory", "m1", image="busybox")
    told = host.run("mallory", ["docker", "exec", "-u", "0", "m1", "mknod", "/n", "b", "7", "0"], check=False)
    assert told.status != 0


# --- dockerd as somebody's hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ["--log-driver", "syslog", "--log-opt", f"syslog-address=unix://{ALLOCATOR}"],
        ["--log-driver", "gelf", "--log-opt", "gelf-address=udp://127.0.0.1:1"],
        ["--log-driver", "journald", "--log-opt", "env=DS01_EVENT,MESSAGE_ID"],
        ["--log-driver", "none"],
        ["--log-opt", "max-size=100g"],
    ],
    ids=["syslog", "gelf", "journald", "none", "size"],
)
def test_log_drivers_are_not_for_users(host: RunningHost, flags: list[str]) -> None:
    told = host.run("mallory", ["docker", "run", "-d", *flags, "busybox", *SLEEP], check=False)
    assert told.status == 125
    assert engine(host, "ps", "-aq") == ""


def test_even_a_log_driver_that_speaks_to_our_socket_releases_nothing(host: RunningHost) -> None:
    """As if the refusal above had a hole: the engine connects as root, from docker.slice, and is refused there."""
    docker_run(host, "alice", "train", "--gpus", "1")
    (unit,) = mine(host, "alice")
    lease = held(host)[unit]["lease"]
    text = "x\\0" + (RELEASE % lease).replace('"', '\\"') + "\\0"
    before = ledger(host, "SELECT count(*) FROM record WHERE event = 'gpu.released'")
    options = ("--log-driver", "syslog", "--log-opt", f"syslog-address=unix://{ALLOCATOR}")
    engine(host, "run", "--rm", *options, "busybox", "printf", text, check=False)
    assert mine(host, "alice") == [unit]
    assert ledger(host, "SELECT count(*) FROM record WHERE event = 'gpu.released'") == before


def test_events_that_root_did_not_write_are_told_apart(host: RunningHost) -> None:
    options = ("--log-driver", "journald", "--log-opt", "env=DS01_EVENT", "-e", "DS01_EVENT=gpu.released")
    engine(host, "run", "--rm", *options, "busybox", "echo", "forged")
    ours = ["_SYSTEMD_UNIT=ds01-gpu-allocator.service", "DS01_EVENT=gpu.released"]
    assert not [entry for entry in host.journal(*ours) if "forged" in entry["MESSAGE"]]


# --- labels ---


def test_an_image_can_lend_no_label(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    (unit,) = mine(host, "alice")
    lease = held(host)[unit]["lease"]
    stolen = f"LABEL ds01.lease={lease} ds01.protected=true ds01.uid=1001 ds01.user=alice ds01.unmanaged=1"
    host.root(f"tar -C /bin -c busybox | docker -H {ENGINE} import -c '{stolen}' -c 'CMD [\"/busybox\"]' - evil")
    told = host.run("mallory", ["docker", "run", "-d", "--name", "m1", "evil", "/busybox", "sleep", "999"])
    assert told.out
    labels = inspect(host, "m1")["Config"]["Labels"]
    assert labels["ds01.uid"] == "1004"
    assert labels["ds01.user"] == "mallory"
    assert (labels["ds01.lease"], labels["ds01.protected"], labels["ds01.unmanaged"]) == ("", "", "")
    assert gpu_nodes(host, "m1") == set()
    host.run("mallory", ["docker", "rm", "-f", "m1"])
    assert mine(host, "alice") == [unit]


def test_the_protected_label_baked_into_cuda_is_empty(host: RunningHost) -> None:
    docker_run(host, "mallory", "m1", image="cuda")
    assert inspect(host, "m1")["Config"]["Labels"]["ds01.protected"] == ""


@pytest.mark.parametrize("label", ["ds01.user=alice", "ds01.lease=x", "DS01.uid=1001", "ds01.anything=1", "ds01.="])
def test_users_set_no_label_of_ours(host: RunningHost, label: str) -> None:
    told = host.run("mallory", ["docker", "run", "-d", "--label", label, "busybox", *SLEEP], check=False)
    if told.status == 0:  # a label that only looks like ours is the user's own affair, and gives nothing
        assert inspect(host, told.out.strip())["Config"]["Labels"]["ds01.user"] == "mallory"
    else:
        assert told.status == 125


# --- who is asking ---

ASK = """
    import socket, sys
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(5)
    try:
        s.connect(sys.argv[1])
        s.sendall(sys.argv[2].encode() + b"\\0")
        print(s.recv(65536).decode())
    except OSError as exc:
        print("closed", exc)
    """
LIST = '{"method":"io.ds01.Allocator.List"}'


def test_a_dead_peer_is_nobody(host: RunningHost) -> None:
    """Connect, hand the connection to a child, die: the kernel names a process that is gone."""
    script = """
        import os, socket, sys, time
        s = socket.socket(socket.AF_UNIX)
        a, b = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:                      # the grandchild connects …
                s.connect("/run/ds01/allocator.sock")
                t = socket.socket(socket.AF_UNIX); t.connect("\\0keeper")
                socket.send_fds(t, [b"x"], [s.fileno()])
                os._exit(0)                         # … and is gone
            os._exit(0)
        """
    keeper = """
        import os, socket, subprocess, sys, time
        l = socket.socket(socket.AF_UNIX); l.bind("\\0keeper"); l.listen()
        p = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
        c, _ = l.accept()
        _, (fd,), _, _ = socket.recv_fds(c, 1, 1)
        p.wait(); time.sleep(0.5)
        s = socket.socket(fileno=fd); s.settimeout(20)
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            s.sendall(b'{"method":"io.ds01.Allocator.List"}\\0')
            print(s.recv(65536).decode())
        except OSError as exc:
            print("closed", exc)
        """
    host.root(["systemctl", "kill", "-s", "STOP", "ds01-gpu-allocator.service"])
    process = host.start("mallory", ["python3", "-c", textwrap.dedent(keeper), textwrap.dedent(script)])
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    host.root(["systemctl", "kill", "-s", "CONT", "ds01-gpu-allocator.service"])
    out, _ = process.communicate(b"go\n", timeout=30)
    assert b"units" not in out


@pytest.mark.parametrize("slice_name", ["docker.slice", "docker-unmanaged.slice", "machine.slice"])
def test_nobody_asks_from_the_engines_slice(host: RunningHost, slice_name: str) -> None:
    run = ["systemd-run", "--quiet", "--wait", "--pipe", f"--slice={slice_name}", "python3", "-c"]
    told = host.root([*run, textwrap.dedent(ASK), ALLOCATOR, LIST])
    assert "units" not in told.out
    docker = ["systemd-run", "--quiet", "--wait", "--pipe", f"--slice={slice_name}", "docker", "ps"]
    assert host.root(docker, check=False).status != 0


@pytest.mark.parametrize(
    "namespaces", [["--user", "--map-root-user"], ["--user", "--map-root-user", "--pid", "--fork"]]
)
def test_nobody_asks_from_a_namespace_of_his_own(host: RunningHost, namespaces: list[str]) -> None:
    argv = ["unshare", *namespaces, "python3", "-c", textwrap.dedent(ASK), ALLOCATOR, LIST]
    told = host.run("mallory", argv, check=False)
    assert "units" not in told.out


def test_a_container_process_reaches_no_socket_of_ours(host: RunningHost) -> None:
    """With the host's mounts and the container's user namespace: what a passed descriptor of a folder would give."""
    docker_run(host, "mallory", "m1")
    pid = pid_of(host, "m1")
    enter = ["nsenter", f"--target={pid}", "--user", "--pid", "--setuid", "1001"]
    for socket_path in (ALLOCATOR, "/run/docker.sock"):
        told = host.root([*enter, "python3", "-c", textwrap.dedent(ASK), socket_path, LIST], check=False)
        assert "units" not in told.out
        assert "Containers" not in told.out


@pytest.mark.parametrize("method", ["Grant", "Revoke", "RebuildLedger"])
@pytest.mark.parametrize("user", ["mallory", "alice"])
def test_only_administrators_decide_over_others(host: RunningHost, user: str, method: str) -> None:
    parameters = {
        "Grant": f'{{"user": "mallory", "gpus": "1", "until": {time.time() + 600}}}',
        "Revoke": '{"lease": "l"}',
        "RebuildLedger": "{}",
    }[method]
    argv = ["varlinkctl", "call", ALLOCATOR, f"io.ds01.Allocator.{method}", parameters]
    told = host.run(user, argv, check=False)
    assert told.status != 0
    assert "PermissionDenied" in told.err
    assert held(host) == {}


@pytest.mark.parametrize("method", ["Lease", "Renew", "Release", "Record"])
@pytest.mark.parametrize("user", ["mallory", "ada", "root"])
def test_only_the_shim_acts_for_others(host: RunningHost, user: str, method: str) -> None:
    parameters = {
        "Lease": '{"request_id": "r", "uid": 1001, "container_name": "x", "gpus": "1", "wait_s": 0}',
        "Renew": '{"lease": "l", "uid": 1001, "wait_s": 0}',
        "Release": '{"lease": "l", "reason": "x"}',
        "Record": '{"event": "gpu.granted", "uid": 1, "reason": "", "message": "", "container": "", '
        '"container_name": "", "request": "", "count": 1}',
    }[method]
    argv = ["varlinkctl", "call", ALLOCATOR, f"io.ds01.Allocator.{method}", parameters]
    told = host.run(user, argv, check=False)
    assert told.status != 0
    assert "PermissionDenied" in told.err
    assert held(host) == {}


def test_the_sockets_behind_are_closed_to_users(host: RunningHost) -> None:
    for path in ("/run/ds01-engine/engine.sock", "/run/ds01/limits-sync.sock", "/run/ds01/nvml.sock"):
        told = host.run(
            "mallory", python(f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"), check=False
        )
        assert told.status != 0, path
        assert "PermissionError" in told.err
    for path in ("/var/lib/ds01", "/run/ds01-engine", "/var/lib/docker"):
        assert host.run("mallory", ["ls", path], check=False).status != 0


def test_homes_are_private(host: RunningHost) -> None:
    assert host.run("mallory", ["ls", "/home/alice"], check=False).status != 0


# --- the audit ---


def test_a_flood_of_refusals_is_counted_and_not_repeated(host: RunningHost) -> None:
    before = len(host.journal("DS01_EVENT=access.refused", "DS01_USER=mallory"))
    host.run(
        "mallory", "for i in $(seq 60); do curl -s --unix-socket /run/docker.sock http://d/volumes; done >/dev/null"
    )
    assert len(host.journal("DS01_EVENT=access.refused", "DS01_USER=mallory")) - before < 20


def test_the_journal_of_our_decisions_can_not_be_flooded_away(host: RunningHost) -> None:
    """The main journal rolls over under mallory's noise; our namespace has its own size."""
    docker_run(host, "alice", "train", "--gpus", "1")
    script = "import syslog\nfor i in range(3000): syslog.syslog('n' * 8000)"
    host.run("mallory", ["python3", "-c", script])
    assert host.journal("DS01_EVENT=gpu.granted", "DS01_USER=alice")
    assert ledger(host, "SELECT count(*) FROM record WHERE event = 'gpu.granted' AND uid = 1001")[0][0] > 0


FORGED = """
import asyncio, sys
from dbus_next import BusType, Message, MessageType
from dbus_next.aio import MessageBus

async def main():
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    for to in (sys.argv[1], None):
        await bus.send(Message(
            message_type=MessageType.SIGNAL, destination=to, path="/org/freedesktop/login1",
            interface="org.freedesktop.login1.Manager", member="UserNew", signature="uo", body=[65534, "/x"]))
    await asyncio.sleep(1)

asyncio.run(main())
"""


def test_nobody_speaks_for_systemd_to_our_daemons(host: RunningHost) -> None:
    """Signals to one connection pass by its match rules; broadcasts are believed of systemd and logind alone."""
    pid = host.root(["systemctl", "show", "-P", "MainPID", "ds01-limits-sync"]).out.strip()
    names = host.root(["busctl", "--system", "list", "--no-legend", "--unique"]).out.splitlines()
    (ours,) = [line.split()[0] for line in names if line.split()[1] == pid]
    since = time.time()
    host.run("mallory", ["/usr/lib/ds01/venv/bin/python", "-c", FORGED, ours])
    said = [entry["MESSAGE"] for entry in host.journal("-u", "dbus.service", since_s=since)]
    assert [text for text in said if "Rejected send message" in text and 'member="UserNew"' in text]
    host.root(["systemctl", "reload", "ds01-limits-sync"])
    assert not host.root("ls -d /run/systemd/system.control/user-65534.slice.d", check=False).out
