"""The installer on a real host: it changes what it says, puts everything back byte for byte, and can be run again.

These tests share one host of their own, since they take the suite away; they run in the order of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from lib.running import Result, RunningHost

INSTALLER = "/usr/src/ds01/packaging/installer.py"
ENGINE = "unix:///run/ds01-engine/engine.sock"
DAEMONS = ("ds01-nvml", "ds01-limits-sync", "ds01-gpu-allocator", "ds01-docker-shim")
FORMER_DAEMON_JSON = '{"mtu" : 1400,\n\t"log-driver":"local"}'

SNAPSHOT = r"""
import hashlib, json, os, sys
def fact(path):
    found = os.lstat(path)
    kind = os.readlink(path) if os.path.islink(path) else hashlib.sha256(open(path, "rb").read()).hexdigest()
    return [oct(found.st_mode), found.st_uid, found.st_gid, kind]
facts = {}
for top in ("/etc", "/usr/lib/systemd", "/usr/lib/tmpfiles.d", "/usr/lib/sysusers.d", "/usr/lib/udev", "/usr/lib/ds01",
            "/usr/local", "/usr/share/ds01", "/usr/share/doc", "/usr/share/man"):
    for folder, _, names in os.walk(top):
        facts[folder] = oct(os.lstat(folder).st_mode)
        for name in names:
            path = os.path.join(folder, name)
            # passwd and its like keep their own copies of the last version
            if not name.endswith("-") and name != ".pwd.lock" and (os.path.isfile(path) or os.path.islink(path)):
                facts[path] = fact(path)
json.dump(facts, sys.stdout)
"""

# ENXIO: the device filter lets it pass and no driver answers. EPERM: the filter refuses.
PROBE = r"""
import errno, os, sys
for line in sys.stdin:
    try:
        os.close(os.open("/srv/gpu-node", os.O_RDWR)); answer = "OPEN"
    except OSError as exc:
        answer = errno.errorcode[exc.errno]
    print(answer, flush=True)
