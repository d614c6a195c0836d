"""Pages that describe code are compared with the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from asyncvarlink import VarlinkInterface, varlinksignature

from ds01.common.events import EVENTS
from ds01.common.model import Reason
from ds01.gpu_allocator.interface import AllocatorInterface
from ds01.limits_sync.interface import LimitsSyncInterface
from ds01.nvml.interface import NvmlInterface

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("interface", [AllocatorInterface, LimitsSyncInterface, NvmlInterface])
def test_protocol_lists_exactly_the_methods(interface: type[VarlinkInterface]) -> None:
    page = (DOCS / "PROTOCOL.md").read_text()
    section = page.split(f"## {interface.name}\n", 1)[1].split("\n## ", 1)[0]
    listed = {line.split("`")[1].partition("(")[0] for line in section.splitlines() if line.startswith("| `")}
    methods = {name for name in dir(interface) if varlinksignature(getattr(interface, name)) is not None}
    assert listed == methods


@pytest.mark.parametrize("interface", [AllocatorInterface, LimitsSyncInterface, NvmlInterface])
def test_protocol_names_every_parameter(interface: type[VarlinkInterface]) -> None:
    page = (DOCS / "PROTOCOL.md").read_text()
    for name in dir(interface):
        signature = varlinksignature(getattr(interface, name))
        if signature is not None:
            parameters = ", ".join(signature.parameter_type.as_type.__annotations__)
            assert f"`{name}({parameters})`" in page, f"{name}({parameters})"


def test_protocol_lists_every_reason() -> None:
    page = (DOCS / "PROTOCOL.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in page] == []


def test_the_architecture_page_fits_on_one_page() -> None:
    assert len((DOCS / "ARCHITECTURE.md").read_text().splitlines()) <= 80


def test_events_are_listed_with_their_message_id() -> None:
    page = (DOCS / "EVENTS.md").read_text()
    for name, kind in EVENTS.items():
        assert f"`{name}` | {kind.priority.name.lower()} | `{kind.message_id}`" in page


def test_the_page_of_the_shim_is_its_tables() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "packaging" / "pages.py", "shim"],
        env={"PYTHONPATH": str(ROOT / "build" / "typing")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (DOCS / "SHIM.md").read_text() == made.stdout, "run 'make pages'"
