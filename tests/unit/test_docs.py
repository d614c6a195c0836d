"""Pages that describe code are compared with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from asyncvarlink import VarlinkInterface, varlinksignature

from ds01.common.adapters.yamltree import read_tree
from ds01.common.events import EVENTS
from ds01.common.model import Reason
from ds01.common.policy.build import build
from ds01.common.policy.kinds import Machine
from ds01.common.policy.tree import Files
from ds01.gpu_allocator.interface import AllocatorInterface
from ds01.limits_sync.interface import LimitsSyncInterface
from ds01.nvml.interface import NvmlInterface

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REFERENCE = Machine(cpus=128, memory_bytes=2**40, tasks=4_194_304)


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


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("shim", "docs/SHIM.md"),
        ("policy", "docs/POLICY.md"),
        ("man", "docs/man/ds01-resource-limits.5"),
        ("reference", "config/resource-limits.reference.yaml"),
        ("built-in", "config/policy.json"),
    ],
)
def test_what_is_made_from_tables_is_as_they_are(name: str, path: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "packaging" / "pages.py", name],
        env={"PYTHONPATH": str(ROOT / "build" / "typing")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert (ROOT / path).read_text() == made.stdout, "run 'make pages'"


def example(page: str, language: str) -> str:
    """The first block in a language."""
    return page.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_example_of_the_policy_page_is_right() -> None:
    text = example((DOCS / "POLICY.md").read_text(), "yaml")
    built = build(Files("limits.yaml", text.encode(), {}), read_tree, REFERENCE)
    assert [str(problem) for problem in built.problems] == []
    assert built.compiled is not None
    assert list(built.compiled["groups"]) == ["student", "researcher"]


def test_the_mistakes_of_the_policy_page_are_told_in_its_words() -> None:
    page = (DOCS / "POLICY.md").read_text()
    text = example(page, "yaml")
    for right, wrong in ((": 2\n", ": 012\n"), ("128g", "128"), ("    max_runtime: 168h", "    max_runtme: 168h")):
        text = text.replace(right, wrong, 1)
    built = build(Files("/etc/ds01/resource-limits.yaml", text.encode(), {}), read_tree, REFERENCE)
    said = "\n".join(str(problem) for problem in built.problems)
    assert f"# ds01 policy check\n{said}\n" in page


@pytest.mark.parametrize("path", sorted((DOCS / "man").glob("*.[1-8]")), ids=lambda path: path.name)
def test_a_man_page_has_nothing_that_troff_would_not_know(path: Path) -> None:
    lines = path.read_text().splitlines()
    name, section = path.stem.upper().replace("-", "\\-"), path.suffix[1:]
    assert lines[0].startswith(f".TH {name} {section} ")
    orders = {line.split(" ")[0] for line in lines if line.startswith((".", "'"))}
    assert orders <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".I", ".BR", ".IR", ".RB", ".br", ".nf", ".fi", '.\\"'}
    assert [line for line in lines if not line.isascii()] == []
    assert [line for line in lines if re.search(r"\\[^-e&\"(]", line)] == []
    assert [one for one in ("NAME", "DESCRIPTION", "SEE ALSO") if f".SH {one}" not in lines] == []
