"""What the policy commands look at: files, accounts, the rules in force, Docker. The commands' wiring.

Imported when a command needs it. Whatever can't be read is a CommandError.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ds01.cli import policy_view as view
from ds01.cli import render
from ds01.cli.docker_api import request
from ds01.cli.exits import CommandError, Exit
from ds01.common.adapters.yamltree import read_tree
from ds01.common.errors import PeerRefused, PolicyInvalid
from ds01.common.machine import read_machine
from ds01.common.peer import account
from ds01.common.policy.build import Built, build
from ds01.common.policy.diff import Compiled, compare_user, named_users, read_compiled
from ds01.common.policy.folder import FILE_NAME, FOLDER, GROUPS, read_one
from ds01.common.policy.kinds import Machine
from ds01.common.policy.migrate import Old
from ds01.common.policy.read import Draft, read, read_members
from ds01.common.policy.tree import Content, Files, Node, Problem, Unread
from ds01.common.policyfile import POLICY_FILE
from ds01.common.quantity import parse_count, parse_size
from ds01.common.sizes import LABEL, parse_asked


def policy_file() -> Path:
    """The file that an administrator edits."""
    return Path(os.environ.get("DS01_POLICY_FOLDER", FOLDER)) / FILE_NAME


def files_of(file: str | None = None) -> Files:
    """FILE, or the one of this machine, with the lists of members beside it."""
    return read_one(Path(file) if file else policy_file())


def compiled_from(files: Files, machine: Machine) -> Built:
    """As the daemon compiles them, or what it would say."""
    return build(files, read_tree, machine)


def draft_of(files: Files) -> Draft | None:
    """What a file says, layer by layer; None where it can't be read."""
    return read(read_tree(files.path, files.yaml)[0], files.path)[0] if isinstance(files.yaml, bytes) else None


def only(path: str, text: str) -> Files:
    """One file with no lists of members beside it."""
    return Files(path, text.encode(), {})


def machine(text: str) -> Machine:
    """This machine, or the one that `text` describes."""
    if not text:
        return read_machine()
    cpus, _, memory = (part.strip() for part in text.partition(","))
    try:
        size, count = parse_size(memory), parse_count(cpus)
        if not isinstance(size, int) or not size or not count:
            raise ValueError("a part of nothing")
    except ValueError as exc:
        hint = "write its CPUs and memory, such as --machine 128,1TiB"
        raise CommandError(Exit.USAGE, f"'{text}' is no machine: {exc}", hint) from exc
    # As the kernel and systemd set threads-max and pid_max: an eighth of the memory for stacks of 16 KiB, 2^22 at most.
    return Machine(count, size, min(size // (8 * 16384), 2**22))


def machine_of(compiled: Compiled) -> Machine:
    """The machine that a policy was compiled for."""
    has = compiled.policy.machine
    return Machine(has.has_cpus, has.has_memory_bytes, has.has_tasks)


def published() -> Compiled:
    """The rules in force."""
    path = Path(os.environ.get("DS01_POLICY_FILE", POLICY_FILE))
    hint = "administrators see 'systemctl status ds01-limits-sync'"
    try:
        return read_compiled(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise CommandError(Exit.DOWN, f"the rules in force, '{path}', can't be read: {exc.strerror}", hint) from exc
    except (PolicyInvalid, ValueError) as exc:
        raise CommandError(Exit.DOWN, f"the rules in force, '{path}', can't be used: {exc}", hint) from exc


def account_of(user: str | None) -> tuple[int, str, frozenset[str]]:
    """Uid, name and Unix groups of `user`; of the caller for None."""
    try:
        uid = os.getuid() if user is None else pwd.getpwnam(user).pw_uid
        return uid, *account(uid)
    except (KeyError, PeerRefused) as exc:
        who = user or os.getuid()
        raise CommandError(Exit.NO_SUCH, f"there is no account '{who}'", f"'getent passwd {who}' finds none") from exc


def files_to_compare(file: str) -> tuple[Files, str]:
    """FILE with the lists of members beside it; without any, those in force, and where these are."""
    files = files_of(file)
    if files.members or (Path(file).parent / GROUPS).is_dir():
        return files, ""
    here = policy_file()
    members = read_one(here).members
    return replace(files, members=members), str(here.parent / GROUPS) if members else ""


def known_accounts(old: Compiled, new: Compiled) -> dict[str, frozenset[str]]:
    """The Unix groups of everybody whom a policy names, and of whoever NSS lists in a Unix group that it names."""
    unix = {name for one in (old, new) for group in one.policy.groups.values() for name in group.unix_groups}
    found = {}
    for user in {*named_users(old), *named_users(new), *(user for name in unix for user in _members_of(name))}:
        try:
            found[user] = account(pwd.getpwnam(user).pw_uid)[1]
        except (KeyError, PeerRefused):
            found[user] = frozenset()
    return found


def _members_of(unix_group: str) -> set[str]:
    try:
        found = grp.getgrnam(unix_group)
    except KeyError:
        return set()
    return {*found.gr_mem, *(one.pw_name for one in pwd.getpwall() if one.pw_gid == found.gr_gid)}


def running(old: Compiled, new: Compiled) -> tuple[list[dict[str, Any]], str]:
    """What changes on running containers, the caller's or for an administrator all; and why that is unknown."""
    try:
        found = [(item, _changes_of(item, old, new)) for item in request("GET", "/containers/json") or []]
    except CommandError as error:
        return [], error.message
    rows = (
        {"name": render.short_name(item["Names"][0].removeprefix("/")), "id": item["Id"], **changed}
        for item, changed in found
    )
    return [row for row in rows if row["changes"]], ""


def _changes_of(item: Mapping[str, Any], old: Compiled, new: Compiled) -> dict[str, Any]:
    labels = item.get("Labels") or {}
    try:
        user, unix_groups = account(int(labels["ds01.uid"]))
    except (KeyError, ValueError, PeerRefused):
        return {"user": "", "changes": []}
    was, becomes = (compiled.policy.limits_for(user, unix_groups) for compiled in (old, new))
    change = compare_user(old, new, user, unix_groups)
    touched = view.running_changes(change, was, becomes, parse_asked(labels.get(LABEL, "")))
    return {"user": user, "changes": [f"{view.name_of(one.field)} {view.change_text(one)}" for one in touched]}


def read_predecessor(file: str) -> Old:
    """The predecessor's file and those beside it."""
    path = Path(file)
    overrides, exemptions = (path.parent / f"{name}.yaml" for name in ("user-overrides", "lifecycle-exemptions"))
    members = {}
    for group, (name, content) in read_one(path).members.items():
        names, wrong = read_members(name, _bytes(name, content))
        _refuse(wrong)
        members[group] = tuple(names)
    beside = [_tree(other) if other.exists() else None for other in (overrides, exemptions)]
    return Old(_tree(path), beside[0], beside[1], members)


def _tree(path: Path) -> Node | None:
    tree, wrong = read_tree(str(path), _bytes(str(path), read_one(path).yaml))
    _refuse(wrong)
    return tree


def _bytes(file: str, content: Content) -> bytes:
    if isinstance(content, Unread):
        raise CommandError(Exit.NO_SUCH, f"'{file}' {content.why}")
    return content


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise CommandError(Exit.BAD_CONFIG, "\n".join(map(str, problems)))


def write_new(path: str, text: str) -> None:
    """A file that was not there."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise CommandError(Exit.TAKEN, f"'{path}' can't be written: {exc.strerror}", "choose another name") from exc
