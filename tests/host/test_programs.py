"""GPUs without a container, on the real host: programs in their scopes, and GPUs that are opened to login sessions."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator

import pytest
from lib.people import (
    DAEMONS,
    ENGINE,
    OPENABLE,
    SLEEP,
    belongings,
    docker_run,
    end_programs,
    eventually,
    inspect,
    leaks,
    leases,
    ledger,
    overview,
    set_policy,
    unit_nodes,
    wipe,
)
from lib.running import RunningHost, Session

RESTARTS = "Main process exited|Failed with result|Scheduled restart|killed|signal"
INTRUDED = "computes on GPU"
TROUBLE = "is given to nobody"
KILLED = "Failed with result 'signal'"

LIMITS = "MemoryMax,TasksMax,CPUQuotaPerSecUSec,RuntimeMaxUSec,TimeoutStopUSec"
SCOPE = "grep -o 'ds01-l[0-9a-f]*.scope' /proc/self/cgroup"
CGROUP = "sed -n 's/^0:://p' /proc/self/cgroup"

CALLER = """
    import json, os, socket, sys, time
    def connect():
        s = socket.socket(socket.AF_UNIX); s.connect("/run/ds01/allocator.sock"); return s
    def run(s, request, command="x", gpus="1"):
        parameters = {"request_id": f"request-{request}", "command": command, "gpus": gpus, "wait_s": 0.0}
        said = b""
        try: s.sendall(json.dumps({"method": "io.ds01.Allocator.Run", "parameters": parameters}).encode() + b"\\0")
        except BrokenPipeError: pass  # refused already, and why is there to be read
        try:
            while not said.endswith(b"\\0"):
                said += s.recv(65536) or b'{"error": "closed"}\\0'
        except OSError as exc:
            return {"error": str(exc)}
        return json.loads(said[:-1])
    def place(pid="self"):
        return next(line for line in open(f"/proc/{pid}/cgroup") if line.startswith("0::")).strip()
    """
"""The beginning of a program that speaks to the allocator by itself."""


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    host.root("for user in alice bob mallory; do pkill -KILL -u $user -x sleep; done", check=False)
    end_programs(host)
    wipe(host)


def python(text: str) -> list[str]:
    """A program for the host's Python that can call Run."""
    return ["python3", "-c", textwrap.dedent(CALLER) + textwrap.dedent(text)]


def start(host: RunningHost, user: str, *argv: str, gpus: str = "1") -> Session:
    """A program that holds GPUs when this returns."""
    before = len(leases(host, user=user))
    session = host.start(user, ["ds01", "run", "--gpus", gpus, "--", *argv])
    eventually(lambda: len(leases(host, user=user)) > before, f"{user}'s program has its GPU")
    return session


def refused(host: RunningHost, user: str, *options: str) -> tuple[int, str]:
    """The exit status and the words of a `ds01 run` that gets nothing."""
    told = host.run(user, ["ds01", "run", *options, "--", "true"], check=False)
    return told.status, told.err


def properties(host: RunningHost, unit: str, names: str) -> dict[str, str]:
    """Properties of a unit."""
    shown = host.root(["systemctl", "show", unit, "-p", names]).out
    return dict(line.split("=", 1) for line in shown.splitlines())


def processes(host: RunningHost, user: str) -> list[int]:
    """The user's processes that sleep."""
    found = host.root(["pgrep", "-u", user, "-x", "sleep"], check=False)
    return [int(pid) for pid in found.out.split()]


def look(host: RunningHost) -> None:
    """A program ended: the allocator looks at scopes and processes, as it does by itself every ten seconds."""
    host.run("rita", ["ds01", "run", "--gpus", "full", "true"])
    eventually(lambda: not leases(host, user="rita"), "rita's program is over", 5)


# --- a program in its scope ---


def test_a_program_has_its_slice_its_limits_and_exactly_its_nodes(host: RunningHost) -> None:
    docker_run(host, "alice", "like", "--gpus", "device=0:1")
    script = f"{CGROUP}; echo $DS01_GPU $CUDA_VISIBLE_DEVICES; systemctl show $({SCOPE}) -p DevicePolicy,{LIMITS};"
    told = host.run("alice", ["ds01", "run", "--", "sh", "-c", f"{script} {OPENABLE}"]).out.splitlines()
    assert told[0].startswith("/ds01.slice/ds01-student.slice/ds01-student-alice.slice/ds01-l")
    unit, uuid = told[1].split()
    assert unit == "1:0", "the GPU that is used less"
    topology = json.loads(host.root(["fakegpu", "status", "--json"]).out)
    assert uuid == next(one["uuid"] for one in topology["instances"] if one["gpu"] == 1)
    scope = dict(line.split("=", 1) for line in told if "=" in line)
    assert scope.pop("DevicePolicy") == "closed"
    assert scope == properties(host, f"docker-{inspect(host, 'like')['Id']}.scope", LIMITS)
    assert {line for line in told if line.startswith("/dev/")} == unit_nodes(host, "1:0")


