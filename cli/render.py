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
    "withheld": "not usable",
}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[index]) for row in [heads, *rows]) for index in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    return "\n".join(line.rstrip() for line in lines)


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
    """One line of `ds01 status`: unit, profile, state, holder, container, until."""
    holder = "you" if unit["mine"] else unit["user"] or (f"({unit['group']})" if unit["group"] else "")
    state = _STATE_WORDS.get(unit["state"], unit["state"])
    return [unit["name"], unit["profile"], state, holder, short_name(unit["container"]), end_of(unit, now)]


def end_of(unit: Mapping[str, Any], now: float) -> str:
    """When a hold ends, as clock time and what remains; or why a unit can't be used."""
    if unit["reason"]:
        return str(unit["reason"])
    if unit.get("until") is None:
        return ""
    return clock(unit["until"], now)


def clock(at: float, now: float) -> str:
    """`14:30 (in 25 min)`."""
    return f"{time.strftime('%H:%M', time.localtime(at))} (in {duration(max(0.0, at - now))})"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def short_name(container: str) -> str:
    """`train` for `train._.1001`."""
    return container.partition("._.")[0]


def summary(units: Sequence[Mapping[str, Any]], used: int, most: int | None) -> str:
    """The sentence below `ds01 status`."""
    free = sum(1 for unit in units if unit["state"] == "free")
    limit = "no limit" if most is None else f"limit {most} MIG instances"
    return f"{free} of {len(units)} units free; you hold {used} ({limit})"
