"""Rules that hold for every unit file in units/, read as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from ds01_installer import plan

UNITS = Path(__file__).parents[3] / "units"
FILES = sorted(path for path in UNITS.rglob("*") if path.is_file() and path.parent.name != "dbus")
SERVICES = sorted(UNITS.glob("*.service"))
SOCKETS = sorted(UNITS.glob("*.socket"))


def settings(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "["))]


def test_the_installer_starts_every_unit_there_is() -> None:
    names = {path.name for path in [*SERVICES, *SOCKETS]} - {"ds01-boot.service"}
    assert names == {*plan.DAEMONS, *plan.SOCKETS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_unit_owns_a_shared_runtime_folder(path: Path) -> None:
    """systemd takes such a folder away with its service: it may be nobody else's, and lies under its own name."""
    owned = [line.partition("=")[2] for line in settings(path) if line.startswith("RuntimeDirectory=")]
    assert all(name == path.stem and name != "ds01" for name in owned), owned


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_setting_is_set_twice_to_the_same(path: Path) -> None:
    lines = settings(path)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_every_start_has_a_time_limit(path: Path) -> None:
    assert any(line.startswith("TimeoutStartSec=") for line in settings(path))


@pytest.mark.parametrize("path", [path for path in SERVICES if path.name in plan.DAEMONS], ids=lambda path: path.name)
def test_daemons_say_ready_are_watched_and_come_back(path: Path) -> None:
    lines = settings(path)
    assert {"Type=notify", "Type=notify-reload"} & set(lines)
    for line in ("WatchdogSec=30", "Restart=always", "RestartSec=1ms"):
        assert line in lines


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.suffix == ".d"], ids=lambda path: path.name)
def test_what_is_set_at_run_time_wins_over_a_shipped_limit(path: Path) -> None:
    """systemd sorts drop-ins of all folders by name, and its own for a limit is called 50-CPUQuota.conf."""
    names = ("MemoryMax=", "MemoryHigh=", "TasksMax=", "CPUQuota=", "CPUWeight=")
    if any(line.startswith(names) for line in settings(path)):
        assert path.name < "50-CPUQuota.conf"


@pytest.mark.parametrize("path", [path for path in SERVICES if path.name in plan.DAEMONS], ids=lambda path: path.name)
def test_no_daemon_waits_for_the_engine(path: Path) -> None:
    assert not [line for line in settings(path) if "docker.service" in line]