def test_a_program_without_gpus_has_the_slice_and_opens_none(host: RunningHost) -> None:
    """The answer to Run comes when the process is in its scope, not a moment before."""
    script = f"{CGROUP}; echo [$CUDA_VISIBLE_DEVICES]; {OPENABLE}"
    for _ in range(3):
        told = host.run("alice", ["ds01", "run", "--gpus", "0", "--", "sh", "-c", script]).out.splitlines()
        assert told[0].startswith("/ds01.slice/ds01-student.slice/ds01-student-alice.slice/ds01-l")
        assert told[1:] == ["[]"]
    assert leases(host) == []


def test_it_is_the_command_that_was_meant(host: RunningHost) -> None:
    """Exit status, bytes, signals and the terminal are the command's own."""
    script = """
        run='ds01 run --gpus 0 --'
        $run sh -c 'exit 37'; echo status $?
        $run sh -c 'kill -KILL $$'; echo status $?
        $run no-such-command; echo status $?
        $run /etc; echo status $?
        head -c 1000000 /dev/urandom >bytes; $run cat <bytes | cmp - bytes; echo same $?
        script -qec "$run tty" /dev/null | tr -d '\\r' | tail -1
        """
    told = host.run("alice", textwrap.dedent(script)).out.splitlines()
    assert told[:5] == ["status 37", "status 137", "status 127", "status 126", "same 0"]
    assert told[5].endswith(tuple("0123456789"))
    assert "/dev/pts/" in told[5]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_ends_it_and_its_unit_is_free_at_once(host: RunningHost, name: str) -> None:
    script = f"""
        import signal
        signal.signal(signal.SIG{name}, lambda *_: (print("got it"), sys.exit(3)))
        print("ready", flush=True); signal.pause()
        """
    session = start(host, "alice", *python(script))
    assert session.stdout is not None
    assert session.stdout.readline() == b"ready\n"
    session.end(name)
    out, _ = session.communicate(timeout=10)
    assert out == b"got it\n"
    eventually(lambda: not leases(host), "the unit is free", 3)


def test_what_one_may_ask_for(host: RunningHost) -> None:
    status, said = refused(host, "alice", "--gpus", "full")
    assert status == 77
    assert "whole GPU" in said
    assert refused(host, "alice", "--gpus", "3")[0] == 77
    assert refused(host, "alice", "--gpus", "7g.80gb")[0] == 2
    show = "echo $DS01_GPU"
    for user, gpus, got in (("alice", "0:2", "0:2"), ("alice", "2g.10gb", "0:0"), ("rita", "full", "2")):
        assert host.run(user, ["ds01", "run", "--gpus", gpus, "--", "sh", "-c", show]).out.strip() == got
        eventually(lambda: not leases(host), "the unit is free", 3)
    nodes = host.run("rita", ["ds01", "run", "--gpus", "full", "--", "sh", "-c", OPENABLE]).out.split()
    assert len(set(nodes) - unit_nodes(host)) == 1


def test_containers_and_programs_count_together(host: RunningHost) -> None:
    docker_run(host, "alice", "one", "--gpus", "1")
    start(host, "alice", *SLEEP)
    status, said = refused(host, "alice")
    assert status == 77
    assert "2 of 2 MIG instances" in said
    told = host.run("alice", ["docker", "run", "--gpus", "1", "busybox", "true"], check=False)
    assert "2 of 2 MIG instances" in told.err
    assert [lease[2] for lease in leases(host)] == ["container", "host"]


# --- what escapes, and what can't be told ---


