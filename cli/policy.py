"""`ds01 policy`: check, show, explain and compare the rules, and take over the predecessor's.

Each command: parse, ask policy_sources.py for what is there, let policy_view.py tell it. Both are imported where they
are used, since --help needs neither.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ds01.cli import notices, render
from ds01.cli.exits import CommandError, Exit, end

if TYPE_CHECKING:
    from ds01.common.policy.tree import Problem

_json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
_machine_option = click.option(
    "--machine", "on", metavar="CPUS,MEMORY", default="", help="Judge for another machine, such as 128,1TiB."
)
_COUNTED = {"groups": "group", "members": "listed member", "overrides": "user override"}


class _Group(click.Group):
    """Tells what made a command fail."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            end(error)


@click.group(cls=_Group)
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

    Lists of members are read from a folder 'groups' beside it. Exit status 78 if anything is wrong.

    \b
    Examples:
      ds01 policy check
      ds01 policy check new.yaml --machine 128,1TiB
    """
    from ds01.cli import policy_sources as sources
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import read_compiled

    files = sources.files_of(file)
    built = sources.compiled_from(files, sources.machine(on))
    if built.compiled is None:
        _tell_problems(built.problems, as_json=as_json)
    counts, draft = view.counts(read_compiled(built.text)), sources.draft_of(files)
    idle = view.not_held(draft) if draft else []
    if as_json:
        click.echo(json.dumps({"good": True, "problems": [], **counts, "not_held": idle}, indent=2))
    else:
        groups, members, overrides = (view.counted(counts[what], word) for what, word in _COUNTED.items())
        click.echo(f"'{files.path}' is good: {groups}, {members}, {overrides}")
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
    from ds01.cli import policy_sources as sources
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import values_in

    if user and of_machine:
        raise click.UsageError("write a USER or --machine, not both")
    compiled = sources.published()
    head: dict[str, Any] = {}
    if of_machine:
        values, lines = compiled.machine, ["What holds for the machine as a whole"]
    else:
        uid, name, unix_groups = sources.account_of(user)
        group, why = view.why_in(compiled.policy, name, unix_groups)
        notes, exempt = notices.shrinking(uid, time.time()), view.exemption_texts(compiled.policy, name)
        values = values_in(compiled, group, name)
        head = {"user": name, "uid": uid, "group": group, "why": why, "exemptions": exempt, "notices": notes}
        lines = [*(f"note: {note}" for note in notes), f"'{name}' is in group '{group}': {why}", *exempt]
    if as_json:
        click.echo(json.dumps({**head, "values": view.values_json(values)}, indent=2))
    else:
        click.echo("\n".join([*lines, "", *view.value_lines(values)]))


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
    from dataclasses import asdict

    from ds01.cli import policy_sources as sources
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import values_in

    compiled = sources.published()
    _, user, unix_groups = sources.account_of(user)
    group, why = view.why_in(compiled.policy, user, unix_groups)
    values = {**compiled.machine, **values_in(compiled, group, user)}
    name = view.find_key(key, values)
    said = values.get(view.field_of(name))
    if said is None:
        raise CommandError(Exit.NO_SUCH, f"nothing says '{name}' for '{user}'", "'ds01 policy show' lists what is said")
    file = sources.policy_file()
    draft = sources.draft_of(sources.files_of())
    steps, doubt = view.steps_of(name, said, draft, group, user, sources.machine_of(compiled))
    found = view.Explained(user, group, why, name, said, steps)
    if doubt:
        click.echo(f"note: '{file}' {doubt}", err=True)
    if as_json:
        shown = view.shown(view.field_of(name), said.value)
        click.echo(json.dumps({**asdict(found), "shown": shown, "held_by": found.held_by}, indent=2))
    else:
        click.echo("\n".join(view.explained_lines(found, str(file))))


@policy.command()
@click.argument("file", type=click.Path())
@_json_option
def diff(file: str, as_json: bool) -> None:
    """Say what would change, and for whom, if FILE took the place of the rules in force.

    Nothing is changed. Exit status 78 if anything is wrong in FILE.

    \b
    Examples:
      ds01 policy diff new.yaml
      ds01 policy diff /etc/ds01/resource-limits.yaml
    """
    from dataclasses import asdict

    from ds01.cli import policy_sources as sources
    from ds01.cli import policy_view as view
    from ds01.common.policy.diff import compare, read_compiled

    old = sources.published()
    files, borrowed = sources.files_to_compare(file)
    built = sources.compiled_from(files, sources.machine_of(old))
    if borrowed:
        click.echo(f"note: the lists of members are those in '{borrowed}'", err=True)
    if built.compiled is None:
        _tell_problems(built.problems, as_json=as_json)
    new = read_compiled(built.text)
    accounts = sources.known_accounts(old, new)
    found = compare(old, new, accounts)
    running, doubt = sources.running(old, new)
    if doubt:
        click.echo(f"note: which running containers it concerns is unknown: {doubt}", err=True)
    if as_json:
        click.echo(json.dumps({**asdict(found), "containers": running}, indent=2))
        return
    lines = view.difference_lines(found, new.policy, accounts)
    rows = [[one["name"], one["user"], change] for one in running for change in one["changes"]]
    lines += ["", "Containers that run now:", render.table(["NAME", "USER", "WHAT CHANGES"], rows)] if rows else []
    click.echo("\n".join(lines) if lines else "Nothing changes for anybody.")


@policy.command()
@click.argument("old", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write here, to a new file, not on the screen.")
@_machine_option
def migrate(old: str, output: str | None, on: str) -> None:
    """Write the predecessor's file OLD in our words, and say what can't be carried and why.

    user-overrides.yaml, lifecycle-exemptions.yaml and groups/*.members are read from beside it. A line that was changed
    has a comment. Exit status 78 if the result is not good yet, as 'ds01 policy check' would say.

    \b
    Examples:
      ds01 policy migrate /opt/old/resource-limits.yaml -o new.yaml
      ds01 policy migrate /opt/old/resource-limits.yaml --machine 128,1TiB > new.yaml
    """
    from ds01.cli import policy_sources as sources
    from ds01.common.policy.migrate import migrate as translate

    machine = sources.machine(on)
    made = translate(sources.read_predecessor(old))
    for note in made.notes:
        click.echo(str(note), err=True)
    if output is None:
        click.echo(made.text, nl=False)
    else:
        sources.write_new(output, made.text)
    problems = sources.compiled_from(sources.only(output or "result", made.text), machine).problems
    for problem in problems:
        click.echo(str(problem), err=True)
    if problems:
        raise CommandError(Exit.BAD_CONFIG, "the result is not good yet", "correct the lines told last, then check it")


def _tell_problems(problems: tuple[Problem, ...], *, as_json: bool) -> NoReturn:
    """Tell them and leave."""
    from dataclasses import asdict

    told = json.dumps({"good": False, "problems": [asdict(one) for one in problems]}, indent=2)
    click.echo(told if as_json else "\n".join(map(str, problems)))
    sys.exit(Exit.BAD_CONFIG)
