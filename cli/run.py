"""`ds01 run`: becomes a command that has GPUs of its own. The process that asks is the one that becomes it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ds01.cli import render
from ds01.cli.allocator_api import Pending, down
from ds01.cli.denials import granted
from ds01.cli.exits import CommandError, Exit
from ds01.cli.news import News
from ds01.cli.wait_option import Waits, gpus_option, seconds, wait_option
from ds01.cli.waiting import request_id, wait_for

ANSWER_S = 30.0
"""How long the allocator may take beyond what is waited in the queue."""

MOST_CHARACTERS = 60


@click.command(cls=Waits, context_settings={"allow_interspersed_args": False})
@gpus_option("1")
@wait_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]...")
def run(command: Sequence[str], gpus: str, wait: str | None) -> None:
    """Run COMMAND on this machine, outside a container, with GPUs that nobody else holds.

    They are yours until the command ends; no other GPU can be opened by it. Exit status, signals and the terminal are
    the command's own. 75: no GPU is free now, or in all the time that was waited. 77: your limits do not allow it.
    126, 127: the command can't be run.

    \b
    Examples:
      ds01 run -- python train.py
      ds01 run --gpus 2g.10gb --wait=2h -- python train.py
      ds01 run --gpus 0 -- make -j8
    """
    path = _found(command[0])
    grant = _leased(command[0], gpus, wait)
    _become(path, command, {**os.environ, **environment(grant)})


def environment(grant: Mapping[str, Any]) -> dict[str, str]:
    """What a command with this grant finds in its environment. No GPU is said as an empty list."""
    uuids = ",".join(unit["uuid"] for unit in grant["units"] if unit["uuid"])
    return {
        "CUDA_VISIBLE_DEVICES": uuids,
        "NVIDIA_VISIBLE_DEVICES": uuids,
        "DS01_LEASE": grant["lease"],
        "DS01_GPU": ",".join(unit["name"] for unit in grant["units"]),
    }


def _leased(command: str, gpus: str, wait: str | None) -> dict[str, Any]:
    """The grant, waited for; told to whom it belongs."""
    name = "".join(char for char in os.path.basename(command) if char.isprintable())[:MOST_CHARACTERS]
    request, wait_s, news = request_id(), seconds(wait), News()
    parameters = {"request_id": request, "command": name or "command", "gpus": gpus, "wait_s": wait_s}
    try:
        answer = wait_for(lambda: Pending("Run", parameters), request, news, wait_s + ANSWER_S)
    except OSError as exc:
        raise down(exc) from exc
    except KeyboardInterrupt as exc:
        raise CommandError(Exit.INTERRUPTED, "you left the queue" if news.waited else "given up") from exc
    finally:
        news.end()
    grant = granted(answer)
    _tell(grant, news)
    return grant


def _tell(grant: Mapping[str, Any], news: News) -> None:
    for warning in grant["warnings"]:
        click.echo(f"note: {render.printable(warning)}", err=True)
    if grant["units"] and sys.stderr.isatty():
        units = ", ".join(render.unit_text(unit) for unit in grant["units"])
        verb = "is" if len(grant["units"]) == 1 else "are"
        after = f"; it came free after {render.duration(news.waited_s)}" if news.waited else ""
        click.echo(f"GPU {units} {verb} yours until the command ends{after}", err=True)


def _found(command: str) -> str:
    """Where the command is, as a shell looks for it."""
    path = shutil.which(command)
    if path is not None:
        return path
    folders = [""] if os.path.dirname(command) else os.get_exec_path()
    for candidate in (os.path.join(folder, command) for folder in folders):
        if os.path.exists(candidate):
            raise _cannot(candidate, OSError(errno.EISDIR if os.path.isdir(candidate) else errno.EACCES, ""))
    raise _cannot(command, OSError(errno.ENOENT, ""))


def _become(path: str, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Never comes back. What Python ignores is as it was, or a pipe that nobody reads would not end the command."""
    sys.stdout.flush()
    sys.stderr.flush()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(path, list(command), dict(env))
    except OSError as exc:
        if exc.errno != errno.ENOEXEC:
            raise _cannot(path, exc) from exc
    # A script without a first line that names its interpreter: execvp(3) gives it to the shell.
    os.execve("/bin/sh", ["sh", path, *command[1:]], dict(env))


def _cannot(command: str, exc: OSError) -> CommandError:
    shown = render.printable(command)
    match exc.errno:
        case errno.ENOENT if os.path.exists(command):
            return CommandError(Exit.NO_COMMAND, f"'{shown}' can't be run: the interpreter that it names is not there")
        case errno.ENOENT:
            return CommandError(Exit.NO_COMMAND, f"there is no command '{shown}'")
        case errno.EISDIR:
            return CommandError(Exit.NOT_EXECUTABLE, f"'{shown}' is a folder and no command")
        case errno.EACCES:
            return CommandError(
                Exit.NOT_EXECUTABLE, f"'{shown}' is not executable", f"'chmod +x {shown}', or name its interpreter"
            )
        case _:
            return CommandError(Exit.NOT_EXECUTABLE, f"'{shown}' can't be run: {exc.strerror}")
