"""Every limit follows one YAML on the real host: saving, breaking, reboots, hands. Longer, as one world is built once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from conftest import FreshHost
from lib.people import POLICY, docker_run, eventually, inspect, pid_of, policy_text, set_policy, wipe
from lib.running import Entry, RunningHost

ALICE = "ds01-student-alice.slice"
GIB = 1 << 30
SYNC = "ds01-limits-sync.service"
PUBLISHED = "/run/ds01/policy.json"


@pytest.fixture(autouse=True)
def _clean(host: RunningHost) -> Iterator[None]:
    yield
    wipe(host)


def show(host: RunningHost, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    shown = host.root(["systemctl", "show", unit, *(f"--property={name}" for name in names)]).out
    return dict(line.split("=", 1) for line in shown.splitlines())


def has(host: RunningHost, unit: str, **properties: object) -> bool:
    """Whether systemd has these properties for a unit."""
    return show(host, unit, *properties) == {name: str(value) for name, value in properties.items()}


def save(host: RunningHost, changes: dict[str, object]) -> None:
    """Change values of the YAML as a careful program does; nobody is told."""
    host.write(f"{POLICY}.new", policy_text(host, changes))
    host.root(["mv", f"{POLICY}.new", POLICY])


def aggregate(memory_gib: int, tasks: int = 1000, cpu: str = "80%") -> dict[str, object]:
    """What all containers of a student may have together."""
    return {"groups.student.aggregate": {"memory_max": f"{memory_gib}g", "tasks_max": tasks, "cpu_quota": cpu}}


def events(host: RunningHost, name: str, since: float, text: str = "") -> list[Entry]:
    """Events since a time whose message has `text` in it."""
    return [entry for entry in host.journal(f"DS01_EVENT={name}", since_s=since) if text in entry["MESSAGE"]]


def make_slice(host: RunningHost, user: str = "alice") -> None:
    """A slice comes with the first container and stays."""
    host.run(user, ["docker", "run", "--rm", "busybox", "true"])


def status(host: RunningHost) -> str:
    """What `systemctl status` says of limits_sync."""
    return show(host, SYNC, "StatusText")["StatusText"]


# --- saved is in force ----------------------------------------------------------------------------------------------


def test_an_edit_holds_on_what_runs_and_the_event_tells_old_and_new(host: RunningHost) -> None:
    docker_run(host, "alice", "train")
    set_policy(host, aggregate(4, tasks=900, cpu="80%"))
    before, since = inspect(host, "train")["State"], time.time()
    save(host, aggregate(3, tasks=500, cpu="50%"))
    eventually(
        lambda: has(host, ALICE, MemoryMax=3 * GIB, TasksMax=500, CPUQuotaPerSecUSec="500ms"), "the edit holds", 5
    )
    (entry,) = events(host, "limits.applied", since, ALICE)
    assert entry["DS01_OLD"] == "CPUQuota 80%, MemoryMax 4 GiB, MemoryHigh 3.6 GiB, TasksMax 900"
    assert entry["DS01_NEW"] == "CPUQuota 50%, MemoryMax 3 GiB, MemoryHigh 2.7 GiB, TasksMax 500"
    assert (entry["DS01_USER"], entry["DS01_GROUP"], entry["_SYSTEMD_UNIT"]) == ("alice", "student", SYNC)
    assert inspect(host, "train")["State"] == before
    assert ALICE in host.read(f"/proc/{pid_of(host, 'train')}/cgroup")


LINK = 'mkdir -p /srv/policy; mv "$P" /srv/policy/a.yaml; ln -s /srv/policy/a.yaml "$P"'
FOLDER = 'mkdir -p /srv/policy/v1 /srv/policy/v2; mv "$P" /srv/policy/v1/p.yaml; ln -s v1 /srv/policy/now; '
WAYS = {
    "renamed over": ("", 'mv "$N" "$P"'),
    "written in place": ("", 'cat "$N" >"$P"'),
    "written in two parts": ("", '{ head -n 20 "$N"; sleep 0.3; tail -n +21 "$N"; } >"$P"'),
    "copied over": ("", 'cp "$N" "$P"'),
    "copied to where it was removed": ("", 'rm "$P"; sleep 0.3; cp "$N" "$P"'),
    "an editor's backup and new file": ("", 'mv "$P" "$P~"; cat "$N" >"$P"; rm "$P~"'),
    "sed -i": ("", 'sed -i "s/memory_max: 5g/memory_max: 3g/" "$P"'),
    "replaced by a link": ("", 'mv "$N" /srv/p.yaml; ln -s /srv/p.yaml "$P.l"; mv -T "$P.l" "$P"'),
    "a link set to another file": (LINK, 'mv "$N" /srv/policy/b.yaml; ln -sfn /srv/policy/b.yaml "$P"'),
    "a link's target renamed over": (LINK, 'cp "$N" /srv/policy/b; mv /srv/policy/b /srv/policy/a.yaml'),
    "a link's target written in place": (LINK, 'cat "$N" >/srv/policy/a.yaml'),
    "a link's target edited by sed -i": (LINK, 'sed -i "s/memory_max: 5g/memory_max: 3g/" /srv/policy/a.yaml'),
    "a link on the way set to another folder": (
        FOLDER + 'ln -s /srv/policy/now/p.yaml "$P"',
        'mv "$N" /srv/policy/v2/p.yaml; ln -s v2 /srv/policy/next; mv -T /srv/policy/next /srv/policy/now',
    ),
    "the folder replaced": (
        "",
        'cp -a /etc/ds01 /etc/ds02; cp "$N" "/etc/ds02/${P##*/}"; mv /etc/ds01 /etc/ds03; mv /etc/ds02 /etc/ds01',
    ),
    "the folder removed and made anew": ("", 'rm -r /etc/ds01; sleep 0.3; mkdir -p /etc/ds01/groups; mv "$N" "$P"'),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_save_is_seen(host: RunningHost, way: str) -> None:
    arrange, act = (f"set -e; P={POLICY} N=/etc/new.yaml; {script}" for script in WAYS[way])
    make_slice(host)
    set_policy(host, aggregate(5))
    host.write("/etc/new.yaml", policy_text(host, aggregate(3)))
    try:
        host.root(arrange)
        host.root(["systemctl", "reload", SYNC])
        assert has(host, ALICE, MemoryMax=5 * GIB)
        host.root(act)
        eventually(lambda: has(host, ALICE, MemoryMax=3 * GIB), "what was saved holds", 5)
    finally:
        host.root(f"rm -rf /srv/policy /srv/p.yaml /etc/new.yaml /etc/ds03 {POLICY}*")


def test_of_a_burst_the_last_state_holds_and_few_are_published(host: RunningHost) -> None:
    make_slice(host)
    text, since = policy_text(host, aggregate(3, tasks=7777)), time.time()
    host.write("/etc/new.yaml", text)
    host.root(f"for i in $(seq 771 800); do sed s/7777/$i/ /etc/new.yaml >{POLICY}; done; rm /etc/new.yaml")
    eventually(lambda: has(host, ALICE, TasksMax=800), "the last state holds", 5)
    host.root(["systemctl", "reload", SYNC])
    assert 1 <= len(events(host, "policy.published", since)) <= 6


# --- a file that can't be used --------------------------------------------------------------------------------------

BROKEN = {
    "a value that is none": ('sed -i "s/^    memory: 12.5% of machine/    memory: BAD/" "$P"', "{line}:13: groups.student.memory:"),
    "an unknown key": ('sed -i "s/^    shm_size: 12.5% of/    BAD_size: 9g/" "$P"', "{line}:5: groups.researcher.BAD_size:"),
    "no YAML": ("printf 'groups: [BAD\\n' >\"$P\"", "2:1: is not YAML"),
    "nothing in it": (': >"$P"', " says nothing"),
    "no UTF-8": ("printf 'BAD: \\377\\n' >\"$P\"", "{line}:6: the byte 0xff"),
    "no file": ('rm "$P"', " does not exist"),
    "a folder": ('rm "$P"; mkdir "$P"', " is not a file"),
    "a link to nowhere": ('ln -sf /nowhere "$P"', " does not exist"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_changes_nothing_and_says_where(host: RunningHost, kind: str) -> None:
    act, problem = BROKEN[kind]
    make_slice(host)
    good, published, since = policy_text(host, aggregate(4)), host.read(PUBLISHED), time.time()
    limits = show(host, ALICE, "MemoryMax", "MemoryHigh", "TasksMax", "CPUQuotaPerSecUSec")
    process = show(host, SYNC, "MainPID", "ActiveState", "NRestarts")
    host.root(f"P={POLICY}; {act}")
    eventually(lambda: "REJECTED" in status(host), "the status says so", 5)
    (entry,) = events(host, "limits.rejected", since)
    line = host.root(["grep", "--text", "--line-number", "BAD", POLICY], check=False).out.partition(":")[0]
    assert entry["DS01_REASON"].startswith(f"{POLICY}:{problem.format(line=line)}")
    assert entry["DS01_REASON"] in status(host)
    host.root(["systemctl", "reload", SYNC])
    make_slice(host)
    assert show(host, ALICE, *limits) == limits
    assert host.read(PUBLISHED) == host.read("/var/lib/ds01/policy.json") == published
    assert show(host, SYNC, *process) == process
    assert len(events(host, "limits.rejected", since)) == 1, "told once, however often it is read"
    host.root(["rm", "-rf", POLICY])
    host.write(POLICY, good)
    eventually(lambda: has(host, ALICE, MemoryMax=4 * GIB), "a good file holds", 5)
    assert "REJECTED" not in status(host)


def test_a_broken_list_of_members_changes_nothing_and_says_where(host: RunningHost) -> None:
    published, since = host.read(PUBLISHED), time.time()
    host.write("/etc/ds01/groups/researcher.members", "alice\nbob: carol\n")
    eventually(lambda: "REJECTED" in status(host), "the status says so", 5)
    assert events(host, "limits.rejected", since)[0]["DS01_REASON"].startswith("/etc/ds01/groups/researcher.members:2:")
    assert host.read(PUBLISHED) == published
    host.root(["rm", "/etc/ds01/groups/researcher.members"])
    eventually(lambda: "REJECTED" not in status(host), "all is well again", 5)


# --- changed by hand ------------------------------------------------------------------------------------------------

UNITS = {
    "a user's slice": ALICE,
    "a group's slice": "ds01-student.slice",
    "all containers": "ds01.slice",
    "the engine": "docker.slice",
    "jobs": "cron.service",
    "a login": "user-1001.slice",
}
CONTROL = {"--runtime": "/run/systemd/system.control", "": "/etc/systemd/system.control"}


@pytest.mark.parametrize("option", CONTROL, ids=["until the next boot", "for ever"])
@pytest.mark.parametrize("kind", UNITS)
def test_what_is_changed_by_hand_is_put_back_and_told(host: RunningHost, kind: str, option: str) -> None:
    unit, names = UNITS[kind], ("MemoryMax", "MemoryHigh", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight")
    make_slice(host)
    with host.start("alice", ["cat"]) as session:
        eventually(lambda: has(host, "user-1001.slice", CPUQuotaPerSecUSec="1s"), "alice is logged in")
        before, since = show(host, unit, *names), time.time()
        try:
            host.root(f"systemctl set-property {option} {unit} MemoryMax=123M TasksMax=77 CPUQuota=13% CPUWeight=7")
            eventually(lambda: show(host, unit, *names) == before, "the policy holds again", 5)
            eventually(lambda: events(host, "limits.restored", since, unit), "an event says so", 5)
            (entry,) = events(host, "limits.restored", since, unit)
            assert entry["DS01_OLD"] == "CPUQuota 13%, MemoryMax 123 MiB, TasksMax 77, CPUWeight 7"
            assert entry.get("DS01_REASON", "").startswith("" if option else CONTROL[option])
            host.root(["systemctl", "daemon-reload"])
            eventually(lambda: show(host, unit, *names) == before, "a drop-in that stays does not win", 5)
        finally:
            host.root(f"rm -rf {CONTROL['']}/{unit}.d; systemctl daemon-reload")
            session.communicate()
    eventually(lambda: show(host, unit, *names) == before or kind == "a login", "the policy holds", 5)


@pytest.mark.parametrize("unit", [ALICE, "ds01-student.slice", "ds01.slice"])
def test_a_slice_that_is_stopped_by_hand_comes_back_with_its_limits(host: RunningHost, unit: str) -> None:
    make_slice(host)
    set_policy(host, aggregate(4))
    names, since = ("MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "ActiveState"), time.time()
    before = [show(host, one, *names) for one in (ALICE, "ds01-student.slice", "ds01.slice")]
    host.root(["systemctl", "stop", unit])
    eventually(
        lambda: [show(host, one, *names) for one in (ALICE, "ds01-student.slice", "ds01.slice")] == before, "all is back", 5
    )
    assert events(host, "limits.restored", since, "stopped by hand")
