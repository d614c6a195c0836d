"""The ledger: who holds which unit, who waits, and what must not be lost. SQLite, durable before anybody is answered.

The allocator is its only writer; ds01-boot reads it. That no unit has two live leases is a primary key here,
below every decision.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from ds01.common.errors import LedgerBroken
from ds01.common.events import Event
from ds01.common.model import (
    HOLDING,
    Entry,
    Lease,
    LeasedUnit,
    LeaseKind,
    LeaseState,
    Share,
    UnitKey,
    Waiter,
)

LEDGER_FILE = Path("/var/lib/ds01/ledger.sqlite")

SCHEMA_VERSION = 2

KEPT_S = 400 * 86400.0
"""Events older than this are forgotten when the ledger is opened: a year, and some weeks to look back on it."""

KEPT_NOES = 2000
"""How many denials and refusals are kept of each user: whoever asks in a loop must not fill the disk."""

KEPT_OF_USER = 20_000
KEPT_LEASES = 2000
"""How many events, and how many leases that have ended, are kept of each user, about: looked at every SWEEP events."""

SWEEP = 256

_NOES = ("gpu.denied", "access.refused")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, uid INTEGER NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL,
    container TEXT NOT NULL, container_name TEXT NOT NULL, count INTEGER NOT NULL,
    state TEXT NOT NULL, since REAL NOT NULL, until REAL,
    kind TEXT NOT NULL DEFAULT 'container', request TEXT NOT NULL DEFAULT '',
    UNIQUE (uid, request_id)
) STRICT;
CREATE INDEX IF NOT EXISTS lease_state ON lease (state);
CREATE TABLE IF NOT EXISTS lease_unit (
    unit TEXT PRIMARY KEY, lease TEXT NOT NULL REFERENCES lease (id), position INTEGER NOT NULL,
    name TEXT NOT NULL, profile TEXT NOT NULL, size TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS record (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, event TEXT NOT NULL, uid INTEGER, user TEXT NOT NULL,
    lease TEXT NOT NULL, gpu TEXT NOT NULL, container TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS record_at ON record (at);
CREATE INDEX IF NOT EXISTS record_of ON record (event, uid);
CREATE INDEX IF NOT EXISTS record_by ON record (uid, id);
CREATE INDEX IF NOT EXISTS lease_by ON lease (uid, state, since);
CREATE TABLE IF NOT EXISTS waiter (
    uid INTEGER NOT NULL, request_id TEXT NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL, request TEXT NOT NULL,
    name TEXT NOT NULL, kind TEXT NOT NULL, since REAL NOT NULL, until REAL, PRIMARY KEY (uid, request_id)
) STRICT;
CREATE TABLE IF NOT EXISTS share (uid INTEGER PRIMARY KEY, value REAL NOT NULL, at REAL NOT NULL) STRICT;
"""

_FROM_1 = """
ALTER TABLE lease ADD COLUMN kind TEXT NOT NULL DEFAULT 'container';
ALTER TABLE lease ADD COLUMN request TEXT NOT NULL DEFAULT '';
UPDATE lease SET request = count;
"""
"""Version 1 knew leases of containers by count alone."""

_IDENTITY = ("id", "request_id", "uid", "user", "group", "container", "container_name", "count")

_UPSERT = """
INSERT INTO lease VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET
    container = excluded.container, container_name = excluded.container_name, count = excluded.count,
    state = excluded.state, since = excluded.since, until = excluded.until
"""

_RECORD = """
INSERT INTO record (at, event, uid, user, lease, gpu, container, reason, detail) VALUES (?,?,?,?,?,?,?,?,?)
"""

_KEEP_FEW = """
DELETE FROM record WHERE event = :event AND uid = :uid AND id <= (
    SELECT id FROM record WHERE event = :event AND uid = :uid ORDER BY id DESC LIMIT 1 OFFSET :kept)
"""

_KEEP_EVENTS = """
DELETE FROM record WHERE uid = :uid AND id <= (
    SELECT id FROM record WHERE uid = :uid ORDER BY id DESC LIMIT 1 OFFSET :kept)
"""

_KEEP_LEASES = """
DELETE FROM lease WHERE uid = :uid AND state = 'released' AND since <= (
    SELECT since FROM lease WHERE uid = :uid AND state = 'released' ORDER BY since DESC LIMIT 1 OFFSET :kept)
"""


