"""A host as seen from outside: up, run something in it, pull the plug, down. The client of the supervisor."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lib import model, session
from lib.model import Phase, Plan, Request, State
from lib.places import CACHE, HOSTS, SYSTEMD, TESTHOST, HostError, HostPlaces, host_places

_ANSWER_WITHIN_S = 90.0
_DOWN_WITHIN_S = 30.0
_FLOCK = "hhqqi"  # struct flock of fcntl(2) on 64 bits


def names() -> list[str]:
    """The names of the hosts there are, dead ones included."""
    return sorted(folder.name for folder in HOSTS.iterdir()) if HOSTS.is_dir() else []


def supervisor_of(places: HostPlaces) -> int:
    """The pid of the process that holds the host's lock, 0 when there is none."""
    try:
        with places.lock.open() as lock:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            held, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return 0
    return int(pid) if held != fcntl.F_UNLCK else 0


def is_alive(places: HostPlaces) -> bool:
    """Whether a supervisor runs the host."""
    return supervisor_of(places) != 0


def state_of(name: str) -> State:
    """What a running host says of itself.

    Raises:
        HostError: no such host is up.
    """
    places = host_places(name)
    with contextlib.suppress(FileNotFoundError):
        if is_alive(places):
            return model.parse_state(places.state.read_text())
    raise HostError(f"no host '{name}' is up: 'testhost up --name {name}' makes one")


def trees_in_use() -> set[str]:
    """The image trees that running hosts stand on."""
    found = set()
    for name in names():
        with contextlib.suppress(HostError):
            found.add(state_of(name).tree)
    return found


def up(plan: Plan) -> State:
    """Boots a host and returns when its PID 1 says that the boot is done.

    Raises:
        HostError: it is up already, or did not boot; nothing of it is left then.
    """
    places = host_places(plan.name)
    try:
        with _one_at_a_time():
            if is_alive(places):
                raise _UpAlready(f"a host '{plan.name}' is up already: 'testhost down --name {plan.name}' ends it")
            down(plan.name)
            places.folder.mkdir(parents=True)
            places.plan.write_text(model.dump(plan))
            places.console.touch()
            _wait_until_held(places, _spawn(plan.name))
        return ask(plan.name, Request.WAIT, boot=1)
    except _UpAlready:
        raise
    except BaseException:
        down(plan.name)
        raise


class _UpAlready(HostError):
    """Nothing was made that would have to go."""


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _spawn(name: str) -> subprocess.Popen[bytes]:
    """Starts the supervisor; where systemd manages the machine, in a scope that owns its cgroups."""
    argv = [sys.executable, "-P", str(TESTHOST), "_supervise", name]
    if SYSTEMD.is_dir():
        scope = ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes"]
        argv = [*scope, f"--unit={host_places(name).scope}", "--", *argv]
    with host_places(name).console.open("ab") as console:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)


def _wait_until_held(places: HostPlaces, supervisor: subprocess.Popen[bytes]) -> None:
    """Returns when the supervisor has the lock and listens: it can be spoken to, or ended by its name, from then on."""
    while not places.control.exists():
        with contextlib.suppress(subprocess.TimeoutExpired):
            supervisor.wait(0.01)
            raise HostError(f"the supervisor of '{places.name}' ended:\n{places.console.read_text()}")


def ask(name: str, request: Request, *, boot: int = 0) -> State:
    """Sends a request to the supervisor and returns the state that answers it.

    Raises:
        HostError: the supervisor says so, ends, or is silent for too long.
    """
    places = host_places(name)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_ANSWER_WITHIN_S)
            client.connect(str(places.control))
            client.sendall(json.dumps({"do": request, "boot": boot}).encode() + b"\n")
            line = client.makefile().readline()
    except OSError as exc:
        raise HostError(f"host '{name}' does not answer to '{request}': {exc}") from exc
    if not line:
        raise HostError(f"host '{name}' ended instead of answering to '{request}'")
    answer = model.parse_answer(line)
    if answer.state is None:
        raise HostError(answer.error)
    return answer.state


def down(name: str) -> None:
    """Ends the host and takes away all it left: processes, mounts, loop devices, cgroups, files."""
    places = host_places(name)
    with contextlib.suppress(ProcessLookupError):
        if pid := supervisor_of(places):
            _end(pid)
    if places.folder.exists():
        subprocess.run([sys.executable, "-P", TESTHOST, "_sweep", name], check=True)


def _end(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not select.select([pidfd], [], [], _DOWN_WITHIN_S)[0]:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


def power_off(state: State) -> None:
    """A clean power-off, from inside; returns when the supervisor is gone as well."""
    pidfd = os.pidfd_open(state.supervisor)
    try:
        call(state, ["systemctl", "poweroff"])
        select.select([pidfd], [], [], _DOWN_WITHIN_S)
    finally:
        os.close(pidfd)


def reboot(name: str) -> State:
    """A clean reboot, from inside."""
    state = state_of(name)
    call(state, ["systemctl", "reboot"])
    return ask(name, Request.WAIT, boot=state.boot + 1)


def leader_of(name: str) -> State:
    """The state of a host that is up and not booting just now.

    Raises:
        HostError: there is none, or its boot fails.
    """
    state = state_of(name)
    return state if state.phase is Phase.UP else ask(name, Request.WAIT, boot=state.boot)


def call(state: State, argv: Sequence[str], *, text: str | None = None) -> str:
    """Runs a short command as root in no session, and gives its stdout.

    Raises:
        HostError: it failed, with what it said.
    """
    command = session.enter_argv(state.leader, argv)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise HostError(f"'{' '.join(argv)}' failed with status {done.returncode} on '{state.name}': {done.stderr}")
    return done.stdout


def save_journal(state: State, file: Path) -> None:
    """Writes the host's journal of this boot, our namespace included, to a file outside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    show = ["journalctl", "--no-pager", "--boot", "--namespace=+ds01", "--output=short-precise"]
    with file.open("wb") as out:
        subprocess.run(session.enter_argv(state.leader, show), stdout=out, stderr=subprocess.STDOUT, check=False)


def new_unit() -> str:
    """A name for the unit of one exec."""
    return f"testhost-exec-{os.urandom(6).hex()}.service"


def execute(state: State, user: str, argv: Sequence[str], *, tty: bool) -> int:
    """Runs a command in a session of the user with our stdio; a signal to us ends it. Returns its exit status."""
    unit = new_unit()
    command = session.session_argv(state.leader, user, argv, tty=tty, unit=unit)
    process = subprocess.Popen(command, start_new_session=not tty)

    def forward(number: int, _frame: object) -> None:
        name = signal.Signals(number).name.removeprefix("SIG")
        subprocess.run(session.signal_argv(state.leader, unit, name), check=False, capture_output=True)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    return process.wait()


def describe(name: str) -> dict[str, str | int]:
    """One row of `testhost status`."""
    try:
        state = state_of(name)
    except HostError:
        return {"name": name, "phase": "dead"}
    return {
        "name": name,
        "phase": state.phase,
        "boot": state.boot,
        "gpus": state.gpus,
        "leader": state.leader,
        "supervisor": state.supervisor,
    }
