"""`ds01 ledger`: what administrators do when the book of leases can't be used any more."""

from __future__ import annotations

import sys

import click

from ds01.cli.allocator_api import call
from ds01.cli.exits import CommandError, Exit

REBUILD_S = 120.0

_WHAT = """\
The ledger is put aside, and a new one is made from the containers and scopes that run now; nothing is stopped.
What only the old ledger knew is gone from the new one: the queue, grants to logins, GPU time used so far."""


@click.group()
def ledger() -> None:
    """The book of who holds which GPU. For administrators."""


@ledger.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def rebuild(yes: bool) -> None:
    """Make the ledger anew from what runs, when it can't be read any more.

    \b
    Examples:
      ds01 ledger rebuild
      ds01 ledger rebuild --yes
    """
    click.echo(_WHAT, err=True)
    if not yes and not sys.stdin.isatty():
        raise CommandError(Exit.USAGE, "nobody can be asked here", "say '--yes' to go on")
    if not yes and not click.confirm("Go on?", err=True):
        click.echo("nothing was changed", err=True)
        return
    for line in call("RebuildLedger", REBUILD_S)["lines"]:
        click.echo(line)
