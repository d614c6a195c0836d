"""Exit statuses of every command, and how a failure is told: one sentence on stderr. See sysexits.h."""

from __future__ import annotations

import sys
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


class CommandError(Exception):
    """A command can't go on: `message` is one sentence, `hint` what to do next."""

    def __init__(self, status: Exit, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


class Commands(click.Group):
    """Commands whose errors are told on stderr, with their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CommandError as error:
            click.echo(error.message, err=True)
            if error.hint and error.hint not in error.message:
                click.echo(f"  → {error.hint}", err=True)
            sys.exit(error.status)


def status_of(http_status: int, reason: str) -> Exit:
    """The exit status for an answer of the Docker socket. `reason` is DS01's own, '' for the engine's errors."""
    if reason == "none-free":
        return Exit.NONE_NOW
    table = {400: Exit.USAGE, 403: Exit.NOT_PERMITTED, 404: Exit.NO_SUCH, 409: Exit.TAKEN, 503: Exit.DOWN}
    return table.get(http_status, Exit.FAILED)
