"""`ds01 explain gpu`: what a request would get, and everything that speaks against it."""

from __future__ import annotations

import json
import time
from dataclasses import fields
from fractions import Fraction

import pytest
from commands import Shell
from fake_allocator import FakeAllocator, blocker, denial, says

from ds01.common.model import Lease, LeasedUnit, LeaseState, Unit, UnitKey
from ds01.gpu_allocator.interface import BlockerView, Denial
from ds01.gpu_allocator.snapshot import snapshot_text
from ds01.gpu_allocator.world import Asker, World

LINES = ["6 of 6 units are free", "2 would be granted now"]


@pytest.mark.parametrize(("words", "gpus"), [([], "1"), (["2"], "2"), (["2x2g.10gb"], "2x2g.10gb")])
def test_the_request_is_text(shell: Shell, allocator: FakeAllocator, words: list[str], gpus: str) -> None:
    allocator.answers["Explain"] = [says(lines=LINES, grant=None, denial=None, against=[])]
    assert shell.ds01("explain", "gpu", *words).stdout.splitlines() == LINES
    assert allocator.of("Explain")[0].parameters == {"gpus": gpus}


def test_everything_that_speaks_against_it(shell: Shell, allocator: FakeAllocator) -> None:
    busy = denial("none-free", "0 of 6 are free", "wait", (blocker("0:1", until=time.time() + 600), blocker("1:0")))
    quota = {**denial("over-gpu-equivalents", "you hold 1 of 1 GPUs"), "limit": "", "used": "1", "requested": "3/7"}
    allocator.answers["Explain"] = [says(lines=["no"], grant=None, denial=busy, against=[busy, quota])]
    told = shell.ds01("explain", "gpu")
    no, blank, first, hint, heads, one, other, _, second = told.stdout.splitlines()
    assert (no, blank) == ("no", "")
    assert first == "none-free: 0 of 6 are free (limit 6, used 6, asked for 1)"
    assert (hint, heads.split()) == ("  → wait", ["WHOSE", "UNITS", "STATE", "UNTIL"])
    assert one.startswith("  (student)  0:1    in use  ")
    assert one.endswith("(in 10 min)")
    assert other == "  (student)  1:0    in use  nobody knows"
    assert second == "over-gpu-equivalents: you hold 1 of 1 GPUs (used 1, asked for 3/7)"
    assert told.returncode == 0


def test_for_programs_it_is_as_it_came(shell: Shell, allocator: FakeAllocator) -> None:
    answer = {"lines": LINES, "grant": None, "denial": None, "against": [denial("none-free", "no")]}
    allocator.answers["Explain"] = [says(**answer)]
    assert json.loads(shell.ds01("explain", "gpu", "--json").stdout) == answer


def test_what_is_no_request_is_said_once(shell: Shell, allocator: FakeAllocator) -> None:
    none = denial("not-a-request", "'x' is no request", "ask for 2")
    allocator.answers["Explain"] = [
        says(lines=["'x' is no request; ask for 2"], grant=None, denial=none, against=[none])
    ]
    assert shell.ds01("explain", "gpu", "x").stdout == "'x' is no request; ask for 2\n"


UNITS = tuple(
    Unit(UnitKey("GPU-a", f"{place * 2}+2"), f"0:{place}", "2g.10gb", f"MIG-{place}", 0, Fraction(2, 7))
    for place in range(2)
)


def saved(shell: Shell, taken: int) -> str:
    """The world of uid 1001, in which uid 1002 holds so many of two units."""
    leased = tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in UNITS[:taken])
    who = {"uid": 1002, "user": "bob", "group": "student", "container": "c1", "container_name": "bobs._.1002"}
    lease = Lease(
        id="l1", request_id="r1", count=taken, state=LeaseState.ACTIVE, since=0.0, until=None, units=leased, **who
    )  # type: ignore[arg-type]
    asker = Asker(1001, "alice", "student", Fraction(1), 2, None, False)
    (shell.folder / "world.json").write_text(snapshot_text(asker, World(UNITS, (lease,) if taken else ()), 1, 0.0))
    return "world.json"


def test_a_saved_world_is_asked_without_the_allocator(shell: Shell) -> None:
    told = shell.ds01("explain", "gpu", "--snapshot", saved(shell, 1), "--json")
    answer = json.loads(told.stdout)
    assert answer["grant"] == {
        "lease": "",
        "state": "would-be-granted",
        "units": [{"name": "0:1", "profile": "2g.10gb", "uuid": "MIG-1"}],
        "warnings": [],
        "until": None,
    }
    assert (answer["denial"], answer["against"]) == (None, [])


def test_a_saved_world_says_no_with_the_same_keys_as_on_the_wire(shell: Shell) -> None:
    answer = json.loads(shell.ds01("explain", "gpu", "1", "--snapshot", saved(shell, 2), "--json").stdout)
    assert answer["grant"] is None
    assert answer["denial"]["reason"] == "none-free"
    assert set(answer["denial"]) == {field.name for field in fields(Denial)}
    (against,) = answer["against"]
    assert against == answer["denial"]
    assert {frozenset(one) for one in against["to_end"]} == {frozenset(field.name for field in fields(BlockerView))}
    assert [(one["mine"], one["user"], one["units"]) for one in against["to_end"]] == [(False, "bob", "0:0,0:1")]


def test_a_saved_world_is_told_to_people(shell: Shell) -> None:
    told = shell.ds01("explain", "gpu", "3", "--snapshot", saved(shell, 0))
    assert "would be refused now" in told.stdout
    assert "\nover-units-per-container: " in told.stdout


@pytest.mark.parametrize(("file", "status"), [("nothing", 66), ("junk", 2)])
def test_files_that_are_no_world(shell: Shell, file: str, status: int) -> None:
    (shell.folder / "junk").write_text("junk")
    told = shell.ds01("explain", "gpu", "--snapshot", file)
    assert (told.returncode, told.stdout) == (status, "")
    assert f"'{file}' does not exist\n" == told.stderr or "no snapshot" in told.stderr.splitlines()[0]
