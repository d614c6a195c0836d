"""The ledger: who holds which unit, and what must not be lost. SQLite, durable before anybody is answered.

The allocator is its only writer; ds01-boot reads it. That no unit has two live leases is a primary key here,
below every decision.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from ds01.common.errors import LedgerBroken
from ds01.common.events import Event
from ds01.common.model import HOLDING, Lease, LeasedUnit, LeaseState, UnitKey

LEDGER_FILE = Path("/var/lib/ds01/ledger.sqlite")

SCHEMA_VERSION = 1

KEPT_S = 400 * 86400.0
"""Events older than this are forgotten when the ledger is opened: a year, and some weeks to look back on it."""

KEPT_NOES = 2000
"""How many denials and refusals are kept of each user: whoever asks in a loop must not fill the disk."""

_NOES = ("gpu.denied", "access.refused")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lease (
    id TEXT PRIMARY KEY, request_id TEXT NOT NULL, uid INTEGER NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL,
    container TEXT NOT NULL, container_name TEXT NOT NULL, count INTEGER NOT NULL,
    state TEXT NOT NULL, since REAL NOT NULL, until REAL,
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
"""


_IDENTITY = ("id", "request_id", "uid", "user", "group", "container", "container_name", "count")

_UPSERT = """
INSERT INTO lease VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET
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


class Ledger:
    """An open ledger. Every method that writes is one durable transaction and raises `LedgerBroken` if it can't."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path = LEDGER_FILE) -> Ledger:
        """Open for writing; made if there is none.

        Raises:
            LedgerBroken: it can't be opened, is corrupt, or belongs to a newer version.
        """
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > SCHEMA_VERSION:
                raise LedgerBroken(f"the ledger '{path}' is of version {found}, this program writes {SCHEMA_VERSION}")
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except sqlite3.Error as exc:
            raise LedgerBroken(f"the ledger '{path}' can't be opened: {exc}") from exc
        return cls(connection)

    @classmethod
    def open_to_read(cls, path: Path = LEDGER_FILE) -> Ledger:
        """Open an existing ledger for reading, with whatever its write-ahead log still holds.

        Raises:
            LedgerBroken: there is none, or it can't be read.
        """
        try:
            connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=5.0)
            connection.execute("SELECT count(*) FROM lease")
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

    def save(self, leases: Iterable[Lease], events: Iterable[tuple[float, Event]] = ()) -> None:
        """Store leases as they are now, and the events that explain it, in one transaction.

        A lease that holds nothing any more gives its units back. Releases are written before grants, whatever the
        order of `leases`, so that a unit can change hands in one transaction.
        """
        ordered = sorted(leases, key=lambda lease: lease.state in HOLDING)
        with self._transaction() as cursor:
            for lease in ordered:
                self._save(cursor, lease)
            for at, event in events:
                self._record(cursor, at, event)

    def record(self, at: float, event: Event) -> None:
        """Store one event that changes no lease."""
        with self._transaction() as cursor:
            self._record(cursor, at, event)

    def count_records(self, event: str) -> int:
        """How many events of this name were ever recorded."""
        row = self._connection.execute("SELECT count(*) FROM record WHERE event = ?", (event,)).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Give the file up."""
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

    def _leases(self, where: str, arguments: Iterable[object]) -> tuple[Lease, ...]:
        try:
            rows = self._connection.execute(
                "SELECT id, request_id, uid, user, grp, container, container_name, count, state, since, until "
                f"FROM lease {where} ORDER BY since, id",
                tuple(str(item) if isinstance(item, LeaseState) else item for item in arguments),
            ).fetchall()
            return tuple(self._lease(row) for row in rows)
        except (sqlite3.Error, ValueError) as exc:
            raise LedgerBroken(f"the ledger can't be read: {exc}") from exc

    def _lease(self, row: tuple[Any, ...]) -> Lease:
        *identity, state, since, until = row
        known = dict(zip(_IDENTITY, identity, strict=True))
        return Lease(**known, state=LeaseState(state), since=since, until=until, units=self._units(row[0]))

    def _units(self, lease: str) -> tuple[LeasedUnit, ...]:
        rows = self._connection.execute(
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
        except sqlite3.Error as exc:
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
