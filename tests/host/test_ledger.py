"""The ledger in trouble: a full disk, a read-only one, a damaged file, an older version, kills after each answer."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator

import pytest
from lib.people import (
    ENGINE,
    docker_run,
    eventually,
    held,
    inspect,
    ledger,
    mine,
    pid_of,
    real_units,
    wipe,
)
from lib.running import RunningHost, Session

FILE = "/var/lib/ds01/ledger.sqlite"
ALLOCATOR = "ds01-gpu-allocator.service"
CDI = "/run/cdi/ds01.json"
DROP_IN = "/run/systemd/system/ds01-gpu-allocator.service.d/read-only.conf"
BROKEN = "ledger|disk|No space left|could not be looked at|Nothing new is granted"
RESTARTS = "Main process exited|Failed with result|Scheduled restart|killed|signal"
REPAIR = "ds01 ledger rebuild"


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    host.root(f"rm -f /var/full /var/full.rest {FILE}.broken-* {DROP_IN}; systemctl daemon-reload")
    host.root("systemctl kill -s KILL 'ds01-l*.scope'", check=False)
    problem = host.run("ada", ["ds01", "status"], check=False).err
    if REPAIR in problem:  # a test failed half-way
        host.root(f"systemctl stop {ALLOCATOR}; rm -f {FILE}*; systemctl start {ALLOCATOR}")
    wipe(host)


def program(host: RunningHost, user: str) -> Session:
    """A program of a user on one GPU, which has begun."""
    begun = host.start(user, ["ds01", "run", "--gpus", "1", "--", "sh", "-c", "echo begun; exec sleep 300"])
    assert begun.stdout is not None
    assert begun.stdout.readline() == b"begun\n"
    return begun


def end(begun: Session) -> None:
    """Ends a program."""
    begun.end("KILL")
    begun.communicate(timeout=15)


def leases(host: RunningHost) -> dict[str, str]:
    """Lease by unit."""
    return {name: unit["lease"] for name, unit in held(host).items()}


def events(host: RunningHost, name: str, since_s: float) -> int:
    """How often an event was told."""
    return len(host.journal(f"DS01_EVENT={name}", since_s=since_s))


def refused_with(host: RunningHost, user: str, words: str) -> None:
    """Every door to a GPU is closed, and says so."""
    doors = {
        "docker run --rm --gpus 1 busybox true": 125,
        "container deploy x --image busybox -d": 69,
        "ds01 run --gpus 1 -- true": 69,
    }
    for line, status in doors.items():
        told = host.run(user, line, check=False)
        assert (told.status, words in told.err) == (status, True), f"{line}: {told.err}"


def fill(host: RunningHost) -> None:
    """Not a block is left below /var/lib/ds01, and nothing in the write-ahead log that could be written over."""
    host.root(["systemctl", "restart", ALLOCATOR])
    host.root("fallocate -l $(df --output=avail -B1 /var | tail -1) /var/full", check=False)
    host.root("dd if=/dev/zero of=/var/full.rest bs=4k", check=False)
    assert host.root("df --output=avail /var | tail -1").out.strip() == "0"


@pytest.mark.expect_warnings(BROKEN)
def test_a_full_disk_stops_grants_and_nothing_else(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1")
    docker_run(host, "alice", "short", "--gpus", "1")
    runs = program(host, "bob")
    host.run("carol", ["docker", "run", "--rm", "busybox", "true"])  # a slice is written down, too, when it is new
    before, pid, since = leases(host), pid_of(host, "train"), time.time()
    fill(host)
    refused_with(host, "carol", "the ledger can't be written: database or disk is full")
    assert leases(host) == before
    assert pid_of(host, "train") == pid
    assert runs.poll() is None
    assert (events(host, "ledger.broken", since), events(host, "ledger.mended", since)) == (1, 0), "told once"
    for line in ("docker ps", "docker exec train true", "docker stop -t 0 short", "docker rm short"):
        host.run("alice", line)
    host.root("rm /var/full /var/full.rest")
    docker_run(host, "carol", "c1", "--gpus", "1")
    assert real_units(host, "c1") == mine(host, "carol")
    assert events(host, "ledger.broken", since) == events(host, "ledger.mended", since) > 0
    expected = {"alice": 1, "bob": 1, "carol": 1}
    eventually(lambda: {user: len(mine(host, user)) for user in expected} == expected, "no lease is lost or leaked", 20)
    assert pid_of(host, "train") == pid
    end(runs)


@pytest.mark.expect_warnings(BROKEN)
def test_a_read_only_ledger_stops_grants_and_nothing_else(host: RunningHost) -> None:
    """As after an error of the disk, when the kernel has made /var read-only and the machine was booted so."""
    docker_run(host, "alice", "train", "--gpus", "1")
    docker_run(host, "alice", "short", "--gpus", "1")
    before, pid, entries = leases(host), pid_of(host, "train"), host.read(CDI)
    host.root(["mkdir", "-p", DROP_IN.rpartition("/")[0]])
    host.write(DROP_IN, "[Service]\nReadWritePaths=\nReadWritePaths=/run/cdi\n")
    host.root(f"systemctl daemon-reload; systemctl restart {ALLOCATOR}")
    refused_with(host, "carol", "can't be opened: its file system is read-only")
    assert host.root(["systemctl", "is-active", ALLOCATOR]).out == "active\n"
    assert (pid_of(host, "train"), host.read(CDI)) == (pid, entries)
    host.run("alice", "docker ps && docker stop -t 0 short")
    told = host.run("ada", [*REPAIR.split(), "--yes"], check=False)
    assert told.status == 69
    assert "can't be put aside: Read-only file system" in told.err
    host.root(f"rm {DROP_IN}; systemctl daemon-reload; systemctl restart {ALLOCATOR}")
    assert leases(host) == before
    assert pid_of(host, "train") == pid
    docker_run(host, "carol", "c1", "--gpus", "1")


# --- a damaged file ---


def damage(host: RunningHost) -> None:
    """Stop the allocator, and write over all pages of the file but the first."""
    host.root(["systemctl", "stop", "ds01-gpu-allocator.socket", ALLOCATOR])
    pages = int(host.root(["stat", "-c", "%s", FILE]).out) // 4096 - 1
    host.root(f"dd if=/dev/urandom of={FILE} bs=4096 seek=1 count={pages} conv=notrunc; rm -f {FILE}-wal {FILE}-shm")


def start(host: RunningHost) -> None:
    """The allocator and its socket."""
    host.root(["systemctl", "start", "ds01-gpu-allocator.socket", ALLOCATOR])


@pytest.mark.expect_warnings(BROKEN)
def test_a_damaged_ledger_is_made_anew_from_what_runs(host: RunningHost) -> None:
    docker_run(host, "carol", "stopped", "--gpus", "1")
    docker_run(host, "alice", "keep", "--gpus", "1", "--restart", "always")
    docker_run(host, "alice", "named", "--gpus", "device=1:2")
    runs = program(host, "bob")
    host.run("carol", ["docker", "stop", "-t", "0", "stopped"])
    scope = host.root("systemctl list-units --no-legend --plain 'ds01-l*.scope'").out.split()[0]
    keeps, entries = real_units(host, "keep"), host.read(CDI)
    expected = {"0:0": "stopped", "1:0": "keep", "1:2": "named", "0:1": "sh"}
    assert {name: unit["container"] for name, unit in held(host).items()} == expected
    damage(host)
    start(host)
    assert host.root(["systemctl", "is-active", ALLOCATOR]).out == "active\n"
    eventually(lambda: "grants nothing" in host.root(["systemctl", "show", "-P", "StatusText", ALLOCATOR]).out, "told")
    refused_with(host, "bob", REPAIR)
    for line in ("ds01 status", "ds01 queue", "ds01 explain gpu"):
        told = host.run("bob", line, check=False)
        assert (told.status, REPAIR in told.err) == (69, True), line

    first = pid_of(host, "keep")
    host.root(["kill", "-KILL", str(first)])
    eventually(lambda: pid_of(host, "keep") not in (0, first), "the engine starts it again")
    assert real_units(host, "keep") == keeps
    assert host.read(CDI) == entries, "what is not known has not changed"

    assert host.run("bob", [*REPAIR.split(), "--yes"], check=False).status == 77
    told = host.run("ada", [*REPAIR.split(), "--yes"], check=False)
    assert told.status == 2
    assert f"end {scope} first" in told.err
    end(runs)
    eventually(lambda: "ds01-l" not in host.root("systemctl list-units --no-legend 'ds01-l*.scope'").out, "it is gone")
    said = host.run("ada", [*REPAIR.split(), "--yes"]).out
    assert "'keep' of alice holds 1:0" in said
    assert host.root(f"ls {FILE}.broken-*").out.strip() in said
    assert {name: (unit["container"], unit["state"]) for name, unit in held(host).items()} == {
        name: (container, "active") for name, container in expected.items() if container in ("keep", "named")
    }
    assert real_units(host, "keep") == keeps
    docker_run(host, "bob", "b1", "--gpus", "1")
    assert real_units(host, "b1") == ["0:0"]
    host.run("carol", ["docker", "start", "stopped"])
    assert real_units(host, "stopped") == mine(host, "carol") == ["0:1"]
    host.run("alice", ["docker", "stop", "-t", "0", "keep"])
    eventually(lambda: held(host)["1:0"]["state"] == "held", "the new lease lives like any other")
    host.run("alice", ["docker", "start", "keep"])
    assert real_units(host, "keep") == keeps
    told = host.run("ada", [*REPAIR.split(), "--yes"], check=False)
    assert "the ledger is well" in told.err


@pytest.mark.expect_warnings(BROKEN)
def test_a_damaged_ledger_keeps_no_machine_from_booting(host: RunningHost) -> None:
    docker_run(host, "alice", "train", "--gpus", "1", "--restart", "always")
    docker_run(host, "carol", "plain", "--restart", "always")
    damage(host)
    host.root(["sync"])
    host.cut_power()
    assert host.root(["systemctl", "is-active", "docker.service"]).out == "active\n"
    eventually(lambda: inspect(host, "plain")["State"]["Running"], "what has no GPU runs")
    assert not inspect(host, "train")["State"]["Running"]
    (told,) = host.journal("DS01_EVENT=boot.degraded")
    assert REPAIR in told["MESSAGE"]
    refused_with(host, "bob", REPAIR)
    host.run("ada", [*REPAIR.split(), "--yes"])
    assert held(host) == {}
    host.run("alice", ["docker", "start", "train"])
    assert real_units(host, "train") == mine(host, "alice")


# --- an older version ---

VERSION_1 = """
    import os, sqlite3
    path = "/var/lib/ds01/ledger.sqlite"
    new = sqlite3.connect(path + ".1", isolation_level=None)
    new.executescript('''
    CREATE TABLE lease (
        id TEXT PRIMARY KEY, request_id TEXT NOT NULL, uid INTEGER NOT NULL, user TEXT NOT NULL, grp TEXT NOT NULL,
        container TEXT NOT NULL, container_name TEXT NOT NULL, count INTEGER NOT NULL,
        state TEXT NOT NULL, since REAL NOT NULL, until REAL, UNIQUE (uid, request_id)
    ) STRICT;
    CREATE INDEX lease_state ON lease (state);
    CREATE TABLE lease_unit (
        unit TEXT PRIMARY KEY, lease TEXT NOT NULL REFERENCES lease (id), position INTEGER NOT NULL,
        name TEXT NOT NULL, profile TEXT NOT NULL, size TEXT NOT NULL
    ) STRICT;
    CREATE TABLE record (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, event TEXT NOT NULL, uid INTEGER, user TEXT NOT NULL,
        lease TEXT NOT NULL, gpu TEXT NOT NULL, container TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL
    ) STRICT;
    CREATE INDEX record_at ON record (at);
    CREATE INDEX record_of ON record (event, uid);
    PRAGMA user_version = 1;
    ATTACH '/var/lib/ds01/ledger.sqlite' AS now;
    INSERT INTO lease SELECT id, request_id, uid, user, grp, container, container_name, count, state, since, until
        FROM now.lease WHERE kind = 'container';
    INSERT INTO lease_unit SELECT * FROM now.lease_unit;
    INSERT INTO record SELECT * FROM now.record;
    DETACH now;
    ''')
    new.close()
    os.replace(path + ".1", path)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
    """


@pytest.mark.parametrize("first", ["ds01-boot.service docker.service", ALLOCATOR], ids=["boot", "allocator"])
def test_a_ledger_of_version_1_is_read_on(host: RunningHost, first: str) -> None:
    docker_run(host, "alice", "train", "--gpus", "2")
    docker_run(host, "bob", "sweep", "--gpus", "1")
    host.run("bob", ["docker", "stop", "-t", "0", "sweep"])
    eventually(lambda: len(held(host)) == 3 and "held" in {unit["state"] for unit in held(host).values()}, "it is held")
    before, pid, has = held(host), pid_of(host, "train"), real_units(host, "train")
    records = ledger(host, "SELECT count(*) FROM record")[0][0]
    host.root(["systemctl", "stop", "ds01-gpu-allocator.socket", ALLOCATOR])
    host.root(["python3", "-c", textwrap.dedent(VERSION_1)])
    assert ledger(host, "PRAGMA user_version") == [[1]]
    host.root(f"systemctl restart {first}")
    assert ledger(host, "PRAGMA user_version") == [[2]]
    start(host)
    eventually(lambda: held(host) == before, "nothing is lost")
    assert ledger(host, "SELECT count(*) FROM record")[0][0] >= records
    assert sorted(ledger(host, "SELECT request FROM lease WHERE state IN ('active', 'held')")) == [["1"], ["2"]]
    assert (pid_of(host, "train"), real_units(host, "train")) == (pid, has)
    host.run("bob", ["docker", "start", "sweep"])
    assert real_units(host, "sweep") == mine(host, "bob")


# --- what was acknowledged is there ---


@pytest.mark.expect_warnings(RESTARTS)
def test_what_was_answered_is_there_after_a_kill(host: RunningHost) -> None:
    """The kill follows the answer at once, thirty times: a lease, a container that runs, and one that is gone."""
    kill = f"systemctl kill -s KILL {ALLOCATOR}"
    for number in range(30):
        name = f"k{number}"
        line = f"docker create --name {name} --gpus 1 busybox sleep infinity"
        identity = host.run("ada", line).out.strip()
        host.root(kill)
        query = (
            f"SELECT state FROM lease JOIN lease_unit ON lease = lease.id WHERE request_id = '{requested(host, name)}'"
        )
        assert len(ledger(host, query)) == 1, f"lease {number} was answered and is not there"
        assert identity
        if number % 5 == 4:
            host.root(f"docker -H {ENGINE} ps -aq | xargs docker -H {ENGINE} rm -f")
            eventually(lambda: not held(host), "all are free")
    units = ledger(host, "SELECT count(*), count(DISTINCT unit) FROM lease_unit")[0]
    assert units == [0, 0]


def requested(host: RunningHost, container: str) -> str:
    """The request by which the container was made."""
    return str(inspect(host, container)["Config"]["Labels"]["ds01.request"])
