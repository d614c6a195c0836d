"""`ds01`: what goes on, and why."""

from __future__ import annotations

import json
import os
import time
from importlib import import_module

import click

from ds01.cli import notices, render
from ds01.cli.allocator_api import call
from ds01.cli.exits import CommandError, Commands, Exit

_ELSEWHERE = {
    "explain": "ds01.cli.explain",
    "grant": "ds01.cli.grant",
    "ledger": "ds01.cli.ledger",
    "policy": "ds01.cli.policy",
    "queue": "ds01.cli.queue",
    "run": "ds01.cli.run",
}
"""Commands by name, each in a module that has it under its name."""


class _Main(Commands):
    """A command is imported where it is asked for: some of them take longer than all the others do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One GPU server, many people: who holds which GPU, and what you would get.

    \b
    Examples:
      ds01 status
      ds01 run --gpus 1 -- python train.py
      ds01 explain gpu 2g.10gb
      ds01 policy show
    """


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
@click.option(
    "--snapshot",
    metavar="[FILE]",
    is_flag=False,
    flag_value="-",
    help="Write the world that your requests are decided on now to FILE, for 'ds01 explain gpu --snapshot'.",
)
def status(as_json: bool, snapshot: str | None) -> None:
    """Show every GPU unit: free, or held by whom and until when.

    Names are shown for your own containers; of others you see the group.

    \b
    Examples:
      ds01 status
      ds01 status --json
      ds01 status --snapshot world.json
    """
    if snapshot is not None:
        _save(snapshot, str(call("Snapshot")["snapshot"]))
        return
    notices.tell(os.getuid(), time.time())
    overview = call("List")
    if as_json:
        click.echo(json.dumps(overview, indent=2))
        return
    for notice in overview.get("notices") or []:
        click.echo(f"note: {render.printable(notice)}")
    rows = [render.unit_row(unit, time.time()) for unit in overview["units"]]
    click.echo(render.table(["UNIT", "PROFILE", "STATE", "HOLDER", "FOR", "UNTIL"], rows))
    click.echo(render.summary(overview["units"], overview["used_units"], overview.get("max_units")))


def _save(file: str, text: str) -> None:
    text += "" if text.endswith("\n") else "\n"
    if file == "-":
        click.echo(text, nl=False)
        return
    try:
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as exc:
        raise CommandError(Exit.TAKEN, f"'{render.printable(file)}' can't be written: {exc.strerror}") from exc
