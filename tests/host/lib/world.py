"""Who lives on the host and which GPUs it has: the users file, and how both get into a root that is not running."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lib.model import Plan
from lib.places import HostError
from lib.talk import run

FIRST_UID = 1001
GPU_SPEC = Path("etc/fakegpu/site")
DEFAULT_USERS = """\
alice:student,docker
bob:student,docker
carol:student,docker
mallory:student,docker
rita:researcher,docker
ada:ds01-admin,docker
"""

_WORD = re.compile(r"[a-z_][a-z0-9_.@-]{0,30}")


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...]


def parse_users(text: str) -> tuple[User, ...]:
    """The users of a file with one `name:group,group` a line; empty lines and `#` comments don't count.

    Raises:
        HostError: a line is none of these, with its number.
    """
    lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))
    return tuple(_parse_user(number, line) for number, line in lines if line)


def _parse_user(number: int, line: str) -> User:
    name, _, rest = line.partition(":")
    groups = tuple(group for group in rest.split(",") if group)
    if not all(_WORD.fullmatch(word) for word in (name, *groups)):
        raise HostError(f"line {number} of the users file, '{line}', is not 'name:group,group'")
    return User(name, groups)


def add_users(root: Path, users: Iterable[User]) -> None:
    """Makes accounts, groups and homes (0700) with uids from 1001 on."""
    script = ["set -e"]
    for uid, user in enumerate(users, FIRST_UID):
        script += [f"getent group {group} >/dev/null || groupadd --system {group}" for group in user.groups]
        groups = f"--groups={','.join(user.groups)}" if user.groups else ""
        home = "--create-home --key HOME_MODE=0700 --shell=/bin/bash"
        script.append(f"useradd --uid={uid} --user-group {home} {groups} {user.name}")
    run(["chroot", root, "sh", "-s"], stdin="\n".join(script))


def remove_users(root: Path, users: Iterable[User]) -> None:
    """Removes accounts and homes."""
    script = ["set -e", *(f"userdel --remove {user.name} 2>/dev/null" for user in users)]
    run(["chroot", root, "sh", "-s"], stdin="\n".join(script))


def prepare(root: Path, plan: Plan) -> None:
    """Makes a mounted root ready for its first boot as the plan says."""
    site = root / GPU_SPEC
    site.parent.mkdir(parents=True, exist_ok=True)
    site.write_text(plan.gpus + "\n")
    (root / "etc/hostname").write_text(f"{plan.name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {plan.name}\n::1 localhost\n")
    if plan.users:
        remove_users(root, parse_users(DEFAULT_USERS))
        add_users(root, parse_users(plan.users))
