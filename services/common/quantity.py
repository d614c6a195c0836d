"""Sizes, durations, CPUs and counts as people write them, and the way back. Pure.

A number whose unit would have to be guessed is refused, and so is what YAML 1.1 readers take for something else
(`012`, `12:30`, `1_000`). Every `ValueError` is a clause that says what to write instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

KIB = 1024
_SIZES = {"b": 1, "k": KIB, "m": KIB**2, "g": KIB**3, "t": KIB**4}
_UNITS = {"TiB": KIB**4, "GiB": KIB**3, "MiB": KIB**2, "KiB": KIB}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER = r"(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,6})?"
_PLAIN_NUMBER = re.compile(_NUMBER)
_SIZE = re.compile(rf"({_NUMBER}) ?([bkmgt])(ib)?", re.IGNORECASE | re.ASCII)
_DECIMAL_SIZE = re.compile(rf"({_NUMBER}) ?([kmgt])b", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(rf"({_NUMBER}) ?([smhdw])")
_PERCENT = re.compile(rf"({_NUMBER}) ?%")
_SHARE = re.compile(rf"({_NUMBER}) ?% of machine")
_FRACTION = re.compile(r"([0-9]{1,6})/([1-9][0-9]{0,5})")
_MAX = 2**53
"""Above this a number is no longer exact in every JSON reader."""
_LONGEST_S = 36_500 * 86400
"""Added to a date, more than this leaves the calendar; a hundred years are no limit either."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of what the machine has: `25% of machine`."""

    percent: Fraction

    def __str__(self) -> str:
        return f"{f'{float(self.percent):.6f}'.rstrip('0').rstrip('.')}% of machine"


def parse_size(text: str) -> int | Share:
    """`128g`, `96GiB`, `0.5t`, `25% of machine` in bytes; units are powers of 1024, as for Docker and systemd."""
    share = _share(text)
    if share is not None:
        return share
    found = _SIZE.fullmatch(text)
    if found is None or (found[3] and found[2] in "bB"):
        decimal = _DECIMAL_SIZE.fullmatch(text)
        if decimal is not None:
            raise ValueError(f"'{text}' could mean powers of 1000 or of 1024: write {decimal[1]}{decimal[2].upper()}iB")
        if _PLAIN_NUMBER.fullmatch(text):
            raise ValueError(f"'{text}' has no unit: write {text}GiB or {text}MiB")
        raise ValueError(f"{_odd(text)} is not a size: write one like 128g, 96GiB or '25% of machine'")
    return _small(int(Fraction(found[1]) * _SIZES[found[2].lower()]), text)


def parse_duration(text: str) -> float:
    """`24h`, `30m`, `0.5h`, `7d`, `90s`, `1d12h` in seconds."""
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        if _PLAIN_NUMBER.fullmatch(text):
            raise ValueError(f"'{text}' has no unit: write {text}h or {text}m")
        sexagesimal = re.fullmatch(r"([0-9]{1,3}):([0-9]{2})", text)
        if sexagesimal is not None:
            raise ValueError(f"'{text}' is a number to base 60 in YAML 1.1: write {sexagesimal[1]}h{sexagesimal[2]}m")
        raise ValueError(f"{_odd(text)} is not a duration: write one like 24h, 30m, 0.5h or 7d")
    seconds = sum((Fraction(part[1]) * _SECONDS[part[2]] for part in parts), Fraction(0))
    if seconds > _LONGEST_S:
        raise ValueError(f"{_odd(text)} is more than a hundred years: write less, such as 30d")
    return float(seconds)


def parse_cpus(text: str) -> Fraction | Share:
    """`64`, `1.5`, `9600%`, `25% of machine` in CPUs."""
    share = _share(text)
    if share is not None:
        return share
    percent = _PERCENT.fullmatch(text)
    if percent is not None:
        return Fraction(percent[1]) / 100
    if not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError(f"{_odd(text)} is not a number of CPUs: write one like 64, 1.5, 9600% or '25% of machine'")
    return Fraction(text)


