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
from ds01.common.model import Entry, LeaseKind, LeaseState, Share, Waiter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def test_a_lease_comes_back_as_it_was(path: Path) -> None:
    held = lease(ALICE, instance(0, 0), instance(1, 2), state=LeaseState.HELD, until=5.0)
    Ledger.open(path).write([Entry(leases=(held,))])
    assert Ledger.open(path).holding() == (held,)
    assert Ledger.open_to_read(path).by_id(held.id) == held


def test_two_leases_on_one_unit_can_not_be_written(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.write([Entry(leases=(lease(ALICE, instance(0, 0)),))])
    with pytest.raises(LedgerBroken, match="UNIQUE"):
        ledger.write([Entry(leases=(lease(BOB, instance(0, 0)),))])
    assert [item.uid for item in ledger.holding()] == [ALICE]


def test_a_unit_changes_hands_in_one_transaction(path: Path) -> None:
    ledger = Ledger.open(path)
    first = lease(ALICE, instance(0, 0))
    ledger.write([Entry(leases=(first,))])
    ledger.write(
        [
            Entry(
                leases=(
                    lease(BOB, instance(0, 0)),
                    replace(first, state=LeaseState.RELEASED),
                )
            )
        ]
    )
    assert [item.uid for item in ledger.holding()] == [BOB]


def test_a_released_lease_is_remembered_and_holds_nothing(path: Path) -> None:
    ledger = Ledger.open(path)
    held = lease(ALICE, instance(0, 0))
    ledger.write([Entry(leases=(held,))])
    ledger.write([Entry(leases=(replace(held, state=LeaseState.RELEASED),))])
    assert ledger.holding() == ()
    found = ledger.by_request(ALICE, held.request_id)
    assert found is not None
    assert found.state is LeaseState.RELEASED
    assert found.units == ()


def test_a_request_id_is_each_users_own(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.write([Entry(leases=(lease(ALICE, instance(0, 0)),))])
    assert ledger.by_request(BOB, f"r-l{ALICE}-0:0") is None


def test_a_failed_transaction_leaves_nothing_behind(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.write([Entry(leases=(lease(ALICE, instance(0, 0)),))])
    with pytest.raises(LedgerBroken):
        ledger.write(
            [
                Entry(
                    leases=(
                        lease(ALICE, instance(1, 0)),
                        lease(BOB, instance(0, 0)),
                    )
                )
            ]
        )
    assert len(ledger.holding()) == 1
    ledger.write([Entry(leases=(lease(BOB, instance(1, 1)),))])
    assert len(ledger.holding()) == 2


def test_events_are_kept(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.write(
        [Entry(events=((1.0, Event("gpu.denied", "no", user="alice", uid=ALICE, reason="none-free", limit="6")),))]
    )
    assert Ledger.open(path).count_records("gpu.denied") == 1


def test_who_is_refused_in_a_loop_does_not_fill_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_NOES", 5)
    ledger = Ledger.open(path)
    ledger.write([Entry(events=((1.0, Event("gpu.denied", "no", user="bob", uid=BOB)),))])
    ledger.write([Entry(events=((1.0, Event("gpu.granted", "yes", user="alice", uid=ALICE)),))])
    for number in range(20):
        ledger.write([Entry(events=((2.0, Event("gpu.denied", f"no {number}", user="alice", uid=ALICE)),))])
    assert ledger.count_records("gpu.denied") == 6
    assert ledger.count_records("gpu.granted") == 1


def test_old_events_are_forgotten(path: Path) -> None:
    ledger = Ledger.open(path)
    for at in (1.0, 2.0, 3.0):
        ledger.write([Entry(events=((at, Event("gpu.granted", "yes", user="alice", uid=ALICE)),))])
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


def test_a_ledger_of_version_1_is_brought_to_this_one(path: Path) -> None:
    held = lease(ALICE, instance(0, 0), instance(1, 2))
    Ledger.open(path).write([Entry(leases=(held,))])
    old = sqlite3.connect(path)
    old.executescript("""
        ALTER TABLE lease DROP COLUMN kind; ALTER TABLE lease DROP COLUMN request;
        DROP TABLE waiter; DROP TABLE share; PRAGMA user_version = 1;
    """)
    old.close()
    expected = replace(held, request="2")
    assert Ledger.open_to_read(path).holding() == (expected,)
    assert Ledger.open(path).holding() == (expected,)


def test_who_waits_and_gpu_time_come_back_as_they_were(path: Path) -> None:
    waiter = Waiter("r1", ALICE, "alice", "student", "2x2g.10gb", "train", LeaseKind.HOST, 1.0, None)
    other = replace(waiter, uid=BOB, user="bob")
    ledger = Ledger.open(path)
    ledger.write([Entry(waiting=(waiter, other), shares=((ALICE, Share(3.5, 2.0)),))])
    assert set(Ledger.open(path).waiters()) == {waiter, other}
    assert Ledger.open(path).shares() == {ALICE: Share(3.5, 2.0)}
    ledger.write([Entry(gone=((ALICE, "r1"),), shares=((ALICE, Share(1.0, 3.0)),))])
    assert Ledger.open(path).waiters() == (other,)
    assert Ledger.open(path).shares() == {ALICE: Share(1.0, 3.0)}


def test_a_damaged_page_is_found_when_it_is_opened(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.write(
        [
            Entry(
                leases=tuple(
                    replace(
                        lease(ALICE, instance(0, 0), state=LeaseState.RELEASED),
                        id=f"l{number}",
                        request_id=f"r{number}",
                    )
                    for number in range(300)
                )
            )
        ]
    )
    ledger.close()
    raw = bytearray(path.read_bytes())
    raw[3 * 4096 : 7 * 4096] = b"\xa5" * (4 * 4096)
    path.write_bytes(raw)
    with pytest.raises(LedgerBroken):
        Ledger.open(path)


def test_what_is_being_written_is_not_read_before_it_is_durable(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger._connection.execute("BEGIN IMMEDIATE")
    ledger._connection.execute("INSERT INTO share VALUES (1, 1.0, 1.0)")
    assert ledger.shares() == {}
    ledger._connection.execute("COMMIT")
    assert set(ledger.shares()) == {1}


def test_what_has_no_form_in_the_file_is_said_to_be_so(path: Path) -> None:
    ledger = Ledger.open(path)
    with pytest.raises(LedgerBroken):
        ledger.write([Entry(events=((1.0, Event("gpu.denied", "no", user="\ud800", uid=ALICE)),))])
    with pytest.raises(LedgerBroken):
        ledger.by_request(ALICE, "\ud800")
    ledger.write([Entry(leases=(lease(ALICE, instance(0, 0)),))])
    assert len(ledger.holding()) == 1


def test_what_one_user_makes_it_keep_has_an_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KEPT_OF_USER": 10, "KEPT_LEASES": 3, "SWEEP": 5}.items():
        monkeypatch.setattr(module, name, value)
    ledger = Ledger.open(path)
    held = lease(BOB, instance(0, 0))
    ledger.write([Entry(leases=(held,), events=((1.0, Event("gpu.granted", "yes", uid=BOB)),))])
    for number in range(40):
        ended = replace(
            lease(ALICE, instance(0, 1), state=LeaseState.RELEASED),
            id=f"l{number}",
            request_id=f"r{number}",
            since=float(number),
        )
        ledger.write([Entry(leases=(ended,), events=((1.0, Event("gpu.released", "ended", uid=ALICE)),))])
    assert ledger.count_records("gpu.released") <= 15
    assert ledger.count_records("gpu.granted") == 1
    assert ledger.by_id("l0") is None
    assert ledger.by_id("l39") is not None
    assert ledger.holding() == (held,)
