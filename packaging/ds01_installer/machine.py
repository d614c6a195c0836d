"""Every command that the installer runs, and what it reads from the machine: versions, containers, users.

Nothing here decides anything.
"""

from __future__ import annotations

import grp
import os
import platform
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ds01_installer import plan
from ds01_installer.plan import Version

_VERSION_COMMANDS = {
    "systemd": ("systemctl", "--version"),
    "docker": ("dockerd", "--version"),
    "runc": ("runc", "--version"),
    "nvidia-container-toolkit": ("nvidia-ctk", "--version"),
}


class CommandFailed(Exception):
    """A command ended with an error: its words, and what it said."""


def run(*words: str) -> str:
    """Runs a command and returns what it printed.

    Raises:
        CommandFailed: it is missing or its status is not 0.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise CommandFailed(f"'{words[0]}' is not installed") from exc
    if done.returncode != 0:
        raise CommandFailed(f"'{' '.join(words)}' failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout


def try_run(*words: str) -> str | None:
    """Like `run`, None when the command fails or is missing."""
    try:
        return run(*words)
    except CommandFailed:
        return None


def versions() -> dict[str, Version | None]:
    """The versions of everything that has a minimum; what is absent is None."""
    found = {name: _version(command) for name, command in _VERSION_COMMANDS.items()}
    return {
        "kernel": plan.parse_version(platform.release()),
        "python": plan.parse_version(platform.python_version()),
        **found,
    }


def _version(command: Sequence[str]) -> Version | None:
    text = try_run(*command)
    return plan.parse_version(text) if text is not None else None


def other_shortfalls() -> tuple[str, ...]:
    """What the machine lacks besides versions."""
    tests = (
        (Path("/run/systemd/system").is_dir(), "systemd is not running this machine: it must be PID 1"),
        (
            Path("/sys/fs/cgroup/cgroup.controllers").is_file(),
            "the cgroup hierarchy is not unified: boot with systemd.unified_cgroup_hierarchy=1",
        ),
        (_has_ensurepip(), "python can't make virtual environments: install the package 'python3-venv'"),
        (has_group("docker"), "the group 'docker' does not exist: it decides who reaches the Docker socket"),
        (
            not _engine_options(),
            "/etc/default/docker sets DOCKER_OPTS, which would contradict daemon.json: move its settings there",
        ),
    )
    return tuple(sentence for met, sentence in tests if not met)


def _has_ensurepip() -> bool:
    try:
        import ensurepip  # noqa: F401  Debian ships it in a package of its own
    except ImportError:
        return False
    return True


def has_user(name: str) -> bool:
    """Whether a user of this name is in the local files or any other source of NSS."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def has_group(name: str) -> bool:
    """Whether a group of this name exists."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def used_ids() -> set[int]:
    """The ids of all users and groups that NSS lists."""
    return {user.pw_uid for user in pwd.getpwall()} | {group.gr_gid for group in grp.getgrall()}


def _engine_options() -> str:
    try:
        lines = Path("/etc/default/docker").read_text().splitlines()
    except FileNotFoundError:
        return ""
    values = [line.partition("=")[2].strip().strip("\"'") for line in lines if line.lstrip().startswith("DOCKER_OPTS=")]
    return values[-1] if values else ""


def _engine(*words: str) -> tuple[str, ...]:
    """The docker client's words, sent to the engine itself where it has a socket of its own already."""
    socket = plan.ENGINE_SOCKET if Path(plan.ENGINE_SOCKET).exists() else "/run/docker.sock"
    return ("docker", "-H", f"unix://{socket}", *words)


def containers() -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """(running, not running) containers as 'name (image)'; None when the engine does not answer."""
    text = try_run(*_engine("ps", "--all", "--format", "{{.State}}\t{{.Names}} ({{.Image}})"))
    if text is None:
        return None
    rows = [line.partition("\t") for line in text.splitlines()]
    up = tuple(sorted(name for state, _, name in rows if state in ("running", "paused", "restarting")))
    down = tuple(sorted(name for _, _, name in rows if name not in up))
    return up, down


def stop_containers() -> None:
    """Stops every running container, with the engine's own grace."""
    ids = run(*_engine("ps", "--quiet")).split()
    if ids:
        run(*_engine("stop", *ids))


def user_slices() -> tuple[str, ...]:
    """The slices of everybody who is logged in now, except root's."""
    text = run("systemctl", "list-units", "--plain", "--no-legend", "--state=active", "user-*.slice")
    return tuple(unit for unit in (line.split()[0] for line in text.splitlines()) if unit != "user-0.slice")


def is_active(unit: str) -> bool:
    """Whether systemd calls the unit active."""
    return try_run("systemctl", "is-active", "--quiet", unit) is not None


def exists(program: str) -> bool:
    """Whether a program is on the path."""
    return shutil.which(program) is not None


def is_root() -> bool:
    """Whether this process may do it at all."""
    return os.geteuid() == 0