def parse_tasks(text: str) -> int | Share:
    """`4096` or `40% of machine` in processes and threads."""
    share = _share(text)
    return share if share is not None else parse_count(text)


def parse_count(text: str) -> int:
    """A whole number, 0 or more."""
    if re.fullmatch(r"0|[1-9][0-9]{0,17}", text):
        return _small(int(text), text)
    if re.fullmatch(r"0[0-7]{1,17}", text):
        meant, octal = text.lstrip("0") or "0", str(int(text, 8))
        write = meant if meant == octal else f"{meant} or {octal}"
        raise ValueError(f"'{text}' is octal in YAML 1.1, that is {octal}: write {write}")
    if re.fullmatch(r"[1-9][0-9_]{1,23}", text) and "_" in text:
        raise ValueError(f"'{text}' has underlines in it: write {text.replace('_', '')}")
    raise ValueError(f"{_odd(text)} is not a whole number: write one like 4096")


def parse_percent(text: str) -> float:
    """`5%` as 5.0; 0 to 100."""
    found = _PERCENT.fullmatch(text)
    if found is None:
        if _PLAIN_NUMBER.fullmatch(text):
            raise ValueError(f"'{text}' has no unit: write {text}%")
        raise ValueError(f"{_odd(text)} is not a percentage: write one like 5%")
    if Fraction(found[1]) > 100:
        raise ValueError(f"'{text}' is more than everything: write 100% or less")
    return float(found[1])


def parse_gpus(text: str) -> Fraction:
    """An exact amount of GPUs: `1`, `0.5`, `3/7`."""
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None:
        return Fraction(int(fraction[1]), int(fraction[2]))
    if not _PLAIN_NUMBER.fullmatch(text):
        raise ValueError(f"{_odd(text)} is not an amount of GPUs: write one like 1, 0.5 or 3/7")
    return Fraction(text)


def size_text(size_bytes: int) -> str:
    """`64 GiB`, in the largest unit that there is one of, to two decimals."""
    for unit, one in _UNITS.items():
        if size_bytes >= one:
            return f"{number(size_bytes / one)} {unit}"
    return f"{size_bytes} B"


def sizes_apart(larger_bytes: int, smaller_bytes: int) -> tuple[str, str]:
    """Two sizes in one unit in which they differ; the smaller is rounded down: it is told as the most that is right."""
    for unit, one in _UNITS.items():
        larger, smaller = number(larger_bytes / one), number(smaller_bytes * 100 // one / 100)
        if smaller_bytes >= one and larger != smaller:
            return f"{larger} {unit}", f"{smaller} {unit}"
    return f"{larger_bytes} B", f"{smaller_bytes} B"


def duration_text(seconds: float) -> str:
    """`7d`, `1h30m`, `90s`: the form that `parse_duration` reads."""
    if seconds != int(seconds):
        return f"{number(seconds)}s"
    left, said = int(seconds), ""
    for unit, one in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, one)
        said += f"{count}{unit}" if count else ""
    return said or "0s"


def number(value: float) -> str:
    """At most two decimals, none that is 0."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _share(text: str) -> Share | None:
    found = _SHARE.fullmatch(text)
    if found is None:
        return None
    percent = Fraction(found[1])
    if not 0 < percent <= 100:
        raise ValueError(f"'{text}' is not a part of the machine: write more than 0% and at most 100%")
    return Share(percent)


def _small(value: int, text: str) -> int:
    if value > _MAX:
        raise ValueError(f"'{text[:40]}' is larger than any machine: write a smaller number")
    return value


def _odd(text: str) -> str:
    """Quoted, short, and with no control characters, since it is printed."""
    shown = "".join(char if char.isprintable() else "?" for char in text[:40])
    return f"'{shown}{'…' if len(text) > 40 else ''}'"
