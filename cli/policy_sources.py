"""What the policy commands look at: files, accounts, the rules in force, Docker. The commands' wiring.

Whatever can't be read is a CommandError.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ds01.cli import render
from ds01.cli.docker_api import request
from ds01.cli.exits import CommandError, Exit
from ds01.cli.policy_changes import Running, running_changes
from ds01.common.adapters.yamltree import read_tree
from ds01.common.errors import PeerRefused, PolicyInvalid
from ds01.common.machine import read_machine
from ds01.common.peer import account
from ds01.common.policy.build import Built, build
from ds01.common.policy.diff import Compiled, compare_user, read_compiled
from ds01.common.policy.folder import FILE_NAME, FOLDER, GROUPS, read_one
from ds01.common.policy.kinds import Machine
from ds01.common.policy.migrate import Old, migrate
from ds01.common.policy.read import Draft, Name, read, read_members
from ds01.common.policy.tree import Files, Node, Place, Problem, Unread
from ds01.common.policyfile import POLICY_FILE
from ds01.common.quantity import parse_count, parse_size
from ds01.common.sizes import LABEL, parse_asked


def policy_file() -> Path:
    """The file that an administrator edits."""
    return Path(os.environ.get("DS01_POLICY_FOLDER", FOLDER)) / FILE_NAME


def files_of(file: str | None = None) -> Files:
    """FILE, or the one of this machine, with the lists of members beside it."""
    found = read_one(Path(file) if file else policy_file())
    if file and isinstance(found.yaml, Unread):
        raise CommandError(Exit.NO_SUCH, f"'{file}' {found.yaml.why}")
    return found


def compiled_from(files: Files, machine: Machine) -> Built:
    """As the daemon compiles them, or what it would say."""
    return build(files, read_tree, machine)


def draft_of(files: Files) -> Draft:
    """What a file says, layer by layer; nothing where it can't be read."""
    return read(read_tree(files.path, _yaml(files))[0], files.path)[0]


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
    try:
        return read_compiled(path.read_text(encoding="utf-8"))
    except (OSError, PolicyInvalid, ValueError) as exc:
        why = f"can't be read: {exc.strerror}" if isinstance(exc, OSError) else f"can't be used: {exc}"
        hint = "administrators see 'systemctl status ds01-limits-sync'"
        raise CommandError(Exit.DOWN, f"the rules in force, '{path}', {why}", hint) from exc


def own(compiled: Compiled) -> tuple[Draft | None, tuple[Problem, ...]]:
    """What this machine's file says, None where that can't be read, and the mistakes in what the caller can read."""
    files = files_of()
    if isinstance(files.yaml, Unread):
        return None, ()
    readable = {group: found for group, found in files.members.items() if isinstance(found[1], bytes)}
    return draft_of(files), compiled_from(replace(files, members=readable), machine_of(compiled)).problems


def account_of(user: str | None) -> tuple[int, str, frozenset[str]]:
    """Uid, name and Unix groups of `user`; of the caller for None."""
    try:
        uid = os.getuid() if user is None else pwd.getpwnam(user).pw_uid
        return uid, *account(uid)
    except (KeyError, PeerRefused) as exc:
        who = user or os.getuid()
        raise CommandError(Exit.NO_SUCH, f"there is no account '{who}'", f"'getent passwd {who}' finds none") from exc


def strangers(files: Files, draft: Draft) -> list[Name]:
    """Whom the files name and this machine has no account of, each where he stands first."""
    named = [name for group in draft.groups.values() for name in group.members]
    named += [name for names in _members(files)[0].values() for name in names]
    named += [Name(user, place) for user, (place, _) in draft.users.items()]
    named += [Name(one.user, one.place) for one in draft.exemptions]
    first = {name.text: name for name in sorted(named, key=lambda name: name.place, reverse=True)}
    return sorted((name for name in first.values() if not _exists(name.text)), key=lambda name: name.place)


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
    users = {*old.names, *new.names, *(user for name in unix for user in _users_in(name))}
    return {user: account_of(user)[2] if _exists(user) else frozenset() for user in users}


def running(old: Compiled, new: Compiled) -> tuple[list[Running], str]:
    """What changes on running containers, the caller's or for an administrator all; and why that is unknown."""
    try:
        found = [_running(item, old, new) for item in request("GET", "/containers/json") or []]
    except CommandError as error:
        return [], error.message
    return [one for one in found if one.changes], ""


def migrated(file: str, machine: Machine, name: str) -> tuple[str, list[str], tuple[Problem, ...]]:
    """The predecessor's files as the text of a file `name`, notes, and what is wrong in it; a file of ours as it is."""
    files, folder = files_of(file), Path(file).parent
    members, wrong = _members(files)
    trees: list[Node | None] = []
    for path in (Path(file), folder / "user-overrides.yaml", folder / "lifecycle-exemptions.yaml"):
        tree, found = read_tree(str(path), _yaml(files_of(str(path)))) if path.exists() else (None, [])
        trees.append(tree)
        wrong += found
    if wrong:
        raise CommandError(Exit.BAD_CONFIG, "\n".join(map(str, wrong)))
    made = migrate(Old(trees[0], trees[1], trees[2], members))
    if made.is_ours or not (any(trees[1:]) or compiled_from(files, machine).problems):
        return _yaml(files).decode(), [f"'{file}' is in today's format already: nothing to carry over"], ()
    problems = compiled_from(Files(name, made.text.encode(), {}), machine).problems
    return made.text, [str(note) for note in made.notes], problems


def write_new(path: str, text: str) -> None:
    """A file that was not there."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise CommandError(Exit.TAKEN, f"'{path}' can't be written: {exc.strerror}", "choose another name") from exc


def _running(item: Mapping[str, Any], old: Compiled, new: Compiled) -> Running:
    labels, name = item.get("Labels") or {}, render.short_name(item["Names"][0].removeprefix("/"))
    try:
        user, unix_groups = account(int(labels["ds01.uid"]))
    except (KeyError, ValueError, PeerRefused):
        return Running(name, item["Id"], "", ())
    was, becomes = (compiled.policy.limits_for(user, unix_groups) for compiled in (old, new))
    change = compare_user(old, new, user, unix_groups)
    return Running(name, item["Id"], user, running_changes(change, was, becomes, parse_asked(labels.get(LABEL, ""))))


def _exists(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def _users_in(unix_group: str) -> set[str]:
    try:
        found = grp.getgrnam(unix_group)
    except KeyError:
        return set()
    return {*found.gr_mem, *(one.pw_name for one in pwd.getpwall() if one.pw_gid == found.gr_gid)}


def _members(files: Files) -> tuple[dict[str, tuple[Name, ...]], list[Problem]]:
    """The names in the lists of members by group, and what is wrong there."""
    found, problems = {}, []
    for group, (path, content) in files.members.items():
        names, wrong = read_members(path, content if isinstance(content, bytes) else b"")
        found[group] = tuple(names)
        problems += [Problem(Place(path), "", content.why)] if isinstance(content, Unread) else wrong
    return found, problems


def _yaml(files: Files) -> bytes:
    return files.yaml if isinstance(files.yaml, bytes) else b""