@pytest.mark.expect_warnings(INTRUDED, KILLED)
@pytest.mark.parametrize("wrapper", ["systemd-run --user --scope --quiet", "setsid"])
def test_what_escapes_keeps_the_unit(host: RunningHost, wrapper: str) -> None:
    """TRAPS 15: a scope of the user's own manager, or a process of another session in the same scope."""
    line = f"{wrapper} sleep infinity >/dev/null 2>&1 & echo $DS01_GPU; read end"
    session = host.start("alice", ["ds01", "run", "--", "sh", "-c", line])
    assert session.stdout is not None
    unit = session.stdout.readline().decode().strip()
    eventually(lambda: processes(host, "alice"), "it has escaped")
    (pid,) = processes(host, "alice")
    host.gpu("process", unit, str(pid), "100")
    session.communicate(b"end\n", timeout=10)
    look(host)
    ((name, _, _, state),) = leases(host)
    assert name == unit
    assert state == ("draining" if wrapper.startswith("systemd-run") else "active")
    assert refused(host, "bob", "--gpus", unit)[0] == 75
    host.root(["kill", "-KILL", str(pid)])
    look(host)
    eventually(lambda: not leases(host), "the unit is free", 4)


@pytest.mark.expect_warnings(TROUBLE, KILLED)
def test_a_gpu_that_cannot_be_read_is_not_free(host: RunningHost) -> None:
    session = start(host, "alice", *SLEEP)
    host.gpu("lost", "0")
    session.end("KILL")
    look(host)
    eventually(lambda: leases(host) == [("0:0", "alice", "host", "draining")], "it begins to end", 4)
    look(host)
    assert leases(host) == [("0:0", "alice", "host", "draining")]
    host.gpu("ok", "0")
    eventually(lambda: not held_after_look(host), "the unit is free once its GPU can be read", 10)


def held_after_look(host: RunningHost) -> list[tuple[str, str, str, str]]:
    """Leases after another look at GPUs and processes."""
    overview(host)
    look(host)
    return leases(host)


@pytest.mark.expect_warnings(INTRUDED, KILLED)
def test_a_process_without_a_lease_is_told_once_and_its_unit_given_to_nobody(host: RunningHost) -> None:
    since = time.time()
    session = host.start("mallory", ["sleep", "infinity"])
    eventually(lambda: processes(host, "mallory"), "mallory's process runs")
    host.gpu("process", "0:0", str(processes(host, "mallory")[0]), "100")
    look(host)
    look(host)
    told = [entry["MESSAGE"] for entry in host.journal(since_s=since) if INTRUDED in entry.get("MESSAGE", "")]
    assert len(told) == 1
    assert "mallory" in told[0]
    assert "0:0" in told[0]
    assert refused(host, "alice", "--gpus", "0:0")[0] == 75
    assert next(unit["state"] for unit in overview(host)["units"] if unit["name"] == "0:0") == "withheld"
    session.end("KILL")
    session.communicate(timeout=10)
    look(host)
    host.run("alice", ["ds01", "run", "--gpus", "0:0", "true"])


# --- daemons and the machine die ---


@pytest.mark.expect_warnings(RESTARTS)
def test_programs_outlive_the_allocator(host: RunningHost) -> None:
    stays, ends = start(host, "alice", *SLEEP), start(host, "bob", *SLEEP)
    host.root(["systemctl", "kill", "-s", "KILL", "ds01-gpu-allocator.service"])
    both = [("0:0", "alice", "host", "active"), ("1:0", "bob", "host", "active")]
    assert overview(host)["units"]
    assert leases(host) == both
    host.root("systemctl stop ds01-gpu-allocator.socket ds01-gpu-allocator.service")
    ends.end("KILL")
    ends.communicate(timeout=10)
    assert leases(host) == both, "nobody was there to see it"
    host.root("systemctl start ds01-gpu-allocator.socket ds01-gpu-allocator.service")
    eventually(lambda: leases(host) == both[:1], "what ended meanwhile is free", 5)
    assert processes(host, "alice")
    assert stays.poll() is None


@pytest.mark.expect_warnings(RESTARTS)
def test_a_reboot_ends_programs_and_keeps_grants(host: RunningHost) -> None:
    start(host, "alice", *SLEEP)
    grant(host, "bob", "--gpus", "0:1", "--until", "1h")
    before = grants(host)
    host.reboot()
    eventually(lambda: [lease[:2] for lease in leases(host)] == [("0:1", "bob")], "programs are over", 15)
    assert grants(host) == before
    eventually(lambda: opens(host, "bob") == unit_nodes(host, "0:1"), "it is open again, by the nodes of this boot")
    assert opens(host, "alice") == set()
    assert len(timers(host)) == 1


# --- mallory ---