class Ledger:
    """An open ledger. Every method that writes is one durable transaction and raises `LedgerBroken` if it can't.

    It may be written in one thread while it is read in another: they have a connection each.
    """

    def __init__(self, connection: sqlite3.Connection, reader: sqlite3.Connection | None = None) -> None:
        self._connection = connection
        self._reader = reader or connection

    @classmethod
    def open(cls, path: Path = LEDGER_FILE) -> Ledger:
        """Open for writing; made if there is none.

        Raises:
            LedgerBroken: it can't be opened, is corrupt, or belongs to a newer version.
        """
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            _prepare(connection, path)
            reader = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        except sqlite3.Error as exc:
            why = str(exc) if os.access(path.parent, os.W_OK) else "its file system is read-only"
            raise LedgerBroken(f"the ledger '{path}' can't be opened: {why}") from exc
        return cls(connection, reader)

    @classmethod
    def open_to_read(cls, path: Path = LEDGER_FILE) -> Ledger:
        """Open an existing ledger for reading, with whatever its write-ahead log still holds.

        Raises:
            LedgerBroken: there is none, or it can't be read.
        """
        try:
            connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=5.0)
            connection.execute("SELECT count(*) FROM lease")
            _prepare(connection, path)
        except sqlite3.Error as exc:
            raise LedgerBroken(f"the ledger '{path}' can't be read: {exc}") from exc
        return cls(connection)

    def holding(self) -> tuple[Lease, ...]:
        """All leases that hold units."""
        marks = ",".join("?" * len(HOLDING))
        return self._leases(f"WHERE state IN ({marks})", HOLDING)

    def by_request(self, uid: int, request_id: str) -> Lease | None:
        """The lease that this request of `uid` made, in any state."""
        return next(iter(self._leases("WHERE uid = ? AND request_id = ?", (uid, request_id))), None)

    def by_id(self, lease: str) -> Lease | None:
        """The lease with this id, in any state."""
        return next(iter(self._leases("WHERE id = ?", (lease,))), None)

    def waiters(self) -> tuple[Waiter, ...]:
        """Who waits, in no order."""
        rows = self._read("SELECT request_id, uid, user, grp, request, name, kind, since, until FROM waiter")
        return tuple(
            Waiter(request_id, uid, user, group, request, name, LeaseKind(kind), since, until)
            for request_id, uid, user, group, request, name, kind, since, until in rows
        )

    def shares(self) -> dict[int, Share]:
        """GPU time by uid."""
        return {uid: Share(value, at) for uid, value, at in self._read("SELECT uid, value, at FROM share")}

    def write(self, entries: Iterable[Entry]) -> None:
        """Store entries, one after the other, in one durable transaction.

        A lease that holds nothing any more gives its units back. Within an entry releases are written before grants,
        whatever the order of its leases, so that a unit can change hands in it.
        """
        with self._transaction() as cursor:
            for entry in entries:
                self._store(cursor, entry)

    def _store(self, cursor: sqlite3.Cursor, entry: Entry) -> None:
        for lease in sorted(entry.leases, key=lambda lease: lease.state in HOLDING):
            self._save(cursor, lease)
        for at, event in entry.events:
            self._record(cursor, at, event)
        for uid, share in entry.shares:
            cursor.execute("INSERT OR REPLACE INTO share VALUES (?,?,?)", (uid, share.value, share.at))
        for key in entry.gone:
            cursor.execute("DELETE FROM waiter WHERE uid = ? AND request_id = ?", key)
        for one in entry.waiting:
            cursor.execute(
                "INSERT OR REPLACE INTO waiter VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    one.uid, one.request_id, one.user, one.group, one.request, one.name, one.kind.value, one.since,
                    one.until,
                ),
            )  # fmt: skip

    def count_records(self, event: str) -> int:
        """How many events of this name were ever recorded."""
        return int(self._read("SELECT count(*) FROM record WHERE event = ?", (event,))[0][0])

    def close(self) -> None:
        """Give the file up."""
        self._reader.close()
        self._connection.close()

    def _save(self, cursor: sqlite3.Cursor, lease: Lease) -> None:
        cursor.execute(
            _UPSERT,
            (
                lease.id,
                lease.request_id,
                lease.uid,
                lease.user,
                lease.group,
                lease.container,
                lease.container_name,
                lease.count,
                lease.state.value,
                lease.since,
                lease.until,
                lease.kind.value,
                lease.request,
            ),
        )
        cursor.execute("DELETE FROM lease_unit WHERE lease = ?", (lease.id,))
        if lease.state in HOLDING:
            cursor.executemany(
                "INSERT INTO lease_unit VALUES (?,?,?,?,?,?)",
                [
                    (str(unit.key), lease.id, position, unit.name, unit.profile, str(unit.size))
                    for position, unit in enumerate(lease.units)
                ],
            )

    def forget(self, before: float) -> None:
        """Delete events from before a time (seconds of the epoch)."""
        with self._transaction() as cursor:
            cursor.execute("DELETE FROM record WHERE at < ?", (before,))

    def _record(self, cursor: sqlite3.Cursor, at: float, event: Event) -> None:
        cursor.execute(
            _RECORD,
            (
                at,
                event.name,
                event.uid,
                event.user,
                event.lease,
                event.gpu,
                event.container,
                event.reason,
                json.dumps({"message": event.message, **event.journal_fields()}),
            ),
        )
        if event.name in _NOES:
            cursor.execute(_KEEP_FEW, {"event": event.name, "uid": event.uid, "kept": KEPT_NOES})
        if event.uid is not None and (cursor.lastrowid or 0) % SWEEP == 0:
            cursor.execute(_KEEP_EVENTS, {"uid": event.uid, "kept": KEPT_OF_USER})
            cursor.execute(_KEEP_LEASES, {"uid": event.uid, "kept": KEPT_LEASES})

    def _leases(self, where: str, arguments: Iterable[object]) -> tuple[Lease, ...]:
        rows = self._read(
            "SELECT id, request_id, uid, user, grp, container, container_name, count, state, since, until, kind, "
            f"request FROM lease {where} ORDER BY since, id",
            tuple(str(item) if isinstance(item, LeaseState) else item for item in arguments),
        )
        try:
            return tuple(self._lease(row) for row in rows)
        except (sqlite3.Error, ValueError) as exc:
            raise LedgerBroken(f"the ledger can't be read: {exc}") from exc

    def _read(self, query: str, arguments: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._reader.execute(query, arguments).fetchall()
        except (sqlite3.Error, ValueError, OverflowError) as exc:
            raise LedgerBroken(f"the ledger can't be read: {exc}") from exc

    def _lease(self, row: tuple[Any, ...]) -> Lease:
        *identity, state, since, until, kind, request = row
        known = dict(zip(_IDENTITY, identity, strict=True))
        return Lease(
            **known, state=LeaseState(state), since=since, until=until, units=self._units(row[0]),
            kind=LeaseKind(kind), request=request,
        )  # fmt: skip

    def _units(self, lease: str) -> tuple[LeasedUnit, ...]:
        rows = self._reader.execute(
            "SELECT unit, name, profile, size FROM lease_unit WHERE lease = ? ORDER BY position", (lease,)
        )
        return tuple(LeasedUnit(UnitKey.parse(key), name, profile, Fraction(size)) for key, name, profile, size in rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        cursor = self._connection.cursor()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            yield cursor
            cursor.execute("COMMIT")
        except (sqlite3.Error, ValueError, OverflowError) as exc:  # the last two: what SQLite has no form for
            self._roll_back(cursor)
            raise LedgerBroken(f"the ledger can't be written: {exc}") from exc
        except BaseException:
            self._roll_back(cursor)
            raise

    @staticmethod
    def _roll_back(cursor: sqlite3.Cursor) -> None:
        try:
            cursor.execute("ROLLBACK")
        except sqlite3.Error:
            return  # there is no transaction any more: nothing was written


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a new or older file to this version, and look whether what leases depend on is whole.

    Raises:
        LedgerBroken: it is corrupt, or of a newer version.
    """
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        raise LedgerBroken(f"the ledger '{path}' is of version {found}, this program writes {SCHEMA_VERSION}")
    if found < SCHEMA_VERSION:
        steps = _FROM_1 if found == 1 else ""
        connection.executescript(f"BEGIN; {steps} {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    for table in ("lease", "lease_unit", "waiter", "share"):
        said = connection.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        if said != "ok":
            raise LedgerBroken(f"the ledger '{path}' is damaged: {said}")
