"""`ds01 policy`: check, show, explain and compare the rules, and take over the predecessor's.

The wiring of these commands: reads files, accounts and Docker; policy_view.py says how it looks. What is not needed
for --help is imported where it is used.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds01.cli import notices, render
from ds01.cli.docker_api import request
from ds01.cli.exits import CommandError, Exit, end

if TYPE_CHECKING:
    from ds01.common.policy.build import Built
    from ds01.common.policy.diff import Change, Compiled
    from ds01.common.policy.kinds import Machine
    from ds01.common.policy.read import Draft
    from ds01.common.policy.tree import Files, Node, Problem

_FOLDER, _FILE_NAME, _PUBLISHED = "/etc/ds01", "resource-limits.yaml", "/run/ds01/policy.json"
_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
_machine_option = click.option(
    "--machine", "on", metavar="CPUS,MEMORY", default="", help="Judge for another machine, such as 128,1TiB."
)


@click.group()
def policy() -> None:
    """The rules of this machine: who may have what, and why.

    \b
    Examples:
      ds01 policy show
      ds01 policy explain alice memory
      ds01 policy check
    """


@policy.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_machine_option
@_json_option
def check(file: Path | None, on: str, as_json: bool) -> None:
    """Say what is wrong in FILE, or in the file of this machine. Nothing is changed.

    Lists of members are read from a folder 'groups' beside it. Exit status 78 if anything is wrong.

    \b
    Examples:
      ds01 policy check
      ds01 policy check new.yaml --machine 128,1TiB
    """
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import read_compiled
    from ds01.common.policy.folder import read_one

    files = read_one(file or _policy_file())
    built = _build(files, _machine(on))
    if built.compiled is None:
        _tell_problems(built.problems, as_json)
    counts = view.counts(read_compiled(built.text))
    idle = view.not_held(_draft(files)[0])
    if as_json:
        click.echo(json.dumps({"good": True, "problems": [], **counts, "not_held": idle}, indent=2))
        return
    click.echo(
        f"'{files.path}' is good: {counts['groups']} groups, {counts['members']} listed members,"
        f" {counts['overrides']} user overrides"
    )
    if idle:
        click.echo(f"note: read, but nothing in this version makes it hold: {', '.join(idle)}", err=True)


@policy.command()
@click.argument("user", required=False)
@click.option("--machine", "of_machine", is_flag=True, help="What holds for the machine as a whole.")
@_json_option
def show(user: str | None, of_machine: bool, as_json: bool) -> None:
    """Show every value that holds for USER, or for you, and where it comes from.

    \b
    Examples:
      ds01 policy show
      ds01 policy show alice
      ds01 policy show --machine
    """
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import values_in

    compiled = _published()
    if of_machine:
        head, notes, values = {"machine": True}, [], dict(compiled.machine)
        first = "What holds for the machine as a whole"
    else:
        uid, name, unix_groups = _account(user)
        group, why = view.why_in(compiled.policy, name, unix_groups)
        notes, values = notices.shrinking(uid, time.time()), values_in(compiled, group, name)
        head = {"user": name, "uid": uid, "group": group, "why": why, "notices": notes}
        first = f"'{name}' is in group '{group}', {why}"
    if as_json:
        click.echo(json.dumps({**head, "values": view.values_json(values)}, indent=2))
        return
    parts = view.value_parts(values)
    lines = [*(f"note: {sentence}" for sentence in notes), first, "", render.sections(parts)]
    if any(row[0].endswith("*") for _, rows in parts for row in rows):
        lines += ["", "* nothing in this version makes it hold yet"]
    click.echo("\n".join(lines))


@policy.command()
@click.argument("user")
@click.argument("key")
@_json_option
def explain(user: str, key: str, as_json: bool) -> None:
    """Say why KEY has the value it has for USER, and how to change it for him alone.

    \b
    Examples:
      ds01 policy explain alice memory
      ds01 policy explain alice aggregate.memory_max
    """
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import values_in
    from ds01.common.policy.keys import BY_NAME
    from ds01.common.policy.kinds import Machine

    compiled = _published()
    _, user, unix_groups = _account(user)
    group, why = view.why_in(compiled.policy, user, unix_groups)
    values = {**compiled.machine, **values_in(compiled, group, user)}
    try:
        name = view.find_key(key, values)
    except CommandError as error:
        end(error)
    field, has = view.field_of(name), compiled.policy.machine
    said, known = values[field], BY_NAME.get(name)
    draft = _draft_in_force()
    steps = view.chain(name, draft, group, user, Machine(has.has_cpus, has.has_memory_bytes, has.has_tasks)) if draft else []
    if steps and steps[-1].value != said.value:
        click.echo(f"note: '{_policy_file()}' says otherwise, and is not in force: see 'ds01 policy check'", err=True)
        steps = []
    held_by = known.held_by if known else "docker_shim"
    if as_json:
        layers = [{"layer": s.layer, "shown": view.shown(field, s.value), "where": s.where} for s in steps]
        told = {"user": user, "group": group, "why": why, "key": name, "value": said.value, "origin": said.origin}
        more = {"shown": view.shown(field, said.value), "held_by": held_by, "layers": layers}
        click.echo(json.dumps({**told, **more}, indent=2))
        return
