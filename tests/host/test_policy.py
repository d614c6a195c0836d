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

LIMITS = ("MemoryMax", "MemoryHigh", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight")
OURS = (ALICE, "ds01-student.slice", "ds01.slice")
"""A user's, his group's and everybody's slice."""


@pytest.mark.parametrize("unit", [*OURS, "docker.slice", "cron.service"])
@pytest.mark.parametrize("option", ["--runtime", ""], ids=["until the next boot", "for ever"])
def test_what_is_changed_by_hand_is_put_back_and_told(host: RunningHost, unit: str, option: str) -> None:
    make_slice(host)
    before, since = show(host, unit, *LIMITS), time.time()
    try:
        host.root(f"systemctl set-property {option} {unit} MemoryMax=123M TasksMax=77 CPUQuota=13% CPUWeight=7")
        eventually(lambda: show(host, unit, *LIMITS) == before, "the policy holds again", 5)
        eventually(lambda: events(host, "limits.restored", since, unit), "an event says so", 5)
    finally:
        host.root(f"rm -rf /etc/systemd/system.control/{unit}.d; systemctl daemon-reload")
    (entry,) = events(host, "limits.restored", since, unit)
    assert entry["DS01_OLD"] == "CPUQuota 13%, MemoryMax 123 MiB, TasksMax 77, CPUWeight 7"


@pytest.mark.parametrize("unit", [*OURS, "docker.slice", "cron.service"])
def test_a_drop_in_that_says_otherwise_is_named_and_loses_again_and_again(host: RunningHost, unit: str) -> None:
    make_slice(host)
    before, since, folder = show(host, unit, *LIMITS), time.time(), f"/etc/systemd/system.control/{unit}.d"
    host.root(["mkdir", "-p", folder])
    host.write(f"{folder}/50-MemoryMax.conf", f"[{unit.rpartition('.')[2].title()}]\nMemoryMax=123M\n")
    try:
        for count in (1, 2):
            host.root(["systemctl", "daemon-reload"])
            eventually(lambda: len(events(host, "limits.restored", since, unit)) == count, "an event says so", 5)
            eventually(lambda: show(host, unit, *LIMITS) == before, "the policy holds again", 5)
    finally:
        host.root(f"rm -r {folder}; systemctl daemon-reload")
    reasons = {entry["DS01_REASON"] for entry in events(host, "limits.restored", since, unit)}
    assert reasons == {f"{folder}/50-MemoryMax.conf"}
    eventually(lambda: show(host, unit, *LIMITS) == before, "and holds without it", 5)


@pytest.mark.parametrize("unit", OURS)
def test_a_slice_that_is_stopped_by_hand_comes_back_with_its_limits(host: RunningHost, unit: str) -> None:
    make_slice(host)
    set_policy(host, aggregate(4))
    since = time.time()
    before = [show(host, one, "ActiveState", *LIMITS) for one in OURS]
    host.root(["systemctl", "stop", unit])
    eventually(lambda: events(host, "limits.restored", since, "stopped by hand"), "an event says so", 5)
    eventually(lambda: [show(host, one, "ActiveState", *LIMITS) for one in OURS] == before, "all are back", 5)


# --- login sessions and jobs ----------------------------------------------------------------------------------------


def login(memory_gib: int, tasks: int) -> dict[str, object]:
    """What a student's login sessions may have."""
    return {"groups.student.login": {"memory_max": f"{memory_gib}g", "tasks_max": tasks}}


def test_a_login_has_its_limits_at_once_and_follows_edits(host: RunningHost) -> None:
    unit = "user-1003.slice"
    set_policy(host, login(2, 777))
    host.root(["loginctl", "terminate-user", "carol"], check=False)
    eventually(lambda: has(host, unit, ActiveState="inactive"), "carol is not logged in", 20)
    with host.start("carol", ["cat"]) as session:
        eventually(lambda: has(host, unit, MemoryMax=2 * GIB, TasksMax=777, ActiveState="active"), "limits hold", 5)
        since = time.time()
        save(host, login(1, 666))
        eventually(lambda: has(host, unit, MemoryMax=GIB, TasksMax=666), "the edit holds", 5)
        (entry,) = events(host, "limits.applied", since, unit)
        assert (entry["DS01_USER"], entry["DS01_NEW"]) == ("carol", "MemoryMax 1 GiB, MemoryHigh 921.6 MiB, TasksMax 666")
        host.root(["systemctl", "set-property", "--runtime", unit, "MemoryMax=infinity", "TasksMax=infinity"])
        eventually(lambda: has(host, unit, MemoryMax=GIB, TasksMax=666), "the policy holds again", 5)
        session.communicate()


def test_roots_login_has_no_limits_of_the_policy(host: RunningHost) -> None:
    with host.start("root", ["cat"]) as session:
        eventually(lambda: has(host, "user-0.slice", ActiveState="active"), "root is logged in", 5)
        before = show(host, "user-0.slice", *LIMITS)
        set_policy(host, {"login": {"memory_max": "1g", "tasks_max": 50}})
        assert show(host, "user-0.slice", *LIMITS) == before
        assert (before["MemoryMax"], before["CPUQuotaPerSecUSec"]) == ("infinity", "infinity")
        session.communicate()


def test_jobs_follow_the_policy_whoever_they_are(host: RunningHost) -> None:
    save(host, {"jobs": {"memory_max": "1g", "tasks_max": 99, "cpu_quota": "30%"}})
    eventually(
        lambda: has(host, "cron.service", MemoryMax=GIB, TasksMax=99, CPUQuotaPerSecUSec="300ms"), "the edit holds", 5
    )


def test_the_machine_follows_the_policy(host: RunningHost) -> None:
    has_bytes = int(host.root("awk '/MemTotal/{print $2}' /proc/meminfo").out) * 1024
    make_slice(host)
    save(host, {"reserve": {"memory": "3g"}, "engine": {"memory_max": "5g"}, "groups.student.total": {"tasks_max": 999}})
    eventually(lambda: has(host, "ds01.slice", MemoryMax=has_bytes - 3 * GIB), "the reserve holds", 5)
    eventually(lambda: has(host, "docker.slice", MemoryMax=5 * GIB), "the engine's limit holds", 5)
    eventually(lambda: has(host, "ds01-student.slice", TasksMax=999), "the group's total holds", 5)


# --- people move ----------------------------------------------------------------------------------------------------

RESEARCHER = "ds01-researcher-alice.slice"


def slice_of(host: RunningHost, container: str) -> str:
    """The slice that a container was put in."""
    return str(inspect(host, container)["HostConfig"]["CgroupParent"])


MOVES = {
    "a list of members": "echo alice >/etc/ds01/groups/researcher.members",
    "a Unix group": "groupadd --system --force researcher; usermod --append --groups researcher alice",
}


@pytest.mark.parametrize("way", MOVES)
def test_a_moved_user_works_on_in_the_old_slice_until_it_is_empty(fresh_host: FreshHost, way: str) -> None:
    host = fresh_host()
    docker_run(host, "alice", "running")
    docker_run(host, "alice", "stopped")
    host.run("alice", ["docker", "stop", "-t", "0", "stopped"])
    set_policy(host, {"groups.researcher.aggregate.tasks_max": 5555, "groups.researcher.login": {"tasks_max": 333}})
    host.root(MOVES[way])
    eventually(lambda: has(host, ALICE, TasksMax=5555), "the new limits hold where the user works", 5)
    docker_run(host, "alice", "new")
    assert slice_of(host, "new") == ALICE
    host.run("alice", ["docker", "rm", "-f", "running", "new"])
    docker_run(host, "alice", "newer")
    assert slice_of(host, "newer") == ALICE, "a stopped container may start again"
    host.run("alice", ["docker", "rm", "-f", "newer", "stopped"])
    docker_run(host, "alice", "newest")
    assert slice_of(host, "newest") == RESEARCHER
    assert has(host, RESEARCHER, TasksMax=5555)
    eventually(lambda: has(host, ALICE, ActiveState="inactive"), "the old slice is gone", 5)
    eventually(lambda: has(host, "user-1001.slice", TasksMax=333), "logins have the new limits", 5)
    host.reboot()
    assert has(host, RESEARCHER, ActiveState="active", TasksMax=5555)
    assert has(host, ALICE, ActiveState="inactive"), "it does not come back"


def test_a_user_is_moved_by_every_change_of_a_list(fresh_host: FreshHost) -> None:
    host = fresh_host()
    set_policy(host, {"groups.researcher.aggregate.tasks_max": 5555, "groups.student.aggregate.tasks_max": 444})
    docker_run(host, "alice", "train")
    docker_run(host, "bob", "train-too")
    for listed, tasks in (("alice", 5555), ("bob", 444), ("bob\nalice # both", 5555), ("", 444)):
        host.root(["sh", "-c", 'printf "%s\\n" "$1" >/etc/ds01/groups/researcher.members', "sh", listed])
        eventually(lambda tasks=tasks: has(host, ALICE, TasksMax=tasks), f"'{listed}' is in force", 5)
    host.write("/etc/ds01/groups/researcher.members", "alice\n")
    eventually(lambda: has(host, ALICE, TasksMax=5555), "moved", 5)
    host.root(["rm", "/etc/ds01/groups/researcher.members"])
    eventually(lambda: has(host, ALICE, TasksMax=444), "and back, without a list", 5)
