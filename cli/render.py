"""How things look on a screen. Pure: rows in, text out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

_STATE_WORDS = {
    "free": "free",
    "granted": "reserved",
    "bound": "reserved",
    "active": "in use",
    "held": "held",
    "draining": "ending",
    "waiting-for-unit": "waits for its unit",
    "lost": "lost",
    "withheld": "not usable",
}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    shown = [[printable(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """What others may have named, fit for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def sections(parts: Sequence[tuple[str, Sequence[Sequence[str]]]]) -> str:
    """Titles with rows below them, the columns of all in line."""
    widths = [max(map(len, column)) for column in zip(*(row for _, rows in parts for row in rows), strict=True)]
    lines: list[str] = []
    for title, rows in parts:
        lines += ["", title] if lines else [title]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            lines.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)


def unit_row(unit: Mapping[str, Any], now: float) -> list[str]:
    """One line of `ds01 status`: unit, profile, state, holder, what for, until."""
    return [unit["name"], unit["profile"], state(unit["state"]), _holder(unit), what_for(unit), end_of(unit, now)]


def state(word: str) -> str:
    """The state of a unit or a lease in words."""
    return _STATE_WORDS.get(word, word)


def what_for(unit: Mapping[str, Any]) -> str:
    """A container's short name, the command of `ds01 run`, or that it is a login's."""
    match unit.get("kind"):
        case "host":
            return f"{unit['container']} (ds01 run)" if unit["container"] else ""
        case "login":
            return "login sessions"
        case _:
            return short_name(unit["container"])


def unit_text(unit: Mapping[str, Any]) -> str:
    """`0:1 (2g.10gb)`."""
    return f"{unit['name']} ({unit['profile']})"


def end_of(unit: Mapping[str, Any], now: float) -> str:
    """When a hold ends, as clock time and what remains; or why a unit can't be used."""
    if unit["reason"]:
        return str(unit["reason"])
    if unit.get("until") is None:
        return ""
    return clock(unit["until"], now)


def waiter_row(waiter: Mapping[str, Any], now: float) -> list[str]:
    """One line of `ds01 queue`: place, who, wants, for what, waiting, turn, why."""
    since = f"{at(waiter['since'], now)} ({duration(max(0.0, now - waiter['since']))})"
    name, estimate = short_name(waiter["name"]), waiter["estimate"]
    turn_at = "not known" if estimate is None else f"by {clock(estimate, now)}"
    return [str(waiter["position"]), _holder(waiter), waiter["gpus"], name, since, turn_at, waiter["reason"]]


def turn(estimate: float | None, now: float) -> str:
    """When it may be somebody's turn, as part of a sentence."""
    if estimate is None:
        return "nobody knows how long it takes"
    return f"your turn is expected by {clock(estimate, now)}"


def blockers(to_end: Sequence[Mapping[str, Any]], now: float) -> list[str]:
    """Who would have to end, as the lines of a table; none for nobody."""
    if not to_end:
        return []
    rows = [
        [
            _holder(one) + (f": {short_name(one['name'])}" if one["name"] else ""),
            one["units"],
            state(one["state"]),
            "nobody knows" if one["until"] is None else clock(one["until"], now),
        ]
        for one in to_end
    ]
    return table(["WHOSE", "UNITS", "STATE", "UNTIL"], rows).splitlines()


def against(denial: Mapping[str, Any], now: float) -> list[str]:
    """One thing that speaks against a request, with its numbers and who would have to end."""
    numbers = (("limit", denial["limit"]), ("used", denial["used"]), ("asked for", denial["requested"]))
    told = ", ".join(f"{name} {value}" for name, value in numbers if value)
    lines = [f"{denial['reason']}: {denial['message']}" + (f" ({told})" if told else "")]
    lines += [f"  → {denial['hint']}"] if denial["hint"] and denial["hint"] not in denial["message"] else []
    return lines + [f"  {line}" for line in blockers(denial["to_end"], now)]


def at(moment: float, now: float) -> str:
    """`14:30`, and of another day `2026-12-01 14:30`."""
    then, today = time.localtime(moment), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def clock(moment: float, now: float) -> str:
    """`14:30 (in 25 min)`."""
    return f"{at(moment, now)} (in {duration(max(0.0, moment - now))})"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`, `4 d 2 h`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def short_name(container: str) -> str:
    """`train` for `train._.1001`."""
    return container.partition("._.")[0]


def summary(units: Sequence[Mapping[str, Any]], used: int, most: int | None) -> str:
    """The sentence below `ds01 status`."""
    free = sum(1 for unit in units if unit["state"] == "free")
    limit = "no limit" if most is None else f"limit {most} MIG instances"
    return f"{free} of {len(units)} units free; you hold {used} ({limit})"


def _holder(row: Mapping[str, Any]) -> str:
    """The user, `you`, or of others the group."""
    if row["mine"]:
        return "you"
    return str(row["user"]) or (f"({row['group']})" if row["group"] else "")
