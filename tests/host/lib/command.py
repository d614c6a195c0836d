"""The command line of testhost: parse, one call, render. stdout is data, stderr is talk."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lib import host, session
from lib.model import DEFAULT_GPUS, Plan, Request
from lib.places import HostError

_USAGE_STATUS, _FAILED = 2, 70


def main(words: Sequence[str]) -> int:
    """Runs one testhost command and returns its exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    if rest and arguments.run is not _journal:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return int(arguments.run(arguments))
    except HostError as exc:
        print(f"testhost: {exc}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testhost", description="Boots real hosts with systemd, Docker and DS01.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--name", default="ds01", help="which host (default: ds01)")
        made.set_defaults(run=run)
        return made

    up = command("up", _up, "Build the image if needed, boot a host, return when every unit of ds01 is active.")
    up.add_argument(
        "--gpus", default=DEFAULT_GPUS, metavar="SPEC", help="per GPU 'full', 'mig', 'NxPROFILE[+…]'; or 'none'"
    )
    up.add_argument(
        "--users", type=Path, metavar="FILE", help="one 'name:group,group' a line instead of the usual users"
    )
    run = command("exec", _exec, "Run a command in a login session; stdio and exit status are the command's.")
    run.add_argument("--user", default="root")
    run.add_argument("--tty", action="store_true", help="give it a terminal")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    copy = command("copy", _copy, "Copy a file or folder into the host; ':PATH' is a path in the host, on either side.")
    copy.add_argument("source")
    copy.add_argument("target")
    gpu = command(
        "gpu",
        _gpu,
        "Change the simulated GPUs: set GPU k=v… | mig GPU LAYOUT | lost GPU | xid GPU N | hang GPU | ok GPU.",
    )
    gpu.add_argument("argv", nargs=argparse.REMAINDER, metavar="CHANGE")
    kill = command("kill", _kill, "Reboot the host and wait until it is back.")
    kill.add_argument("--power", action="store_true", help="pull the plug instead: what was not synced is lost")
    command("status", _status, "List the hosts as JSON.")
    command("journal", _journal, "journalctl of the host, the namespace ds01 included; takes journalctl's options.")
    shell = command("shell", _shell, "A login shell in the host.")
    shell.add_argument("--user", default="root")
    command("down", _down, "End the host and take away all it made.")
    image = command("image", _image, "Build what 'up' boots, and no more.")
    image.set_defaults(name="ds01")
    for internal in ("_supervise", "_sweep"):
        commands.add_parser(internal).add_argument("name")
        commands.choices[internal].set_defaults(run=_internal, which=internal)
    return parser


def _words(arguments: argparse.Namespace) -> list[str]:
    words: list[str] = arguments.argv
    return words[1:] if words[:1] == ["--"] else words


def _up(arguments: argparse.Namespace) -> int:
    from lib import image, ready, talk

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # an end that cleans up
    users = arguments.users.read_text() if arguments.users is not None else ""
    installed = image.ensure()
    plan = Plan(arguments.name, str(installed.tree), str(installed.disk), arguments.gpus, users)
    with talk.step(f"booting host '{plan.name}'"):
        state = host.up(plan)
        try:
            ready.wait_until_active(state)
        except BaseException:
            host.down(plan.name)
            raise
    return 0


def _image(_arguments: argparse.Namespace) -> int:
    from lib import image

    installed = image.ensure()
    print(json.dumps({"tree": str(installed.tree), "disk": str(installed.disk)}))
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    words = _words(arguments)
    if not words:
        print("testhost: exec needs a command: testhost exec --user alice -- id", file=sys.stderr)
        return _USAGE_STATUS
    return host.execute(host.leader_of(arguments.name), arguments.user, words, tty=arguments.tty)


def _copy(arguments: argparse.Namespace) -> int:
    from lib import copying

    copying.copy(host.leader_of(arguments.name), arguments.source, arguments.target)
    return 0


def _gpu(arguments: argparse.Namespace) -> int:
    state = host.leader_of(arguments.name)
    os.execvp("nsenter", session.enter_argv(state.leader, ["/usr/local/sbin/fakegpu", *_words(arguments)]))


def _kill(arguments: argparse.Namespace) -> int:
    from lib import ready

    before = host.leader_of(arguments.name)
    state = host.ask(before.name, Request.POWER) if arguments.power else host.reboot(before.name)
    ready.wait_until_active(state)
    return 0


def _status(_arguments: argparse.Namespace) -> int:
    print(json.dumps([host.describe(name) for name in host.names()], indent=1))
    return 0


def _journal(arguments: argparse.Namespace) -> int:
    state = host.leader_of(arguments.name)
    journalctl = ["/usr/bin/journalctl", "--no-pager", "--namespace=+ds01", *arguments.rest]
    os.execvp("nsenter", session.enter_argv(state.leader, journalctl))


def _shell(arguments: argparse.Namespace) -> int:
    return host.execute(host.leader_of(arguments.name), arguments.user, ["/bin/bash", "--login"], tty=True)


def _down(arguments: argparse.Namespace) -> int:
    host.down(arguments.name)
    return 0


def _internal(arguments: argparse.Namespace) -> int:
    from lib import supervisor

    (supervisor.supervise if arguments.which == "_supervise" else supervisor.sweep)(arguments.name)
    return 0
