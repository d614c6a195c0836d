"""`ds01 grant`: GPUs opened to somebody's login sessions until a time. For administrators."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ds01.cli import render
from ds01.cli.allocator_api import call
from ds01.cli.denials import granted
from ds01.cli.exits import CommandError, Exit
from ds01.cli.wait_option import gpus_option

MOST_DAYS = 30
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[ T]([01]?[0-9]|2[0-3]):([0-5][0-9]))?")
_KEPT = "at the end no program is stopped: what runs then keeps what it has open"


@click.command()
@click.argument("user", required=False)
@gpus_option("1")
@click.option("--until", metavar="WHEN", help="18:00, 2026-12-01 (its end), '2026-12-01 18:00', or from now on: 4h.")
@click.option("--list", "as_list", is_flag=True, help="List what is open.")
@click.option("--end", metavar="LEASE", help="End a grant before its time.")
@click.option("--json", "as_json", is_flag=True, help="With --list: machine-readable output with stable keys.")
def grant(user: str | None, gpus: str, until: str | None, as_list: bool, end: str | None, as_json: bool) -> None:
    """Open GPUs to the login sessions of USER until a time: they can be used without a container. For administrators.

    \b
    Examples:
      ds01 grant ada --until 18:00
      ds01 grant ada --gpus full --until 4h
      ds01 grant --list
      ds01 grant --end l0123456789abcdef
    """
    if sum((user is not None, as_list, end is not None)) != 1:
        raise CommandError(Exit.USAGE, "say one of USER, --list and --end LEASE", "see 'ds01 grant --help'")
    if (until is None) is (user is not None) or (as_json and not as_list):
        raise CommandError(Exit.USAGE, "--until goes with USER, and --json with --list", "see 'ds01 grant --help'")
    if user is not None and until is not None:
        _open(user, gpus, until, time.time())
    elif end is not None:
        call("Revoke", lease=end)
        click.echo(f"the grant '{render.printable(end)}' is over; programs that run keep what they have open")
    else:
        _list(open_grants(call("List")["units"]), as_json)


def _open(user: str, gpus: str, until: str, now: float) -> None:
    found = granted(call("Grant", user=user, gpus=gpus, until=moment(until, now)))
    for warning in found["warnings"]:
        click.echo(f"note: {render.printable(warning)}", err=True)
    units = ", ".join(render.unit_text(unit) for unit in found["units"])
    verb = "is" if len(found["units"]) == 1 else "are"
    click.echo(f"GPU {units} {verb} open to the login sessions of '{user}' until {render.clock(found['until'], now)}")
    click.echo(f"  end it before:  ds01 grant --end {found['lease']}")
    click.echo(f"  {_KEPT}")


def _list(grants: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(grants, indent=2))
    elif not grants:
        click.echo("No GPUs are open to login sessions. Open some with: ds01 grant USER --until WHEN")
    else:
        now = time.time()
        ends = ["-" if one["until"] is None else render.clock(one["until"], now) for one in grants]
        rows = [[one["lease"], one["user"], ", ".join(one["gpus"]), end] for one, end in zip(grants, ends, strict=True)]
        click.echo(render.table(["LEASE", "USER", "GPU", "UNTIL"], rows))


def open_grants(units: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is open to logins, by lease. Of others than one's own only administrators see the names."""
    found: dict[str, dict[str, Any]] = {}
    for unit in units:
        if unit["kind"] == "login":
            blank = {key: unit[key] for key in ("lease", "user", "group", "mine", "since", "until")}
            one = found.setdefault(unit["lease"] or unit["name"], {**blank, "gpus": []})
            one["gpus"].append(render.unit_text(unit))
    return list(found.values())


def moment(untrusted: str, now: float) -> float:
    """Seconds of the epoch of a time of today, a date (its end), both, or a duration from `now`.

    Raises:
        CommandError: it is none of them, past, or too far ahead.
    """
    at = _moment(untrusted.strip(), now)
    shown = render.printable(untrusted)
    if at <= now:
        raise CommandError(Exit.USAGE, f"--until: '{shown}' is past: it is {render.at(now, 0)} now")
    if at - now > MOST_DAYS * 86400:
        raise CommandError(
            Exit.USAGE,
            f"--until: '{shown}' is {render.duration(at - now)} ahead, and {MOST_DAYS} days are the most",
            "what is to last goes into the policy: see 'ds01 policy'",
        )
    return at


def _moment(text: str, now: float) -> float:
    from datetime import datetime, timedelta

    time_of_day, date = _TIME.fullmatch(text), _DATE.fullmatch(text)
    try:
        if time_of_day is not None:
            today = datetime.fromtimestamp(now).replace(second=0, microsecond=0)
            return today.replace(hour=int(time_of_day[1]), minute=int(time_of_day[2])).timestamp()
        if date is not None:
            day = datetime(int(date[1]), int(date[2]), int(date[3]))
            if date[4] is None:
                return (day + timedelta(days=1)).timestamp()
            return day.replace(hour=int(date[4]), minute=int(date[5])).timestamp()
        from ds01.common.quantity import parse_duration

        return now + parse_duration(text)
    except (ValueError, OverflowError) as exc:
        why = f"--until: '{render.printable(text)}' is no time"
        raise CommandError(Exit.USAGE, why, "write 18:00, 2026-12-01, '2026-12-01 18:00' or 4h") from exc
