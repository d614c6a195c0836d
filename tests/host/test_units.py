"""The units as systemd sees them on a booted host: sandboxes, sockets, slices, drop-ins, journal, the device gate."""

from __future__ import annotations

import json
import re

import pytest
from lib.running import RunningHost

DAEMONS = ("ds01-nvml", "ds01-limits-sync", "ds01-gpu-allocator", "ds01-docker-shim")
SERVICES = ("ds01-boot", *DAEMONS)
ENGINE = "unix:///run/ds01-engine/engine.sock"

# ENXIO: the device filter lets it pass and no driver answers. EPERM: the filter refuses.
OPEN = r"""
import errno, os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NOCTTY)); print(path, "OPEN")
    except OSError as exc:
        print(path, errno.errorcode[exc.errno])
"""
CONNECT = r"""
import socket, sys
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect(sys.argv[1])
"""


def show(host: RunningHost, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    text = host.root(["systemctl", "show", f"--property={','.join(names)}", unit]).out
    return dict(line.split("=", 1) for line in text.splitlines())


def exposure(host: RunningHost, unit: str) -> float:
    """What `systemd-analyze security` makes of a unit: 0 is shut, 10 wide open."""
    text = host.root(["systemd-analyze", "security", "--no-pager", unit]).out
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", text)
    assert found is not None, text
    return float(found.group(1))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_shut_in(host: RunningHost, name: str) -> None:
    assert exposure(host, f"{name}.service") <= 1.5


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_capability_and_comes_back_for_ever(host: RunningHost, name: str) -> None:
    assert show(
        host,
        f"{name}.service",
        *("CapabilityBoundingSet", "NoNewPrivileges", "UMask", "LogNamespace", "RuntimeDirectory", "PrivateNetwork"),
        *("StartLimitIntervalUSec", "Slice"),
    ) == {
        "CapabilityBoundingSet": "",
        "NoNewPrivileges": "yes",
        "UMask": "0077",
        "LogNamespace": "ds01",
        "RuntimeDirectory": name if name == "ds01-nvml" else "",
        "PrivateNetwork": "yes",
        "StartLimitIntervalUSec": "0",
        "Slice": "system.slice",
    }


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_is_watched_and_restarts_in_steps(host: RunningHost, name: str) -> None:
    wanted = {
        "Type": "notify-reload" if name == "ds01-limits-sync" else "notify",
        "WatchdogUSec": "30s",
        "Restart": "always",
        "RestartUSec": "1ms",
        "RestartSteps": "10",
        "RestartMaxDelayUSec": "1s",
        "TimeoutStartUSec": "30s",
    }
    assert show(host, f"{name}.service", *wanted) == wanted


@pytest.mark.parametrize("name", DAEMONS)
def test_no_burst_of_clients_closes_a_socket(host: RunningHost, name: str) -> None:
    assert show(host, f"{name}.socket", "TriggerLimitIntervalUSec", "ActiveState") == {
        "TriggerLimitIntervalUSec": "0",
        "ActiveState": "active",
    }


@pytest.mark.parametrize(
    ("path", "owner_and_mode"),
    [
        ("/run/docker.sock", "root:docker 660 socket"),
        ("/run/ds01-engine", "root:root 700 directory"),
        ("/run/ds01-engine/engine.sock", "root:root 600 socket"),
        ("/run/ds01", "root:root 755 directory"),
        ("/run/ds01/allocator.sock", "root:root 666 socket"),
        ("/run/ds01/limits-sync.sock", "root:root 600 socket"),
        ("/run/ds01/nvml.sock", "root:root 600 socket"),
        ("/run/ds01/policy.json", "root:root 644 regular file"),
        ("/run/cdi", "root:root 755 directory"),
        ("/var/lib/ds01", "root:root 700 directory"),
        ("/etc/ds01", "root:root 755 directory"),
        ("/etc/ds01/groups", "root:root 755 directory"),
        ("/etc/ds01/resource-limits.yaml", "root:root 644 regular file"),
        ("/var/lib/ds01/policy.json", "root:root 600 regular file"),
    ],
)
def test_who_reaches_a_path(host: RunningHost, path: str, owner_and_mode: str) -> None:
    assert host.root(["stat", "--format=%U:%G %a %F", path]).out.strip() == owner_and_mode


def test_every_unit_file_is_understood(host: RunningHost) -> None:
    units = host.root("cd /usr/lib/systemd/system; ls -d ds01*.service ds01*.socket ds01* docker*.slice | sort -u").out
    names = [name for name in units.split() if not name.endswith(".d")]
    done = host.root(["systemd-analyze", "verify", *names], check=False)
    assert (done.status, done.out + done.err) == (0, "")


def test_the_engine_is_in_a_slice_of_its_own_and_waits_for_the_boot_unit(host: RunningHost) -> None:
    engine = show(host, "docker.service", "Slice", "StartLimitIntervalUSec", "OOMScoreAdjust", "Requires", "After")
    assert (engine["Slice"], engine["StartLimitIntervalUSec"], engine["OOMScoreAdjust"]) == (
        "docker.slice",
        "0",
        "-900",
    )
    assert "ds01-boot.service" in engine["Requires"].split()
    assert "ds01-boot.service" in engine["After"].split()
    assert show(host, "containerd.service", "Slice") == {"Slice": "docker.slice"}
    assert show(host, "docker.socket", "Listen") == {"Listen": "/run/ds01-engine/engine.sock (Stream)"}


@pytest.mark.parametrize("name", DAEMONS)
def test_no_daemon_waits_for_the_engine(host: RunningHost, name: str) -> None:
    order = show(host, f"{name}.service", "After", "Requires", "Requisite", "BindsTo")
    assert "docker.service" not in " ".join(order.values()).split()


def test_the_boot_unit_was_done_before_the_engine_started(host: RunningHost) -> None:
    done = show(host, "ds01-boot.service", "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]
    started = show(host, "docker.service", "ExecMainStartTimestampMonotonic")["ExecMainStartTimestampMonotonic"]
    assert 0 < int(done) <= int(started)


@pytest.mark.parametrize("unit", ["ds01.slice", "docker.slice", "docker-unmanaged.slice"])
def test_a_slice_is_capped(host: RunningHost, unit: str) -> None:
    limits = show(host, unit, "MemoryMax", "TasksMax", "CPUWeight")
    assert "infinity" not in limits.values()
    assert "[not set]" not in limits.values()


def test_the_engine_runs_as_daemon_json_says(host: RunningHost) -> None:
    info = json.loads(host.root(["docker", "-H", ENGINE, "info", "--format", "{{json .}}"]).out)
    assert info["LiveRestoreEnabled"] is True
    assert (info["CgroupDriver"], info["DefaultRuntime"], info["LoggingDriver"]) == ("systemd", "runc", "json-file")
    assert {"name=userns", "name=no-new-privileges"} <= set(info["SecurityOptions"])


def test_a_container_that_nobody_placed_is_capped_and_not_root(host: RunningHost) -> None:
    engine = ["docker", "-H", ENGINE]
    container = host.root([*engine, "run", "--detach", "--rm", "busybox", "sleep", "60"]).out.strip()
    try:
        pid = host.root([*engine, "inspect", "--format", "{{.State.Pid}}", container]).out.strip()
        cgroup = host.read(f"/proc/{pid}/cgroup").splitlines()[-1]
        owner = host.root(["stat", "--format=%u", f"/proc/{pid}"]).out.strip()
    finally:
        host.root([*engine, "rm", "--force", container])
    assert cgroup == f"0::/docker.slice/docker-unmanaged.slice/docker-{container}.scope"
    assert int(owner) >= 100000


@pytest.mark.parametrize("name", ["ds01-boot", "ds01-limits-sync", "ds01-gpu-allocator"])
def test_who_looks_at_device_nodes_opens_none(host: RunningHost, name: str) -> None:
    assert show(host, f"{name}.service", "PrivateDevices", "DevicePolicy", "DeviceAllow") == {
        "PrivateDevices": "no",
        "DevicePolicy": "closed",
        "DeviceAllow": "char-rtc r",  # by ProtectClock=
    }


@pytest.mark.parametrize("unit", ["user-1001.slice", "user-0.slice", "cron.service"])
def test_what_is_set_at_run_time_wins_over_what_is_shipped(host: RunningHost, unit: str) -> None:
    """Drop-ins are sorted by name, whichever folder they are in, and systemd calls its own 50-PROPERTY.conf."""
    names = [path.rpartition("/")[2] for path in show(host, unit, "DropInPaths")["DropInPaths"].split()]
    ours = [name for name in names if name.endswith("-ds01.conf")]
    assert ours
    assert max(ours) < "50-"


# --- the device gate ----------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(host: RunningHost) -> tuple[str, str]:
    """A GPU node and a disk that everybody may open as far as the file system is concerned."""
    host.root(
        "mkdir -p -m 755 /srv/nodes; cd /srv/nodes; rm -f gpu disk; mknod -m 666 gpu c 195 200; mknod -m 666 disk b 7 0"
    )
    return "/srv/nodes/gpu", "/srv/nodes/disk"


def opened(host: RunningHost, user: str, *paths: str) -> dict[str, str]:
    """What happens when the user opens the paths in a login session."""
    words = host.run(user, ["python3", "-c", OPEN, *paths]).out.split()
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("user", ["alice", "rita", "ada"])
def test_a_login_session_opens_no_gpu_and_no_disk(host: RunningHost, nodes: tuple[str, str], user: str) -> None:
    assert opened(host, user, *nodes) == dict.fromkeys(nodes, "EPERM")


def test_a_login_session_has_the_harmless_devices(host: RunningHost) -> None:
    paths = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/ptmx")
    assert opened(host, "alice", *paths) == dict.fromkeys(paths, "OPEN")


def test_a_users_own_service_manager_is_behind_the_gate_too(host: RunningHost, nodes: tuple[str, str]) -> None:
    unit = f"[Service]\nType=oneshot\nStandardOutput=file:%h/said\nExecStart=python3 %h/open.py {nodes[0]}\n"
    host.run("alice", "cat >open.py", stdin=OPEN)
    host.run("alice", "mkdir -p .config/systemd/user; cat >.config/systemd/user/probe.service", stdin=unit)
    try:
        said = host.run("alice", "systemctl --user daemon-reload; systemctl --user start probe.service; cat said").out
    finally:
        host.run("alice", "rm -rf open.py said .config/systemd/user/probe.service")
    assert said.split() == [nodes[0], "EPERM"]


def test_roots_own_login_keeps_its_devices(host: RunningHost, nodes: tuple[str, str]) -> None:
    assert opened(host, "root", nodes[0]) == {nodes[0]: "ENXIO"}


def test_cron_jobs_are_behind_the_gate(host: RunningHost, nodes: tuple[str, str]) -> None:
    job = f"echo $$ >/sys/fs/cgroup/system.slice/cron.service/cgroup.procs; exec python3 -c '{OPEN}' {nodes[0]}"
    assert host.root(job).out.split() == [nodes[0], "EPERM"]


def test_at_jobs_are_behind_the_gate(host: RunningHost, nodes: tuple[str, str]) -> None:
    """The package may come later: whatever is called atd.service then has the drop-in."""
    done = host.root(["systemd-run", "--quiet", "--pipe", "--wait", "--unit=atd", "python3", "-c", OPEN, nodes[0]])
    assert done.out.split() == [nodes[0], "EPERM"]


# --- the journal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ds01-boot", "ds01-gpu-allocator"])
def test_a_service_speaks_in_the_namespace(host: RunningHost, name: str) -> None:
    entries = host.journal(f"_SYSTEMD_UNIT={name}.service")
    assert {entry.get("_NAMESPACE") for entry in entries} == {"ds01"}


@pytest.mark.parametrize("name", ["socket", "dev-log"])
def test_nobody_else_writes_to_the_namespace(host: RunningHost, name: str) -> None:
    done = host.run("mallory", ["python3", "-c", CONNECT, f"/run/systemd/journal.ds01/{name}"], check=False)
    assert (done.status, "Permission" in done.err) == (1, True)


def test_the_namespace_keeps_its_own_space_and_time(host: RunningHost) -> None:
    config = host.root(["systemd-analyze", "cat-config", "systemd/journald@ds01.conf"]).out
    assert "SystemMaxUse=2G" in config
    assert "MaxRetentionSec=400day" in config
    assert "SystemMaxUse=4G" in host.root(["systemd-analyze", "cat-config", "systemd/journald.conf"]).out


def test_the_catalogue_explains_our_events(host: RunningHost) -> None:
    assert "DS01" in host.root("journalctl --list-catalog").out


# --- restarts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAEMONS)
def test_a_restart_takes_no_other_services_files(host: RunningHost, name: str) -> None:
    before = host.root("find /run/ds01 /run/ds01-engine /run/cdi /run/docker.sock | sort").out
    host.root(["systemctl", "restart", f"{name}.service"])
    assert host.root("find /run/ds01 /run/ds01-engine /run/cdi /run/docker.sock | sort").out == before


@pytest.mark.expect_warnings("Failed with result 'signal'", "killed", "Failed to start")
def test_twenty_kills_in_ten_seconds_close_no_socket(host: RunningHost) -> None:
    services = " ".join(f"{name}.service" for name in DAEMONS)
    host.root(f"for i in $(seq 20); do systemctl kill --signal=KILL {services} 2>/dev/null; sleep 0.5; done")
    sockets = [f"{name}.socket" for name in DAEMONS]
    assert host.root(["systemctl", "is-active", *sockets]).out.split() == ["active"] * len(DAEMONS)
    host.root(["systemctl", "start", *services.split()])
    assert host.root(["systemctl", "is-active", *services.split()]).out.split() == ["active"] * len(DAEMONS)
