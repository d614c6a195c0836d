"""Exit statuses of every command, and how a failure is told: one sentence on stderr. See sysexits.h."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import click


class Exit(IntEnum):
    """What a script can tell apart."""

    OK = 0
    USAGE = 2
    NO_SUCH = 66
    DOWN = 69
    FAILED = 70
    TAKEN = 73
    NONE_NOW = 75
    NOT_PERMITTED = 77
    BAD_CONFIG = 78
    NOT_EXECUTABLE = 126
    NO_COMMAND = 127
    INTERRUPTED = 130


_REASONS = {
    "none-free": Exit.NONE_NOW,
    "waited-in-vain": Exit.NONE_NOW,
    "not-a-request": Exit.USAGE,
    "no-such-unit": Exit.USAGE,
    "full-gpu-not-allowed": Exit.NOT_PERMITTED,
    "over-units-per-container": Exit.NOT_PERMITTED,
    "over-gpu-equivalents": Exit.NOT_PERMITTED,
    "over-mig-instances": Exit.NOT_PERMITTED,
    "over-group-total": Exit.NOT_PERMITTED,
}
"""Why the allocator refuses GPUs."""

_HTTP = {400: Exit.USAGE, 403: Exit.NOT_PERMITTED, 404: Exit.NO_SUCH, 409: Exit.TAKEN, 503: Exit.DOWN}


class CommandError(Exception):
    """A command can't go on: `message` is one sentence, `hint` what to do next, `more` lines for below."""

    def __init__(self, status: Exit, message: str, hint: str = "", more: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.more = more


class Commands(click.Group):
    """Commands whose errors are told on stderr, with their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            click.echo(error.message, err=True)
            if error.hint and error.hint not in error.message:
                click.echo(f"  → {error.hint}", err=True)
            for line in error.more:
                click.echo(f"  {line}", err=True)
            sys.exit(error.status)
        except (KeyboardInterrupt, click.Abort):
            click.echo("", err=True)
            sys.exit(Exit.INTERRUPTED)


def status_of(http_status: int, reason: str) -> Exit:
    """The exit status for an answer of the Docker socket. `reason` is DS01's own, '' for the engine's errors."""
    return _REASONS.get(reason) or _HTTP.get(http_status, Exit.FAILED)


def status_of_denial(reason: str) -> Exit:
    """The exit status for a "no" of the allocator; an unknown one is not permitted."""
    return _REASONS.get(reason, Exit.NOT_PERMITTED)
