"""`ds01 policy`: check, show, explain and compare the rules, and take over the predecessor's.

Each command: parse, ask policy_sources.py for what is there, let policy_view.py or policy_changes.py tell it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NoReturn

import click

from ds01.cli import notices
from ds01.cli import policy_changes as changed
from ds01.cli import policy_sources as sources
from ds01.cli import policy_view as view
from ds01.cli.exits import CommandError, Exit
from ds01.common.policy.diff import compare, read_compiled, values_in
from ds01.common.policy.tree import Problem

_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
_machine_option = click.option(
    "--machine", "on", metavar="CPUS,MEMORY", default="", help="Judge for another machine, such as 128,1TiB."
)
_COUNTED = {"groups": "group", "members": "listed member", "overrides": "user override"}


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
@click.argument("file", type=click.Path(), required=False)
@_machine_option
@_json_option
def check(file: str | None, on: str, as_json: bool) -> None:
    """Say what is wrong in FILE, or in the file of this machine. Nothing is changed.

    Lists of members are read from a folder 'groups' beside it. Notes on stderr are no mistakes.

    \b
    Exit status:
      0   all is right
      66  there is no such FILE
      78  there are mistakes in it

    \b
    Examples:
      ds01 policy check
      ds01 policy check new.yaml --machine 128,1TiB
    """
    files = sources.files_of(file)
    built, draft = sources.compiled_from(files, sources.machine(on)), sources.draft_of(files)
    now = datetime.now().astimezone()
    idle, strangers, over = view.not_held(draft), sources.strangers(files, draft), view.over(draft, now)
    _note(*view.check_notes(idle, strangers, over))
    notes = {"not_held": idle, "no_account": strangers, "exemptions_over": over}
    if built.compiled is None:
        _tell_problems(built.problems, as_json=as_json, **notes)
    counts = view.counts(built.compiled)
    said = ", ".join(view.counted(counts[what], word) for what, word in _COUNTED.items())
    _tell({"good": True, "problems": [], **counts, **notes}, [f"'{files.path}' is good: {said}"], as_json=as_json)


@policy.command()
@click.argument("user", required=False)
@click.option("--machine", "of_machine", is_flag=True, help="What holds for the machine as a whole.")
@click.option("--all", "everything", is_flag=True, help="Also what nothing in this version makes hold.")
@_json_option
def show(user: str | None, of_machine: bool, everything: bool, as_json: bool) -> None:
    """Show every value that holds for USER, or for you, and where it comes from.

    \b
    Examples:
      ds01 policy show
      ds01 policy show alice --all
      ds01 policy show --machine
    """
    if user and of_machine:
        raise click.UsageError("write a USER or --machine, not both")
    compiled = sources.published()
    _note(*view.mistakes(sources.own(compiled)[1]))
    head: dict[str, Any] = {}
    if of_machine:
        values, lines = compiled.machine, ["What holds for the machine as a whole"]
    else:
        uid, name, unix_groups = sources.account_of(user)
        group, why = view.why_in(compiled.policy, name, unix_groups)
        shrinking = notices.shrinking(uid, time.time())
        exempt = [one for one in compiled.policy.exemptions if one.user == name]
        values = values_in(compiled, group, name)
        head = {"user": name, "uid": uid, "group": group, "why": why, "exemptions": exempt, "notices": shrinking}
        lines = [*(f"note: {notice}" for notice in shrinking), f"'{name}' is in group '{group}': {why}"]
        lines += [f"exempt {view.exempt_text(one)}, which nothing in this version heeds" for one in exempt]
    lines += ["", *view.value_lines(values, everything=everything)]
    _tell({**head, "values": view.values_json(values)}, lines, as_json=as_json)


@policy.command()
@click.argument("user")
@click.argument("key")
@_json_option
def explain(user: str, key: str, as_json: bool) -> None:
    """Say why KEY has the value it has for USER, and how to change it for that user alone.

    \b
    Examples:
      ds01 policy explain alice memory
      ds01 policy explain alice aggregate.memory_max
    """
    compiled = sources.published()
    _, user, unix_groups = sources.account_of(user)
    group, why = view.why_in(compiled.policy, user, unix_groups)
    values = {**values_in(compiled, group, user), **compiled.machine}
    meant = view.find_key(key, values)
    said, file, (draft, problems) = values[meant.field], sources.policy_file(), sources.own(compiled)
    holds = None if problems else draft
    steps, is_whole = view.steps_of(meant, said, holds, group, user, sources.machine_of(compiled))
    _note(*view.mistakes(problems))
    if not is_whole:
        doubt = "has mistakes" if problems else "says otherwise, and is not in force" if draft else "can't be read"
        _note(f"only the layer that holds is told: '{file}' {doubt}")
    layers = [{**view.plain(step), **view.measured(meant, step.value)} for step in steps]
    head = {"user": user, "group": group, "why": why, "key": meant.name}
    lines = view.explained_lines(meant, said, steps, user, f"'{user}' is in group '{group}', {why}", str(file))
    _tell({**head, **view.values_json({meant.field: said})[meant.name], "layers": layers}, lines, as_json=as_json)


@policy.command()
@click.argument("file", type=click.Path())
@_json_option
def diff(file: str, as_json: bool) -> None:
    """Say what would change, and for whom, if FILE took the place of the rules in force.

    Nothing is changed. Exit status as of 'ds01 policy check'.

    \b
    Examples:
      ds01 policy diff new.yaml
      ds01 policy diff /etc/ds01/resource-limits.yaml
    """
    old = sources.published()
    files, borrowed = sources.files_to_compare(file)
    built = sources.compiled_from(files, sources.machine_of(old))
    if borrowed:
        _note(f"the lists of members are those in '{borrowed}'")
    if built.compiled is None:
        _tell_problems(built.problems, as_json=as_json)
    new = read_compiled(built.text)
    accounts = sources.known_accounts(old, new)
    found = compare(old, new, accounts)
    running, doubt = sources.running(old, new)
    if doubt:
        _note(f"which running containers it concerns is unknown: {doubt}")
    lines = [*changed.difference_lines(found, new.policy, accounts), *changed.running_lines(running)]
    _tell(changed.difference_json(found, running), lines or ["Nothing changes for anybody."], as_json=as_json)


@policy.command()
@click.argument("old", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write here, to a new file, not on the screen.")
@_machine_option
def migrate(old: str, output: str | None, on: str) -> None:
    """Write the predecessor's file OLD in our words, and say what can't be carried and why.

    user-overrides.yaml, lifecycle-exemptions.yaml and groups/*.members are read from beside it. A line that was changed
    has a comment. A file that is in our words already stays as it is. Exit status 78 if the result is not good yet, as
    'ds01 policy check' would say.

    \b
    Examples:
      ds01 policy migrate /opt/old/resource-limits.yaml -o new.yaml
      ds01 policy migrate /opt/old/resource-limits.yaml --machine 128,1TiB > new.yaml
    """
    text, notes, problems = sources.migrated(old, sources.machine(on), output or "result")
    if output is not None:
        sources.write_new(output, text)
    for told in (*notes, *problems):
        click.echo(str(told), err=True)
    if output is None:
        click.echo(text, nl=False)
    if problems:
        raise CommandError(Exit.BAD_CONFIG, "the result is not good yet", "correct the lines told last, then check it")


def _note(*notes: str) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _tell(data: object, lines: Iterable[str], *, as_json: bool) -> None:
    click.echo(json.dumps(data, indent=2, default=view.plain) if as_json else "\n".join(lines))


def _tell_problems(problems: tuple[Problem, ...], *, as_json: bool, **more: object) -> NoReturn:
    """Tell them and leave."""
    _tell({"good": False, "problems": problems, **more}, map(str, problems), as_json=as_json)
    sys.exit(Exit.BAD_CONFIG)
