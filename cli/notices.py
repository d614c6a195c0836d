"""What is about to happen to a user: memory limits that go down after their grace. limits_sync writes the file."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import click

from ds01.cli import render

FILE = "/run/ds01/shrinking.json"


def tell(uid: int, now: float) -> None:
    """Tells them on stderr."""
    for sentence in shrinking(uid, now):
        click.echo(f"note: {sentence}", err=True)


def shrinking(uid: int, now: float) -> list[str]:
    """A sentence for each limit of `uid` that waits; what can't be read is left out."""
    try:
        with open(os.environ.get("DS01_SHRINKING_FILE", FILE), encoding="utf-8") as file:
            units = list(json.load(file)["units"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    found = []
    for one in units:
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            if one["uid"] == uid:
                found.append(_sentence(str(one["what"]), one["from_bytes"], one["to_bytes"], one["until"], now))
    return found


def _sentence(what: str, from_bytes: int, to_bytes: int, until: float, now: float) -> str:
    from ds01.common.quantity import size_text, sizes_apart

    before = "no limit" if from_bytes >= 2**63 else size_text(from_bytes)
    after = size_text(to_bytes)
    if before == after:
        before, after = sizes_apart(from_bytes, to_bytes)
    return (
        f"the memory limit of {what} goes down from {before} to {after} at {render.clock(until, now)}:"
        " end or shrink what you do not need before then"
    )
