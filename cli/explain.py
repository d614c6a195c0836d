"""`ds01 explain`: what a request would get, now or in a world that was written to a file, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from ds01.cli import render
from ds01.cli.allocator_api import call
from ds01.cli.exits import CommandError, Exit
from ds01.cli.wait_option import checked_request


@click.command()
@click.argument("what", type=click.Choice(["gpu"]))
@click.argument("request", default="1")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
@click.option("--snapshot", metavar="FILE", help="Decide in the world of FILE ('-': stdin), as 'ds01 status' wrote it.")
def explain(what: str, request: str, as_json: bool, snapshot: str | None) -> None:
    """Say what a request would get now and why, or everything that speaks against it. Nothing is changed.

    \b
    Examples:
      ds01 explain gpu
      ds01 explain gpu 2x2g.10gb --json
      ds01 explain gpu full --snapshot world.json
    """
    gpus = checked_request(request)
    explanation = call("Explain", gpus=gpus) if snapshot is None else _replayed(snapshot, gpus)
    click.echo(json.dumps(explanation, indent=2) if as_json else "\n".join(lines(explanation, time.time())))


def lines(explanation: Mapping[str, Any], now: float) -> list[str]:
    """The explanation for people."""
    told = list(explanation["lines"])
    for denial in explanation["against"]:
        if denial["reason"] != "not-a-request":  # that is said already, and has no numbers
            told += ["", *render.against(denial, now)]
    return told


def _replayed(file: str, gpus: str) -> dict[str, Any]:
    """The answer of the allocator, worked out here in the world of `file`; the same keys as on the wire."""
    from ds01.cli.replayed import explanation

    try:
        with click.open_file(file, encoding="utf-8") as stream:
            text = stream.read()
    except FileNotFoundError as exc:
        raise CommandError(Exit.NO_SUCH, f"'{render.printable(file)}' does not exist") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(Exit.NO_SUCH, f"'{render.printable(file)}' can't be read: {exc}") from exc
    return explanation(text, gpus)