"""


class Machine(RunningHost):
    """The host of this file: what it says is asserted by exit status."""

    def sh(self, script: str) -> str:
        """What a script prints; it must succeed."""
        return self.root(["sh", "-euc", script]).out

    def installer(self, *words: str, status: int = 0, path: str = "/usr/sbin:/usr/bin") -> Result:
        """Runs the installer under a tight umask; it must end with this status."""
        script = f'umask 077; PATH={path} exec python3 {INSTALLER} "$@"'
        done = self.root(["sh", "-c", script, "-", *words], check=False)
        assert done.status == status, f"installer {words} ended with {done.status}:\n{done.out}\n{done.err}"
        return done

    def snapshot(self) -> dict[str, object]:
        """Every file that an installation could touch: mode, owner, content."""
        facts: dict[str, object] = json.loads(self.root(["python3", "-c", SNAPSHOT]).out)
        return facts

    def exists(self, path: str) -> bool:
        """Whether anything is at the path."""
        return self.sh(f"test -e {path} -o -L {path} && echo yes || echo no").strip() == "yes"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    name = f"pytest-{os.getpid()}-install"
    Machine.boot(name)
    booted = Machine(name)
    try:
        yield booted
    finally:
        booted.end()


def assert_all_runs(machine: Machine) -> None:
    units = ["docker.service", "ds01.target", "ds01-boot.service", *(f"{name}.service" for name in DAEMONS)]
    assert machine.root(["systemctl", "is-active", *units]).out.split() == ["active"] * len(units)


def test_a_machine_that_meets_the_minimums_is_told_its_versions(machine: Machine) -> None:
    said = machine.installer("check").out
    for name in ("kernel", "systemd", "docker", "runc", "nvidia-container-toolkit"):
        assert name in said


def test_an_old_runc_is_refused_with_the_reason(machine: Machine) -> None:
    machine.sh(
        "mkdir -p /srv/old; printf '#!/bin/sh\\necho runc version 1.1.11\\n' >/srv/old/runc; chmod 755 /srv/old/runc"
    )
    done = machine.installer("install", status=78, path="/srv/old:/usr/sbin:/usr/bin")
    assert "runc is 1.1.11, at least 1.1.12 is needed: CVE-2024-21626" in done.err
    machine.sh("rm -r /srv/old")


def test_only_root_installs(machine: Machine) -> None:
    done = machine.run("alice", ["python3", INSTALLER, "install"], check=False)
    assert (done.status, "only root" in done.err) == (77, True)


def test_a_second_installation_changes_nothing_and_restarts_nothing(machine: Machine) -> None:
    pids = "systemctl show -P MainPID docker.service " + " ".join(f"{name}.service" for name in DAEMONS)
    before, running = machine.snapshot(), machine.sh(pids)
    machine.installer("install")
    assert machine.snapshot() == before
    assert machine.sh(pids) == running


def test_an_edited_file_is_reported_and_written_again(machine: Machine) -> None:
    machine.sh("echo '# edited' >>/usr/lib/systemd/system/ds01.slice")
    said = machine.installer("check", status=78).out
    assert "/usr/lib/systemd/system/ds01.slice is not as it was installed" in said
    machine.installer("install")
    machine.installer("check")


def test_uninstall_refuses_to_hide_running_containers(machine: Machine) -> None:
    machine.root(
        ["docker", "-H", ENGINE, "run", "-d", "--name", "week-long", "--stop-timeout", "0", "busybox", "sleep", "1000"]
    )
    said = machine.installer("uninstall", status=75).err
    assert "week-long (busybox)" in said
    assert "docker save" in said
    assert_all_runs(machine)


def test_uninstall_gives_the_engine_its_socket_and_its_ids_back(machine: Machine) -> None:
    machine.installer("uninstall", "--stop-containers")
    assert "name=userns" not in machine.root(["docker", "info", "-f", "{{.SecurityOptions}}"]).out
    assert machine.sh("stat -c '%U:%G %a' /run/docker.sock").strip() == "root:docker 660"
    assert machine.sh("systemctl show -P Listen docker.socket").strip() == "/run/docker.sock (Stream)"
    assert machine.sh("systemctl show -P Slice docker.service").strip() == "system.slice"
    assert (
        machine.sh("systemctl list-units --plain --no-legend 'ds01*'; ls /usr/lib/systemd/system | grep ds01 || true")
        == ""
    )
    assert machine.root(["id", "dockremap"], check=False).status == 1
    for path in ("/etc/docker/daemon.json", "/usr/lib/ds01", "/usr/local/bin/ds01", "/run/ds01-engine"):
        assert not machine.exists(path)
    assert "dockremap" not in machine.sh("cat /etc/subuid /etc/subgid")


def test_uninstall_keeps_the_ledger_and_the_policy_folder(machine: Machine) -> None:
    assert machine.exists("/var/lib/ds01/ledger.sqlite")
    assert machine.exists("/etc/ds01")


def test_uninstalling_twice_is_no_error(machine: Machine) -> None:
    assert "nothing to do" in machine.installer("uninstall").err


def test_a_failed_step_says_what_to_do_and_the_next_run_completes(machine: Machine) -> None:
    broken = "/run/systemd/system/docker.service.d"
    machine.sh(f"mkdir -p {broken}")
    machine.write(f"{broken}/broken.conf", "[Service]\nExecStartPre=/usr/bin/false\n")
    try:
        said = machine.installer("install", status=70).err
    finally:
        machine.sh(f"rm -r {broken}")
    assert "docker.service" in said
    assert "run the same command again" in said
    machine.installer("install")
    assert_all_runs(machine)
    assert "name=userns" in machine.root(["docker", "-H", ENGINE, "info", "-f", "{{.SecurityOptions}}"]).out
    machine.installer("uninstall", "--purge")


def test_what_was_there_before_comes_back_byte_for_byte(machine: Machine) -> None:
    machine.sh("mkdir -p /etc/docker")
    machine.write("/etc/docker/daemon.json", FORMER_DAEMON_JSON)
    machine.write("/usr/local/bin/ds01", "#!/bin/sh\necho mine\n")
    machine.sh("chmod 600 /etc/docker/daemon.json; chmod 750 /usr/local/bin/ds01; echo any:300000:65536 >>/etc/subuid")
    before = machine.snapshot()
    said = machine.installer("install").err
    assert "'log-driver' of the former file is not carried on" in said
    assert json.loads(machine.read("/etc/docker/daemon.json"))["mtu"] == 1400
    assert machine.sh("stat -c %a /usr/share/ds01/policy.json /etc/docker/daemon.json").split() == ["644", "644"]
    assert machine.sh("readlink /usr/local/bin/ds01").strip() == "/usr/lib/ds01/venv/bin/ds01"
    machine.installer("uninstall", "--purge")
    assert machine.snapshot() == before
    assert not machine.exists("/var/lib/ds01")
    assert machine.read("/etc/docker/daemon.json") == FORMER_DAEMON_JSON
    machine.sh("rm /etc/docker/daemon.json /usr/local/bin/ds01; sed -i /any:/d /etc/subuid")


def test_the_device_gate_closes_for_sessions_that_are_open_already(machine: Machine) -> None:
    machine.sh("mknod -m 666 /srv/gpu-node c 195 200")
    answers = []
    with machine.start("alice", ["python3", "-c", PROBE]) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        for install in (False, True):
            if install:
                machine.installer("install")
            session.stdin.write(b"\n")
            session.stdin.flush()
            answers.append(session.stdout.readline().decode().strip())
        session.stdin.close()
    assert answers == ["ENXIO", "EPERM"]


def test_after_the_way_back_and_forth_everything_runs(machine: Machine) -> None:
    assert_all_runs(machine)
    assert machine.sh("stat -c '%U:%G %a' /run/docker.sock").strip() == "root:docker 660"
    assert machine.root(["docker", "-H", ENGINE, "info", "-f", "{{.LiveRestoreEnabled}}"]).out.strip() == "true"
