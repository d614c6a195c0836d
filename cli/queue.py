"""`ds01 queue`: who waits for a GPU, and when it is whose turn."""

from __future__ import annotations

import json
import time

import click

from ds01.cli import render
from ds01.cli.allocator_api import call

_HEADS = ["PLACE", "WHO", "WANTS", "FOR", "WAITING SINCE", "TURN EXPECTED", "WHY"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
def queue(as_json: bool) -> None:
    """Show who waits for a GPU, in the order in which they get their turn. Your own rows say 'you'.

    \b
    Examples:
      ds01 queue
      ds01 queue --json
    """
    waiters = call("Queue")["waiters"]
    if as_json:
        click.echo(json.dumps(waiters, indent=2))
    elif not waiters:
        click.echo("Nobody waits for a GPU. 'ds01 status' shows which ones are free.")
    else:
        click.echo(render.table(_HEADS, [render.waiter_row(one, time.time()) for one in waiters]))