def test_the_process_that_connected_is_moved_and_no_other(host: RunningHost) -> None:
    script = """
        s = connect()
        child = os.fork()
        if not child:
            answer = run(s, "r-inherited")
            print(json.dumps([answer, place(), place(os.getppid())]), flush=True); os._exit(0)
        os.waitpid(child, 0)
        """
    answer, own, connector = json.loads(host.run("mallory", python(script)).out)
    assert answer["parameters"]["grant"]
    assert own.startswith("0::/user.slice/user-1004.slice/")
    assert connector.startswith("0::/ds01.slice/ds01-student.slice/ds01-student-mallory.slice/")
    eventually(lambda: not leases(host), "the lease ended with it", 3)


def test_a_connection_of_a_process_that_has_ended_moves_nobody(host: RunningHost) -> None:
    script = """
        reader, writer = os.pipe()
        if not (parent := os.fork()):
            s = connect(); time.sleep(0.2)  # the allocator has seen who it is
            if os.fork():
                os._exit(0)
            time.sleep(0.3)
            os.write(writer, json.dumps([run(s, "r-ended"), place()]).encode()); os._exit(0)
        os.waitpid(parent, 0)
        print(os.read(reader, 65536).decode())
        """
    answer, own = json.loads(host.run("mallory", python(script)).out)
    assert "error" in answer
    assert own.startswith("0::/user.slice/user-1004.slice/")
    eventually(lambda: not leases(host), "nothing is held for nobody", 3)
    assert host.root("systemctl list-units --no-legend 'ds01-l*.scope'").out == ""


def test_another_users_process_is_never_moved(host: RunningHost) -> None:
    """mallory hands her connection to bob, and bob calls on it."""
    give = """
        s = connect(); l = socket.socket(socket.AF_UNIX); l.bind("/tmp/pass"); os.chmod("/tmp/pass", 0o777); l.listen()
        c, _ = l.accept(); socket.send_fds(c, [b"x"], [s.fileno()]); c.recv(1)
        print(place())
        """
    take = """
        c = socket.socket(socket.AF_UNIX); c.connect("/tmp/pass")
        _, (fd,), _, _ = socket.recv_fds(c, 1, 1)
        run(socket.socket(fileno=fd), "r-passed"); print(place()); c.send(b"x")
        """
    giver = host.start("mallory", python(give))
    host.root("for i in $(seq 100); do test -S /tmp/pass && break; sleep 0.05; done")
    taker = host.run("bob", python(take))
    out, _ = giver.communicate(timeout=10)
    host.root("rm -f /tmp/pass")
    assert taker.out.startswith("0::/user.slice/user-1002.slice/")
    assert b"/ds01-student-mallory.slice/" in out


def test_run_from_inside_a_container_is_refused(host: RunningHost) -> None:
    """Even with the socket in it, which no user can arrange."""
    options = "-d --name in --userns=host --cgroup-parent=ds01-student.slice -v /run/ds01:/run/ds01"
    host.root(f"docker -H {ENGINE} run {options} debian sleep infinity")
    told = host.root(["docker", "-H", ENGINE, "exec", "in", *python('print(json.dumps(run(connect(), "r-in")))')])
    assert "PeerRefused" in told.out
    assert leases(host) == []


@pytest.mark.expect_warnings(INTRUDED)
def test_a_scope_by_the_name_of_somebodys_lease_is_nothing(host: RunningHost) -> None:
    start(host, "bob", *SLEEP)
    ((lease,),) = ledger(host, "SELECT id FROM lease WHERE state = 'active'")
    imitation = host.start("mallory", f"systemd-run --user --scope --quiet --unit=ds01-{lease} sleep infinity")
    eventually(lambda: processes(host, "mallory"), "mallory's scope runs")
    host.gpu("process", "0:0", str(processes(host, "mallory")[0]), "100")
    look(host)
    assert ledger(host, "SELECT user FROM record WHERE event = 'gpu.intruded' ORDER BY id DESC LIMIT 1") == [
        ["mallory"]
    ]
    host.root(["pkill", "-u", "bob", "-x", "sleep"])
    look(host)
    eventually(lambda: not leases(host), "bob's lease ends with his own scope", 4)
    host.root(["pkill", "-KILL", "-u", "mallory"])
    imitation.communicate(timeout=10)


