"""A "no" of the allocator as an error of a command: what, what to do next, and who would have to end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ds01.cli import render
from ds01.cli.exits import CommandError, status_of_denial


def granted(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The grant in an answer.

    Raises:
        CommandError: it is a denial.
    """
    grant, denial = answer.get("grant"), answer.get("denial")
    if grant is not None:
        return dict(grant)
    raise refusal(dict(denial or {}))


def refusal(denial: Mapping[str, Any]) -> CommandError:
    """The denial, to be raised."""
    message = str(denial.get("message") or "it was refused, and nobody said why")
    status = status_of_denial(str(denial.get("reason", "")))
    return CommandError(status, message, str(denial.get("hint", "")), would_have_to_end(denial.get("to_end") or []))


def would_have_to_end(to_end: list[Mapping[str, Any]]) -> list[str]:
    """The lines that say who."""
    lines = render.blockers(to_end, time.time())
    return ["would have to end first:", *lines] if lines else []
