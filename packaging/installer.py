#!/usr/bin/env python3
"""Installs DS01 on this machine, checks it, or takes it off again. Run as root: install | uninstall | check."""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # the checkout is somebody's, and we are root

from ds01_installer import install, machine, plan
from ds01_installer.files import Tree
from ds01_installer.machine import CommandFailed
from ds01_installer.plan import PlanError
from ds01_installer.talk import Refused, Talk
from ds01_installer.uninstall import uninstall

CHECKOUT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Parses the command line and runs one of the three; the exit status is from the table in sysexits.h."""
    arguments = _parser().parse_args()
    # Files carry explicit modes; the environment's programs and packages follow the umask.
    os.umask(0o022)
    talk = Talk()
    try:
        if arguments.command == "check":
            return check(talk)
        if not machine.is_root():
            raise Refused("only root can do this: use sudo", status=77)
        _change(arguments, talk)
    except Refused as exc:
        print(f"ds01: {exc}", file=sys.stderr)
        return exc.status
    except (PlanError, CommandFailed, OSError, ValueError) as exc:
        print(
            f"ds01: the step '{talk.current}' failed: {exc}\n"
            "ds01: what was there before is kept; correct the cause and run the same command again,"
            " or `make uninstall` to go back",
            file=sys.stderr,
        )
        return 70
    talk.step("done")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="installer.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("install", "install or upgrade"), ("uninstall", "put back what was there")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--stop-containers", action="store_true", help="stop running containers that get hidden")
        if name == "install":
            command.add_argument("--wheels", type=Path, help="folder of wheels, no network (or DS01_WHEELS)")
        else:
            command.add_argument("--purge", action="store_true", help="remove the ledger and /etc/ds01 too")
    commands.add_parser("check", help="compare the machine with the minimums and with what was installed")
    return parser


def _change(arguments: argparse.Namespace, talk: Talk) -> None:
    tree = Tree(Path("/"))
    if arguments.command == "uninstall":
        uninstall(tree, talk, purge=arguments.purge, may_stop_containers=arguments.stop_containers)
        return
    wheels = arguments.wheels or (Path(os.environ["DS01_WHEELS"]) if os.environ.get("DS01_WHEELS") else None)
    install.install(tree, install.Wish(CHECKOUT, wheels, arguments.stop_containers), talk)


def check(talk: Talk) -> int:
    """Prints each version beside its minimum, and every installed file that is no longer as it was installed."""
    found = machine.versions()
    for minimum in plan.MINIMUMS:
        version = found[minimum.name]
        have = plan.dotted(version) if version else "absent"
        print(f"{minimum.name:26} {have:12} needs {plan.dotted(minimum.version)}")
    install.check_machine()
    if not machine.is_root():
        return 0
    edited = Tree(Path("/")).edited()
    for path in edited:
        print(f"{path} is not as it was installed: `make install` writes it again")
    return 78 if edited else 0


if __name__ == "__main__":
    sys.exit(main())
