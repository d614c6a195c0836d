"""What kinds of values the policy has: how each is read, made absolute for a machine, and shown. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from fractions import Fraction

from ds01.common import quantity
from ds01.common.policy.tree import shown
from ds01.common.quantity import Share

JsonValue = int | float | str | bool | None


class Kind(StrEnum):
    """How a value is written. The value of each member is what the pages call it."""

    SIZE = "size"
    DURATION = "duration"
    CPUS = "CPUs"
    QUOTA = "CPU quota"
    TASKS = "processes"
    COUNT = "number"
    WEIGHT = "weight"
    PERCENT = "percentage"
    GPUS = "GPUs"
    FLAG = "true or false"
    CHOICE = "word"
    WARNINGS = "percentages"


EXAMPLES = {
    Kind.SIZE: "`128g`, `96GiB`, `25% of machine`",
    Kind.DURATION: "`24h`, `30m`, `0.5h`, `7d`",
    Kind.CPUS: "`64`, `1.5`, `9600%`, `25% of machine`",
    Kind.QUOTA: "`96`, `9600%`, `25% of machine`",
    Kind.TASKS: "`4096`, `10% of machine`",
    Kind.COUNT: "`3`",
    Kind.WEIGHT: "`1` to `10000`",
    Kind.PERCENT: "`5%`",
    Kind.GPUS: "`1`, `0.5`, `3/7`",
    Kind.FLAG: "`true`, `false`",
    Kind.CHOICE: "one of the words",
    Kind.WARNINGS: "`[50%, 80%, 95%]`",
}

_WANTED = {
    Kind.SIZE: "a size like 64GiB",
    Kind.DURATION: "a time like 24h",
    Kind.CPUS: "a number of CPUs like 4",
    Kind.QUOTA: "a number of CPUs like 4",
    Kind.TASKS: "a number like 4096",
    Kind.COUNT: "a number like 3",
    Kind.WEIGHT: "a weight from 1 to 10000",
    Kind.PERCENT: "a percentage like 5%",
    Kind.GPUS: "an amount of GPUs like 1 or 3/7",
    Kind.FLAG: "true or false",
    Kind.WARNINGS: "a list like [50%, 80%, 95%]",
}

_YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to share out. `tasks` is how many processes and threads the kernel lets exist."""

    cpus: int
    memory_bytes: int
    tasks: int


Value = int | float | str | bool | Fraction | Share | tuple[float, ...]


def wanted(kind: Kind, choices: tuple[str, ...] = ()) -> str:
    """What to write, in words."""
    return " or ".join((", ".join(choices[:-1]), choices[-1])) if kind is Kind.CHOICE else _WANTED[kind]


def parse(kind: Kind, text: str, choices: tuple[str, ...] = ()) -> Value:
    """A value from its text.

    Raises:
        ValueError: a clause that says what is wrong and what to write instead.
    """
    match kind:
        case Kind.SIZE:
            return quantity.parse_size(text)
        case Kind.DURATION:
            return quantity.parse_duration(text)
        case Kind.CPUS | Kind.QUOTA:
            cpus = quantity.parse_cpus(text)
            if isinstance(cpus, Fraction) and cpus < Fraction(1, 100):
                raise ValueError(f"'{text}' is next to no CPU at all: write 0.01 or more")
            return cpus
        case Kind.TASKS:
            return quantity.parse_tasks(text)
        case Kind.COUNT:
            return quantity.parse_count(text)
        case Kind.WEIGHT:
            weight = quantity.parse_count(text)
            if not 1 <= weight <= 10_000:
                raise ValueError(f"'{text}' is not a weight: write 1 to 10000, where 100 is what everybody has")
            return weight
        case Kind.PERCENT:
            return quantity.parse_percent(text)
        case Kind.GPUS:
            return quantity.parse_gpus(text)
        case Kind.FLAG:
            return _flag(text)
        case Kind.CHOICE:
            if text not in choices:
                raise ValueError(f"'{shown(text)}' is none of the words: write {wanted(kind, choices)}")
            return text
        case Kind.WARNINGS:
            raise ValueError(f"is a list: write {wanted(kind)}")


def absolute(kind: Kind, value: Value, machine: Machine) -> JsonValue | list[float]:
    """The value in base units: bytes, seconds, CPUs, percent of one CPU for quotas, a fraction's text for GPUs."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Share):
        value = _part(kind, value, machine)
    if isinstance(value, Fraction):
        match kind:
            case Kind.QUOTA:
                return max(1, round(value * 100))
            case Kind.GPUS:
                return str(value)
            case _:
                return float(value)
    return value


def above(kind: Kind, value: JsonValue | list[float], machine: Machine) -> str:
    """A clause where `value` is more than the machine has; '' where it is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    match kind:
        case Kind.SIZE if value > machine.memory_bytes:
            said, has = quantity.sizes_apart(int(value), machine.memory_bytes)
        case Kind.CPUS if value > machine.cpus:
            said, has = _cpus_text(value), _cpus_text(machine.cpus)
        case Kind.QUOTA if value > machine.cpus * 100:
            said, has = _cpus_text(value / 100), f"{_cpus_text(machine.cpus)} ({machine.cpus * 100}%)"
        case Kind.TASKS if value > machine.tasks:
            said, has = f"{value} processes", f"room for {machine.tasks}"
        case _:
            return ""
    return f"{said} are more than the machine has, {has}"


def show(kind: Kind, value: JsonValue | list[float]) -> str:
    """A value in base units as people read it."""
    if value is None:
        return "unlimited"
    if isinstance(value, list):
        return ", ".join(f"{quantity.number(item)}%" for item in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    match kind:
        case Kind.SIZE:
            return quantity.size_text(int(value))
        case Kind.DURATION:
            return quantity.duration_text(value)
        case Kind.CPUS:
            return _cpus_text(value)
        case Kind.QUOTA:
            return _cpus_text(value / 100)
        case Kind.PERCENT:
            return f"{quantity.number(value)}%"
        case _:
            return quantity.number(value)


def parse_until(text: str) -> str:
    """A date, or a date with a time, as ISO 8601 writes them: local time where no zone is given.

    Raises:
        ValueError: it is neither.
    """
    try:
        found = datetime.fromisoformat(text) if "T" in text or " " in text else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{shown(text)}' is not a date: write one like 2027-03-31 or 2027-03-31T18:00") from None
    return found.isoformat()


def _part(kind: Kind, share: Share, machine: Machine) -> int | Fraction:
    match kind:
        case Kind.SIZE:
            return max(1, int(machine.memory_bytes * share.percent / 100) // 4096 * 4096)
        case Kind.TASKS:
            return max(1, int(machine.tasks * share.percent / 100))
        case _:
            return max(Fraction(1, 100), round(machine.cpus * share.percent / 100, 2))


def _cpus_text(cpus: float) -> str:
    return f"{quantity.number(cpus)} CPU{'' if cpus == 1 else 's'}"


def _flag(text: str) -> bool:
    if text in ("true", "false"):
        return text == "true"
    meant = _YES_NO.get(text.lower()) or {"true": "true", "false": "false"}.get(text.lower())
    if meant:
        raise ValueError(f"'{text}' is read differently by different programs: write {meant}")
    raise ValueError(f"'{shown(text)}' is neither true nor false: write one of them")
