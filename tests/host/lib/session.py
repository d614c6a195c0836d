"""How a command gets in: as a login session of a user, made by the host's PID 1, logind and PAM. Builds command lines.

The process is a child of the host's PID 1 with our stdin, stdout and stderr: nothing lies between, bytes and
half-closed pipes are the command's own. pam_systemd moves it into a session scope below user.slice, as for sshd.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

PAM_SERVICE = "testhost"

_NOT_OF_A_LOGIN = (
    "INVOCATION_ID SYSTEMD_EXEC_PID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE XDG_SESSION_TYPE JOURNAL_STREAM"
)
# As sshd does, a shell stands between: it turns the end by a signal into 128 + n, an unknown command into 127.
_SHELL = 'trap : INT TERM HUP; "$@"; exit $?'
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def enter_argv(leader: int, argv: Sequence[str]) -> list[str]:
    """Runs a command in all of the host's namespaces, but in no session and no unit of it."""
    return ["nsenter", f"--target={leader}", "--all", "--", *argv]


def session_argv(leader: int, user: str, argv: Sequence[str], *, tty: bool, unit: str) -> list[str]:
    """Runs a command in a new login session of the user, in his home, and waits for it."""
    return enter_argv(leader, login_argv(user, argv, tty=tty, unit=unit))


def login_argv(user: str, argv: Sequence[str], *, tty: bool, unit: str) -> list[str]:
    """The same, for whoever is inside already."""
    path = _ROOT_PATH if user == "root" else _PATH
    options = [
        "--quiet",
        "--wait",
        "--collect",
        "--pty" if tty else "--pipe",
        "--expand-environment=no",
        f"--unit={unit}",
        "--description=testhost exec",
        f"--uid={user}",
        f"--property=PAMName={PAM_SERVICE}",
        "--property=WorkingDirectory=~",
        f"--property=UnsetEnvironment={_NOT_OF_A_LOGIN}",
        "--property=IgnoreSIGPIPE=no",
        f"--setenv=PATH={path}",
    ]
    if tty:
        options += ["--background=", f"--setenv=TERM={os.environ.get('TERM', 'dumb')}"]
    run = ["/usr/bin/env", "SYSTEMD_ADJUST_TERMINAL_TITLE=0", "/usr/bin/systemd-run", *options]
    return [*run, "--", "/bin/sh", "-c", _SHELL, "sh", *argv]


def signal_argv(leader: int, unit: str, signal_name: str) -> list[str]:
    """Sends a signal to the command of a session, and to what it started in its own process group."""
    return enter_argv(leader, kill_argv(unit, signal_name))


def kill_argv(unit: str, signal_name: str) -> list[str]:
    """The same, for whoever is inside already."""
    script = 'pid=$(systemctl show --property=MainPID --value "$1"); [ "$pid" -gt 1 ] && kill -s "$2" -- "-$pid"'
    return ["/bin/sh", "-c", script, "sh", unit, signal_name]
