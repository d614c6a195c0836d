from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import ALICE, BOB, instance, lease

from ds01.common import ledger as module
from ds01.common.errors import LedgerBroken
from ds01.common.events import Event
from ds01.common.ledger import Ledger
from ds01.common.model import LeaseState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_lease_comes_back_as_it_was(path: Path) -> None:
    held = lease(ALICE, instance(0, 0), instance(1, 2), state=LeaseState.HELD, until=5.0)
    Ledger.open(path).save([held])
    assert Ledger.open(path).holding() == (held,)
    assert Ledger.open_to_read(path).by_id(held.id) == held


def test_two_leases_on_one_unit_can_not_be_written(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.save([lease(ALICE, instance(0, 0))])
    with pytest.raises(LedgerBroken, match="UNIQUE"):
        ledger.save([lease(BOB, instance(0, 0))])
    assert [item.uid for item in ledger.holding()] == [ALICE]


def test_a_unit_changes_hands_in_one_transaction(path: Path) -> None:
    ledger = Ledger.open(path)
    first = lease(ALICE, instance(0, 0))
    ledger.save([first])
    ledger.save([lease(BOB, instance(0, 0)), replace(first, state=LeaseState.RELEASED)])
    assert [item.uid for item in ledger.holding()] == [BOB]


def test_a_released_lease_is_remembered_and_holds_nothing(path: Path) -> None:
    ledger = Ledger.open(path)
    held = lease(ALICE, instance(0, 0))
    ledger.save([held])
    ledger.save([replace(held, state=LeaseState.RELEASED)])
    assert ledger.holding() == ()
    found = ledger.by_request(ALICE, held.request_id)
    assert found is not None
    assert found.state is LeaseState.RELEASED
    assert found.units == ()


def test_a_request_id_is_each_users_own(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.save([lease(ALICE, instance(0, 0))])
    assert ledger.by_request(BOB, f"r-l{ALICE}-0:0") is None


def test_a_failed_transaction_leaves_nothing_behind(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.save([lease(ALICE, instance(0, 0))])
    with pytest.raises(LedgerBroken):
        ledger.save([lease(ALICE, instance(1, 0)), lease(BOB, instance(0, 0))])
    assert len(ledger.holding()) == 1
    ledger.save([lease(BOB, instance(1, 1))])
    assert len(ledger.holding()) == 2


def test_events_are_kept(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.record(1.0, Event("gpu.denied", "no", user="alice", uid=ALICE, reason="none-free", limit="6"))
    assert Ledger.open(path).count_records("gpu.denied") == 1


def test_who_is_refused_in_a_loop_does_not_fill_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_NOES", 5)
    ledger = Ledger.open(path)
    ledger.record(1.0, Event("gpu.denied", "no", user="bob", uid=BOB))
    ledger.record(1.0, Event("gpu.granted", "yes", user="alice", uid=ALICE))
    for number in range(20):
        ledger.record(2.0, Event("gpu.denied", f"no {number}", user="alice", uid=ALICE))
    assert ledger.count_records("gpu.denied") == 6
    assert ledger.count_records("gpu.granted") == 1


def test_old_events_are_forgotten(path: Path) -> None:
    ledger = Ledger.open(path)
    for at in (1.0, 2.0, 3.0):
        ledger.record(at, Event("gpu.granted", "yes", user="alice", uid=ALICE))
    ledger.forget(before=2.5)
    assert ledger.count_records("gpu.granted") == 1


def test_every_commit_is_synchronous(path: Path) -> None:
    """FULL (2): the write-ahead log is synced at each commit, so that a power cut loses nothing acknowledged."""
    ledger = Ledger.open(path)
    assert ledger._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_ledger_of_a_newer_version_is_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerBroken, match="99"):
        Ledger.open(path)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 40, b"SQLite format 3\0"])
def test_a_corrupt_ledger_is_said_to_be_so(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerBroken):
        Ledger.open(path).holding()


def test_reading_does_not_make_a_ledger(path: Path) -> None:
    with pytest.raises(LedgerBroken):
        Ledger.open_to_read(path)
    assert not path.exists()
