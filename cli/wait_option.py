"""`--gpus` and `--wait[=TIMEOUT]`, as several commands have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ds01.cli.exits import CommandError, Exit
from ds01.cli.waiting import MOST_S

F = TypeVar("F", bound=Callable[..., Any])

_GRAMMAR = "a number (2), a profile (2g.10gb), a size (10g), full, all, or units by name (0:1); 0 is none"


class Waits(click.Command):
    """A command whose `--wait` takes a value only as `--wait=10m` or before a duration: not the word after it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._with_value(args, interspersed=ctx.allow_interspersed_args))

    def _with_value(self, args: list[str], *, interspersed: bool) -> list[str]:
        """`--wait` as `--wait=`, and what belongs to the command that is to be run as it is."""
        valued = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        found: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            if word == "--" or not (word.startswith("-") or interspersed):
                return [*found, word, *rest]
            if word == "--wait":
                value = rest.pop(0) if rest and _like_a_duration(rest[0]) else ""
                found.append(f"--wait={value}")
            else:
                found.append(word)
                found += [rest.pop(0)] if word in valued and rest else []
        return found


def _like_a_duration(word: str) -> bool:
    return word[:1].isdigit() and word[-1:] in "smhdw" and word.isalnum()


def wait_option(command: F) -> F:
    """`--wait`: None without it, '' without end, else a duration as it was written."""
    told = "Wait in the queue if no GPU is free, TIMEOUT (10m, 2h) at most."
    return click.option("--wait", metavar="[=TIMEOUT]", callback=_checked_wait, help=told)(command)


def gpus_option(default: str) -> Callable[[F], F]:
    """`--gpus`, in the one grammar of requests."""
    told = f"Which GPUs: {_GRAMMAR}."
    return click.option(
        "--gpus", metavar="REQUEST", default=default, show_default=True, callback=_checked_gpus, help=told
    )


def seconds(wait: str | None) -> float:
    """How long to wait, from the text of `--wait`; 0 for not at all."""
    return 0.0 if wait is None else MOST_S if not wait else _parsed(wait)


def _checked_wait(ctx: click.Context, param: click.Parameter, wait: str | None) -> str | None:
    seconds(wait)
    return wait


def _parsed(wait: str) -> float:
    from ds01.common.quantity import parse_duration

    try:
        timeout_s = parse_duration(wait)
    except ValueError as exc:
        raise CommandError(Exit.USAGE, f"--wait: {exc}") from exc
    if not 0 < timeout_s <= MOST_S:
        raise CommandError(Exit.USAGE, f"--wait: '{wait}' is not between 1s and 7d", "'--wait' alone is without end")
    return timeout_s


def _checked_gpus(ctx: click.Context, param: click.Parameter, gpus: str) -> str:
    return checked_request(gpus)


def checked_request(gpus: str) -> str:
    """A request that can be asked; what it means is the allocator's to say."""
    text = gpus.strip()
    if not text or not text.isprintable() or len(text) > 4096:
        raise CommandError(Exit.USAGE, "that is no request for GPUs", f"write {_GRAMMAR}")
    return text
