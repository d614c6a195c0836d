"""When a booted host is ready: its boot is over and every unit of ours is active, judged by its own systemd."""

from __future__ import annotations

from dataclasses import dataclass

from lib import host
from lib.model import State
from lib.places import HostError

TARGET = "ds01.target"
_GOOD_SYSTEM = {"running", "degraded"}


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
    host.call(state, ["sh", "-c", "systemctl is-system-running --wait >/dev/null || true"])
    bad = [unit for unit in _units(state) if unit.load == "loaded" and unit.active != "active"]
    if bad:
        raise HostError("\n".join(_why(state, unit) for unit in bad))


def _units(state: State) -> list[Unit]:
    wanted = host.call(state, ["systemctl", "show", "-P", "Wants", "-P", "Requires", TARGET]).split()
    if not wanted:
        raise HostError(f"'{TARGET}' is not installed on '{state.name}', or wants nothing")
    text = host.call(state, ["systemctl", "show", "--property=Id,LoadState,ActiveState", TARGET, *wanted])
    records = [dict(line.split("=", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
    return [Unit(record["Id"], record["LoadState"], record["ActiveState"]) for record in records]


def _why(state: State, unit: Unit) -> str:
    said = ["journalctl", "--namespace=+ds01", "--no-pager", "--boot", "-n", "15", "-u", unit.name]
    return f"'{unit.name}' is {unit.active} on '{state.name}':\n{host.call(state, said)}"
