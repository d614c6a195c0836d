"""`ds01`: what goes on, and why."""

from __future__ import annotations

import json
import os
import time

import click

from ds01.cli import notices, render
from ds01.cli.allocator_api import call
from ds01.cli.exits import Commands


class _Main(Commands):
    """`policy` is imported where it is asked for: it takes longer than all the others do."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "policy"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "policy":
            return super().get_command(ctx, cmd_name)
        from ds01.cli.policy import policy

        return policy


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One GPU server, many people: who holds which GPU, and what you would get.

    \b
    Examples:
      ds01 status
      ds01 explain gpu 2
      ds01 policy show
    """


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
def status(as_json: bool) -> None:
    """Show every GPU unit: free, or held by whom and until when.

    Names are shown for your own containers; of others you see the group.

    \b
    Examples:
      ds01 status
      ds01 status --json
    """
    notices.tell(os.getuid(), time.time())
    overview = call("List")
    if as_json:
        click.echo(json.dumps(overview, indent=2))
        return
    rows = [render.unit_row(unit, time.time()) for unit in overview["units"]]
    click.echo(render.table(["UNIT", "PROFILE", "STATE", "HOLDER", "CONTAINER", "UNTIL"], rows))
    click.echo(render.summary(overview["units"], overview["used_units"], overview.get("max_units")))


@main.command()
@click.argument("what", type=click.Choice(["gpu"]))
@click.argument("count", type=int, default=1)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
def explain(what: str, count: int, as_json: bool) -> None:
    """Say what a request would get now and why. Nothing is changed.

    \b
    Examples:
      ds01 explain gpu
      ds01 explain gpu 2 --json
    """
    explanation = call("Explain", count=count)
    click.echo(json.dumps(explanation, indent=2) if as_json else "\n".join(explanation["lines"]))
