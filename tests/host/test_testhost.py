"""The contract of testhost itself: others script against it, and every other host test stands on it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FreshHost
from lib import host as hosts
from lib import mounts, stages, world
from lib.places import TESTHOST, HostError, host_places
from lib.running import RunningHost


def command(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", TESTHOST, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 77"], 77),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_exec_ends_with_the_status_of_the_command(host: RunningHost, argv: list[str], status: int) -> None:
    assert command("exec", "--name", host.name, "--user", "alice", "--", *argv).returncode == status


def test_exec_passes_arguments_as_they_are(host: RunningHost) -> None:
    words = ["$HOME", "a b", "%n", "", "'", "-x", "ü"]
    done = command("exec", "--name", host.name, "--", "printf", "%s\\n", *words)
    assert done.stdout.decode().splitlines() == words


def test_exec_is_transparent_for_bytes(host: RunningHost) -> None:
    payload = os.urandom(3_000_001)
    assert host.run("bob", ["cat"], stdin=payload).raw_out == payload


def test_exec_keeps_stdout_and_stderr_apart_and_half_closes_stdin(host: RunningHost) -> None:
    done = host.run("bob", "wc -c; echo later; echo complaint >&2", stdin="four")
    assert (done.out, done.err) == ("4\nlater\n", "complaint\n")


@pytest.mark.parametrize(("user", "uid"), [("root", 0), ("alice", 1001)])
def test_exec_is_a_login_session(host: RunningHost, user: str, uid: int) -> None:
    done = host.run(user, "grep ^0:: /proc/self/cgroup; loginctl show-session $XDG_SESSION_ID -p Name -p Class; pwd")
    cgroup, *session, folder = done.out.splitlines()
    assert cgroup.startswith(f"0::/user.slice/user-{uid}.slice/session-")
    assert set(session) == {f"Name={user}", "Class=user"}
    assert folder == ("/root" if user == "root" else f"/home/{user}")


def test_exec_has_the_environment_of_a_login(host: RunningHost) -> None:
    lines = host.run("carol", ["env"]).out.splitlines()
    env = dict(line.split("=", 1) for line in lines)
    assert env["HOME"] == "/home/carol"
    assert env["USER"] == env["LOGNAME"] == "carol"
    assert env["XDG_RUNTIME_DIR"] == "/run/user/1003"
    assert "/usr/local/bin" in env["PATH"].split(":")
    assert not {"INVOCATION_ID", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "DS01_CACHE"} & set(env)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_exec_ends_the_command(host: RunningHost, number: signal.Signals) -> None:
    line = "echo $$; exec sleep 1000"
    argv = [sys.executable, "-P", str(TESTHOST), "exec", "--name", host.name, "--user", "alice", "--", "sh", "-c", line]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    assert host.root(["test", "-d", f"/proc/{pid}"], check=False).status == 1


def test_tty_gives_a_terminal(host: RunningHost) -> None:
    script = "tty; read line; echo got-$line; exit 9"
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["exec", "--name", host.name, "--user", "alice", "--tty", "--", "sh", "-c", script]
        os.execv(sys.executable, [sys.executable, "-P", str(TESTHOST), *words])
    said = _read_until(terminal, b"/dev/pts/")
    os.write(terminal, b"hello\n")
    said += _read_until(terminal, b"got-hello")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 9, said


def _read_until(terminal: int, wanted: bytes) -> bytes:
    said = b""
    while wanted not in said:
        said += os.read(terminal, 4096)
    return said


def test_copy_goes_both_ways(host: RunningHost, tmp_path: Path) -> None:
    (tmp_path / "folder/sub").mkdir(parents=True)
    (tmp_path / "folder/sub/file").write_bytes(b"\0content")
    (tmp_path / "folder/sub/file").chmod(0o750)
    command("copy", "--name", host.name, str(tmp_path / "folder"), "/tmp/copied")
    command("copy", "--name", host.name, ":/tmp/copied/sub/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"\0content"
    assert host.root(["stat", "-c", "%a %U", "/tmp/copied/sub/file"]).out == "750 root\n"
    host.root(["rm", "-r", "/tmp/copied"])


def test_copy_does_not_follow_a_link_out_of_the_host(host: RunningHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inside")
    host.root(["sh", "-c", f"mkdir -p /tmp/trap {tmp_path}; ln -s {tmp_path} /tmp/trap/out"])
    assert command("copy", "--name", host.name, str(tmp_path / "file"), "/tmp/trap/out/written").returncode == 0
    assert not (tmp_path / "written").exists()
    assert host.read(f"{tmp_path}/written") == "inside"
    host.root(["rm", "-r", "/tmp/trap", str(tmp_path)])


def test_the_usual_people_and_images_are_there(host: RunningHost) -> None:
    groups = {name: set(host.root(["id", "-Gn", name]).out.split()) for name in ("mallory", "rita", "ada")}
    assert groups == {
        "mallory": {"mallory", "docker", "student"},
        "rita": {"rita", "docker", "researcher"},
        "ada": {"ada", "docker", "ds01-admin"},
    }
    engine = ["env", "DOCKER_HOST=unix:///run/ds01-engine/engine.sock", "docker"]
    images = host.root([*engine, "images", "--format", "{{.Repository}}"]).out.split()
    assert {"busybox", "debian", "cuda"} <= set(images)
    python = [*engine, "run", "--rm", "--network=none", "debian", "python3", "-c", "import json, socket; print(1)"]
    assert host.root(python).out == "1\n"
    label = host.root([*engine, "image", "inspect", "cuda", "--format", "{{json .Config.Labels}}{{.Config.Env}}"]).out
    assert '"ds01.protected":"true"' in label
    assert "NVIDIA_VISIBLE_DEVICES=all" in label


def test_the_host_knows_its_own_name(host: RunningHost) -> None:
    done = host.run("ada", "sudo -n id -u; hostname; getent hosts $(hostname)")
    assert done.out.split() == ["0", host.name, "127.0.1.1", host.name]
    assert done.err == ""


def test_homes_are_private(host: RunningHost) -> None:
    assert host.root(["stat", "-c", "%a", "/home/alice"]).out == "700\n"
    assert host.run("bob", ["ls", "/home/alice"], check=False).status != 0


def test_gpu_changes_reach_a_running_reader(host: RunningHost) -> None:
    host.gpu("set", "2", "util=85")
    assert "util=85" in host.read("/run/fakegpu/topology")
    host.gpu("set", "2", "util=0")


def test_journal_has_both_namespaces(host: RunningHost) -> None:
    done = command("journal", "--name", host.name, "--boot", "-o", "json", "-n", "2000", "-u", "ds01-*")
    units = {json.loads(line).get("_SYSTEMD_UNIT") for line in done.stdout.splitlines()}
    assert "ds01-boot.service" in units


def test_status_names_the_host(host: RunningHost) -> None:
    rows = json.loads(command("status").stdout)
    assert {"name": host.name, "phase": "up"}.items() <= next(row for row in rows if row["name"] == host.name).items()


def test_power_cut_loses_what_was_not_synced(fresh_host: FreshHost) -> None:
    cut = fresh_host()
    before = cut.read("/run/fakegpu/topology")
    boot = cut.state.boot
    cut.root("echo kept >/var/lib/kept && sync /var/lib/kept && mkdir /home/alice/kept && sync -f /home/alice/kept")
    cut.root("echo lost >/var/lib/lost; echo lost >/etc/lost; echo lost >/home/alice/lost")
    cut.cut_power()
    assert cut.state.boot == boot + 1
    assert cut.root("cat /var/lib/kept; ls -d /home/alice/kept").out == "kept\n/home/alice/kept\n"
    assert cut.root("cat /var/lib/lost /etc/lost /home/alice/lost", check=False).out == ""
    after = cut.read("/run/fakegpu/topology")
    assert _mig_uuids(after).isdisjoint(_mig_uuids(before))
    assert len(_mig_uuids(after)) == 6


def _mig_uuids(topology: str) -> set[str]:
    return {word for line in topology.splitlines() for word in line.split() if word.startswith("uuid=MIG-")}


def test_clean_reboot_keeps_everything(fresh_host: FreshHost) -> None:
    rebooted = fresh_host()
    rebooted.root("echo kept >/var/lib/unsynced; echo kept >/etc/unsynced")
    rebooted.reboot()
    assert rebooted.root("cat /var/lib/unsynced /etc/unsynced").out == "kept\nkept\n"


def test_own_users_replace_the_usual_ones(fresh_host: FreshHost, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("zoe:student,docker,chess  # plays\n\nyan:\n")
    other = fresh_host("--users", str(tmp_path / "users"), "--gpus", "none")
    assert set(other.run("zoe", ["id", "-Gn"]).out.split()) == {"zoe", "docker", "student", "chess"}
    assert other.run("yan", ["id", "-Gn"]).out == "yan\n"
    assert other.root(["id", "alice"], check=False).status != 0


def test_two_hosts_know_nothing_of_each_other(host: RunningHost, fresh_host: FreshHost) -> None:
    other = fresh_host("--gpus", "full")
    other.root("echo other >/var/lib/which")
    assert host.root(["cat", "/var/lib/which"], check=False).status == 1
    assert "gpu index=1" not in other.read("/run/fakegpu/topology")
    assert "gpu index=3" in host.read("/run/fakegpu/topology")


def test_a_name_is_taken_once(host: RunningHost) -> None:
    done = command("up", "--name", host.name)
    assert done.returncode != 0
    assert f"'{host.name}' is up already".encode() in done.stderr


@pytest.mark.parametrize("name", ["", "../x", "A", "-x", "a" * 33])
def test_a_bad_name_is_refused(name: str) -> None:
    done = command("exec", f"--name={name}", "--", "true")
    assert done.returncode != 0
    assert b"is no name for a host" in done.stderr


def test_a_host_that_is_not_up_says_what_to_do() -> None:
    done = command("exec", "--name", "nobody-made-this", "--", "true")
    assert b"'testhost up --name nobody-made-this' makes one" in done.stderr


def test_down_leaves_nothing(fresh_host: FreshHost) -> None:
    gone = fresh_host("--gpus", "none")
    gone.start("alice", ["sleep", "1000"])
    state, places = gone.state, host_places(gone.name)
    assert command("down", "--name", gone.name).returncode == 0
    _assert_nothing_is_left(gone.name, state.supervisor, state.leader, places.disk_image)


def test_down_clears_up_after_a_supervisor_that_was_killed(fresh_host: FreshHost) -> None:
    orphan = fresh_host("--gpus", "none")
    state, places = orphan.state, host_places(orphan.name)
    os.kill(state.supervisor, signal.SIGKILL)
    assert command("down", "--name", orphan.name).returncode == 0
    _assert_nothing_is_left(orphan.name, state.supervisor, state.leader, places.disk_image)


def _assert_nothing_is_left(name: str, supervisor: int, leader: int, disk: Path) -> None:
    assert name not in hosts.names()
    for pid in (supervisor, leader):
        status = Path(f"/proc/{pid}/status")
        assert not status.exists() or "State:\tZ" in status.read_text()
    assert not mounts.is_attached(disk)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{host_places(name).cgroup}"))
    assert name not in Path("/proc/self/mountinfo").read_text()


def test_an_interrupted_up_leaves_nothing(host: RunningHost) -> None:
    name = f"{host.name}-interrupted"
    argv = [sys.executable, "-P", str(TESTHOST), "up", "--name", name]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"booting host" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert process.returncode != 0
    assert name not in hosts.names()
    assert not mounts.is_attached(host_places(name).disk_image)


def test_users_file_is_checked_line_by_line() -> None:
    assert world.parse_users("a:b,c\n# no\n d:\n") == (world.User("a", ("b", "c")), world.User("d", ()))
    with pytest.raises(HostError, match="line 2 of the users file, 'x y:z'"):
        world.parse_users("a:b\nx y:z\n")


def test_a_half_made_stage_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "IMAGES", tmp_path)
    made: list[str] = []

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise HostError("no network")

    def work(folder: Path) -> None:
        made.append(folder.name)
        (folder / "whole").touch()

    with pytest.raises(HostError):
        stages.ensure(stages.Stage("thing", "key", "making a thing", fail))
    whole = stages.Stage("thing", "key", "making a thing", work)
    assert [path.name for path in stages.ensure(whole).iterdir()] == ["whole"]
    stages.ensure(whole)
    assert len(made) == 1


def test_old_stages_go_unless_somebody_stands_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "IMAGES", tmp_path)
    versions = [stages.Stage("thing", f"key{number}", "making", lambda folder: None) for number in range(5)]
    for age, stage in enumerate(versions):
        os.utime(stages.ensure(stage), (1000 + age, 1000 + age))
    stages.prune(versions[-1], {f"{versions[0].folder}/root"})
    assert {path.name for path in tmp_path.glob("thing-*")} == {"thing-key0", "thing-key3", "thing-key4"}