def test_a_command_by_an_evil_name_is_shown_harmlessly(host: RunningHost) -> None:
    script = """
        for number, name in enumerate((chr(27) + "[31m" + chr(10) + "x", "y" * 4096)):
            if not os.fork():
                run(connect(), f"r-evil-{number}", name); time.sleep(60)
        time.sleep(60)
        """
    evil = host.start("mallory", python(script))
    eventually(lambda: len(leases(host)) == 2, "both run")
    query = "SELECT container_name FROM lease WHERE uid = 1004 AND state = 'active'"
    names = [name for (name,) in ledger(host, query)]
    assert len(names) == 2
    assert all(name.isprintable() and len(name) <= 60 for name in names)
    shown = host.run("ada", ["ds01", "status"]).out
    assert shown.replace("\n", "").isprintable()
    evil.end("KILL")
    evil.communicate(timeout=10)


def test_twenty_at_once_stay_within_the_quota_and_leak_nothing(host: RunningHost) -> None:
    before = belongings(host)
    line = "for i in $(seq 20); do { ds01 run sleep 2 2>/dev/null; echo $?; } & done; wait"
    session = host.start("mallory", line)
    most = 0
    while session.poll() is None:
        most = max(most, len(leases(host)))
        time.sleep(0.1)
    out, _ = session.communicate()
    statuses = [int(word) for word in out.split()]
    assert len(statuses) == 20
    assert set(statuses) <= {0, 69, 77}
    assert 1 <= most <= 2
    eventually(lambda: not leases(host), "every unit is free", 5)
    assert leaks(before, belongings(host)) == []
    assert host.root("systemctl list-units --no-legend --all 'ds01-l*.scope'").out == ""


def test_programs_count_against_the_processes_of_the_slice(host: RunningHost) -> None:
    """The kernel of this host has no such controller for us; that the number holds is systemd's own test."""
    set_policy(host, {"groups.student.aggregate.tasks_max": 77})
    script = f"{CGROUP}; systemctl show ds01-student-mallory.slice -p TasksMax"
    told = host.run("mallory", ["ds01", "run", "--gpus", "0", "--", "sh", "-c", script]).out.splitlines()
    assert "/ds01-student-mallory.slice/ds01-l" in told[0]
    assert told[1] == "TasksMax=77"


# --- GPUs opened to login sessions ---


def grant(host: RunningHost, user: str, *options: str) -> str:
    """ada opens GPUs to a user's logins; the lease."""
    told = host.run("ada", ["ds01", "grant", user, *options]).out
    return told.partition("--end ")[2].split()[0]


def grants(host: RunningHost) -> list[tuple[str, str, float]]:
    """What is open: lease, user, end."""
    listed = json.loads(host.run("ada", ["ds01", "grant", "--list", "--json"]).out)
    return [(one["lease"], one["user"], one["until"]) for one in listed]


def opens(host: RunningHost, user: str) -> set[str]:
    """The GPU nodes that a new login session of the user can open."""
    return set(host.run(user, OPENABLE).out.split())


def timers(host: RunningHost) -> list[str]:
    """The timers that will close GPUs."""
    return host.root("systemctl list-units --no-legend --plain 'ds01-l*.timer'").out.splitlines()


def allowed(host: RunningHost, uid: int) -> set[str]:
    """The GPU nodes that a login slice may open, by systemd's word: quick."""
    shown = host.root(["systemctl", "show", f"user-{uid}.slice", "-p", "DeviceAllow"]).out
    return {word for line in shown.split("DeviceAllow=") for word in line.split()[:1] if "nvidia" in word}


def test_a_grant_opens_exactly_its_units_to_one_user(host: RunningHost) -> None:
    told = host.run("bob", ["ds01", "grant", "bob", "--until", "1h"], check=False)
    assert told.status == 77
    assert leases(host) == []
    limits = properties(host, "user-1001.slice", "MemoryMax,TasksMax,CPUQuotaPerSecUSec,MemoryHigh,DevicePolicy")
    early = host.start("alice", f"echo here; read now; {OPENABLE}")
    assert early.stdout is not None
    assert early.stdout.readline() == b"here\n"
    lease = grant(host, "alice", "--gpus", "0:1", "--until", "1h")
    grant(host, "carol", "--gpus", "full", "--until", "1h")
    out, _ = early.communicate(b"now\n", timeout=10)
    assert set(out.decode().split()) == unit_nodes(host, "0:1"), "who was logged in before"
    assert opens(host, "alice") == unit_nodes(host, "0:1")
    assert opens(host, "carol") == unit_nodes(host, "2"), "who was not logged in; quotas don't bind an administrator"
    assert opens(host, "bob") == set()
    assert [(one[1], one[2] > time.time() + 3500) for one in grants(host)] == [("alice", True), ("carol", True)]
    status, said = refused(host, "bob", "--gpus", "0:1")
    assert status == 75
    assert "alice" not in said
    assert host.run("ada", ["ds01", "grant", "bob", "--gpus", "0:1", "--until", "1h"], check=False).status == 75
    host.root("systemctl reload ds01-limits-sync.service")
    assert properties(host, "user-1001.slice", ",".join(limits)) == limits
    assert opens(host, "alice") == unit_nodes(host, "0:1")
    host.run("ada", ["ds01", "grant", "--end", lease])
    assert opens(host, "alice") == set()
    assert properties(host, "user-1001.slice", ",".join(limits)) == limits
    look(host)
    eventually(lambda: [one[1] for one in leases(host)] == ["carol"], "her unit is free", 4)
    assert len(timers(host)) == 1


