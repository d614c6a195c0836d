"""When a booted host is ready: its boot is over and every unit of ours is active, judged by its own systemd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lib import host
from lib.model import State
from lib.places import HostError

TARGET = "ds01.target"

Call = Callable[[Sequence[str]], str]
"""Runs a short command on the host as root and gives its stdout."""


@dataclass(frozen=True, slots=True)
class Unit:
    name: str
    load: str
    active: str


def wait_until_active(state: State) -> None:
    """Returns when all that ds01.target wants is active.

    Raises:
        HostError: a unit is not, with its last journal lines.
    """
    wait_on(partial(host.call, state), state.name)


def wait_on(call: Call, name: str) -> None:
    """The same, on whatever host `call` reaches."""
    call(["sh", "-c", "systemctl is-system-running --wait >/dev/null || true"])
    bad = [unit for unit in _units(call, name) if unit.load == "loaded" and unit.active != "active"]
    if bad:
        raise HostError("\n".join(_why(call, name, unit) for unit in bad))


def _units(call: Call, name: str) -> list[Unit]:
    wanted = call(["systemctl", "show", "-P", "Wants", "-P", "Requires", TARGET]).split()
    if not wanted:
        raise HostError(f"'{TARGET}' is not installed on '{name}', or wants nothing")
    text = call(["systemctl", "show", "--property=Id,LoadState,ActiveState", TARGET, *wanted])
    records = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [Unit(record["Id"], record["LoadState"], record["ActiveState"]) for record in records]


def _why(call: Call, name: str, unit: Unit) -> str:
    said = ["journalctl", "--namespace=+ds01", "--no-pager", "--boot", "-n", "15", "-u", unit.name]
    return f"'{unit.name}' is {unit.active} on '{name}':\n{call(said)}"