@pytest.mark.expect_warnings(RESTARTS)
def test_systemd_closes_a_grant_when_all_our_daemons_are_stopped(host: RunningHost) -> None:
    grant(host, "alice", "--gpus", "0:1", "--until", "3s")
    names = " ".join(f"{name}.{kind}" for name in DAEMONS for kind in ("socket", "service"))
    session = host.start("alice", f"echo here; read now; {OPENABLE}")
    assert session.stdout is not None
    session.stdout.readline()
    host.root(f"systemctl stop ds01.target {names}")
    assert allowed(host, 1001) == unit_nodes(host, "0:1")
    eventually(lambda: not allowed(host, 1001), "systemd closed it", 6)
    out, _ = session.communicate(b"now\n", timeout=10)
    assert out == b""
    host.root(f"systemctl start ds01.target {names}")
    eventually(lambda: not held_after_look(host), "the lease has ended as well", 15)
    assert opens(host, "alice") == set()


def test_two_grants_of_one_user_end_one_by_one(host: RunningHost) -> None:
    grant(host, "alice", "--gpus", "0:0", "--until", "3s")
    grant(host, "alice", "--gpus", "1:1", "--until", "6s")
    assert opens(host, "alice") == unit_nodes(host, "0:0", "1:1")
    eventually(lambda: allowed(host, 1001) == unit_nodes(host, "1:1"), "the first is closed, the second is not", 5)
    time.sleep(1)
    assert allowed(host, 1001) == unit_nodes(host, "1:1"), "and stays open"
    eventually(lambda: not allowed(host, 1001), "the second is closed", 5)
    look(host)
    eventually(lambda: not leases(host), "both units are free", 4)
    assert timers(host) == []


@pytest.mark.expect_warnings(RESTARTS)
def test_a_grant_keeps_its_end_over_a_restart_of_the_allocator(host: RunningHost) -> None:
    grant(host, "alice", "--gpus", "0:0", "--until", "4s")
    before = grants(host)
    host.root(["systemctl", "kill", "-s", "KILL", "ds01-gpu-allocator.service"])
    assert grants(host) == before
    assert allowed(host, 1001) == unit_nodes(host, "0:0")
    eventually(lambda: not allowed(host, 1001), "it is closed in time", 6)
    look(host)
    eventually(lambda: not leases(host), "and free", 4)


@pytest.mark.expect_warnings(INTRUDED)
def test_a_program_that_has_the_gpu_open_keeps_the_lease(host: RunningHost) -> None:
    session = host.start("alice", ["sleep", "infinity"])
    grant(host, "alice", "--gpus", "0:0", "--until", "3s")
    eventually(lambda: processes(host, "alice"), "it runs")
    host.gpu("process", "0:0", str(processes(host, "alice")[0]), "100")
    eventually(lambda: not allowed(host, 1001), "it is closed in time", 6)
    look(host)
    look(host)
    assert leases(host) == [("0:0", "alice", "login", "draining")]
    assert refused(host, "bob", "--gpus", "0:0")[0] == 75
    session.end("KILL")
    session.communicate(timeout=10)
    look(host)
    eventually(lambda: not leases(host), "it is free", 4)


def test_what_has_just_ended_does_not_count_any_more(host: RunningHost) -> None:
    """One program after the other in a script, each with all that its user may have."""
    script = "for number in 1 2 3 4; do ds01 run --gpus 2 -- true || exit; done"
    assert host.run("alice", ["sh", "-c", script]).status == 0
