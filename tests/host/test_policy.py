"""Every limit follows one YAML, on the real host. Over 400 lines: one promise, and every way to break it on one page.

Files of the kernel have no limits here: systemd's properties are looked at, the VM tier looks at the kernel's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from conftest import FreshHost
from lib.people import ENGINE, POLICY, docker_run, eventually, inspect, pid_of, policy_text, set_policy, wipe
from lib.running import Entry, RunningHost

ALICE = "ds01-student-alice.slice"
GIB = 1 << 30
LIMITS = ("MemoryMax", "MemoryHigh", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight")
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
    if not has(host, f"ds01-student-{user}.slice", ActiveState="active"):
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
    eventually(lambda: has(host, ALICE, MemoryMax=3 * GIB, TasksMax=500, CPUQuotaPerSecUSec="500ms"), "the edit holds")
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
        time.sleep(0.5)  # what was arranged has been seen: from here on the act alone can be
        assert has(host, ALICE, MemoryMax=5 * GIB)
        host.root(act)
        eventually(lambda: has(host, ALICE, MemoryMax=3 * GIB), "what was saved holds")
    finally:
        host.root(f"rm -rf /srv/policy /srv/p.yaml /etc/new.yaml /etc/ds03 {POLICY}*")


def test_of_a_burst_the_last_state_holds_and_few_are_published(host: RunningHost) -> None:
    make_slice(host)
    text, since = policy_text(host, aggregate(3, tasks=7777)), time.time()
    host.write("/etc/new.yaml", text)
    host.root(f"for i in $(seq 771 800); do sed s/7777/$i/ /etc/new.yaml >{POLICY}; done; rm /etc/new.yaml")
    eventually(lambda: has(host, ALICE, TasksMax=800), "the last state holds")
    host.root(["systemctl", "reload", SYNC])
    assert 1 <= len(events(host, "policy.published", since)) <= 6


# --- a file that can't be used --------------------------------------------------------------------------------------

BROKEN = {
    "a value that is none": (
        'sed -i "s/^    memory: 12.5%/    memory: BAD/" "$P"',
        "{line}:13: groups.student.memory:",
    ),
    "an unknown key": ('sed -i "s/^    shm_size: 12.5%/    BAD: 9/" "$P"', "{line}:5: groups.researcher.BAD:"),
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
    limits = show(host, ALICE, *LIMITS)
    process = show(host, SYNC, "MainPID", "ActiveState", "NRestarts")
    host.root(f"P={POLICY}; {act}")
    eventually(lambda: "REJECTED" in status(host), "the status says so")
    (entry,) = events(host, "limits.rejected", since)
    line = host.root(["grep", "--text", "--line-number", "BAD", POLICY], check=False).out.partition(":")[0]
    assert entry["DS01_REASON"].startswith(f"{POLICY}:{problem.format(line=line)}")
    assert entry["DS01_REASON"].removeprefix("/etc/ds01/") in status(host)
    host.root(["systemctl", "reload", SYNC])
    host.run("alice", ["docker", "run", "--rm", "busybox", "true"])
    assert show(host, ALICE, *limits) == limits
    assert host.read(PUBLISHED) == host.read("/var/lib/ds01/policy.json") == published
    assert show(host, SYNC, *process) == process
    assert len(events(host, "limits.rejected", since)) == 1, "told once, however often it is read"
    host.root(["rm", "-rf", POLICY])
    host.write(POLICY, good)
    eventually(lambda: has(host, ALICE, MemoryMax=4 * GIB), "a good file holds")
    assert "REJECTED" not in status(host)


def test_a_broken_list_of_members_changes_nothing_and_says_where(host: RunningHost) -> None:
    published, since = host.read(PUBLISHED), time.time()
    host.write("/etc/ds01/groups/researcher.members", "alice\nbob: carol\n")
    eventually(lambda: "REJECTED" in status(host), "the status says so")
    assert events(host, "limits.rejected", since)[0]["DS01_REASON"].startswith("/etc/ds01/groups/researcher.members:2:")
    assert host.read(PUBLISHED) == published
    host.root(["rm", "/etc/ds01/groups/researcher.members"])
    eventually(lambda: "REJECTED" not in status(host), "all is well again")


# --- changed by hand ------------------------------------------------------------------------------------------------

OURS = (ALICE, "ds01-student.slice", "ds01.slice")
"""A user's, his group's and everybody's slice."""


@pytest.mark.parametrize("unit", [*OURS, "docker.slice", "cron.service"])
@pytest.mark.parametrize("option", ["--runtime", ""], ids=["until the next boot", "for ever"])
def test_what_is_changed_by_hand_is_put_back_and_told(host: RunningHost, unit: str, option: str) -> None:
    make_slice(host)
    before, since = show(host, unit, *LIMITS), time.time()
    try:
        host.root(f"systemctl set-property {option} {unit} MemoryMax=123M TasksMax=77 CPUQuota=13% CPUWeight=7")
        eventually(lambda: show(host, unit, *LIMITS) == before, "the policy holds again")
        eventually(lambda: events(host, "limits.restored", since, unit), "an event says so")
    finally:
        host.root(f"rm -rf /etc/systemd/system.control/{unit}.d; systemctl daemon-reload")
    (entry,) = events(host, "limits.restored", since, unit)
    assert entry["DS01_OLD"] == "CPUQuota 13%, MemoryMax 123 MiB, TasksMax 77, CPUWeight 7"


def reasons(host: RunningHost, unit: str, since: float) -> list[str]:
    """The drop-ins that events about a unit name."""
    return [entry["DS01_REASON"] for entry in events(host, "limits.restored", since, unit)]


@pytest.mark.parametrize("unit", [*OURS, "docker.slice", "cron.service"])
def test_a_drop_in_that_says_otherwise_is_named_and_loses_again_and_again(host: RunningHost, unit: str) -> None:
    make_slice(host)
    before, folder = show(host, unit, *LIMITS), f"/etc/systemd/system.control/{unit}.d"
    host.root(["mkdir", "-p", folder])
    host.write(f"{folder}/50-MemoryMax.conf", f"[{unit.rpartition('.')[2].title()}]\nMemoryMax=123M\n")
    try:
        for _ in range(2):
            since = time.time()
            host.root(["systemctl", "daemon-reload"])
            named = [f"{folder}/50-MemoryMax.conf"]
            eventually(lambda since=since, named=named: reasons(host, unit, since) == named, "an event names it")
            eventually(lambda: show(host, unit, *LIMITS) == before, "the policy holds again")
    finally:
        host.root(f"rm -r {folder}; systemctl daemon-reload")
    eventually(lambda: show(host, unit, *LIMITS) == before, "and holds without it")


@pytest.mark.parametrize("unit", OURS)
def test_a_slice_that_is_stopped_by_hand_comes_back_with_its_limits(host: RunningHost, unit: str) -> None:
    make_slice(host)
    set_policy(host, aggregate(4))
    since = time.time()
    before = [show(host, one, "ActiveState", *LIMITS) for one in OURS]
    host.root(["systemctl", "stop", unit])
    eventually(lambda: events(host, "limits.restored", since, "stopped by hand"), "an event says so")
    eventually(lambda: [show(host, one, "ActiveState", *LIMITS) for one in OURS] == before, "all are back")


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
        eventually(lambda: has(host, unit, MemoryMax=2 * GIB, TasksMax=777, ActiveState="active"), "limits hold")
        since = time.time()
        save(host, login(1, 666))
        eventually(lambda: has(host, unit, MemoryMax=GIB, TasksMax=666), "the edit holds")
        (entry,) = events(host, "limits.applied", since, unit)
        assert entry["DS01_USER"] == "carol"
        assert entry["DS01_NEW"] == "MemoryMax 1 GiB, MemoryHigh 921.6 MiB, TasksMax 666"
        host.root(["systemctl", "set-property", "--runtime", unit, "MemoryMax=infinity", "TasksMax=infinity"])
        eventually(lambda: has(host, unit, MemoryMax=GIB, TasksMax=666), "the policy holds again")
        session.communicate()


def test_roots_login_has_no_limits_of_the_policy(host: RunningHost) -> None:
    with host.start("root", ["cat"]) as session:
        eventually(lambda: has(host, "user-0.slice", ActiveState="active"), "root is logged in")
        before = show(host, "user-0.slice", *LIMITS)
        set_policy(host, {"login": {"memory_max": "1g", "tasks_max": 50}})
        assert show(host, "user-0.slice", *LIMITS) == before
        assert (before["MemoryMax"], before["CPUQuotaPerSecUSec"]) == ("infinity", "infinity")
        session.communicate()


def test_jobs_follow_the_policy_whoever_they_are(host: RunningHost) -> None:
    save(host, {"jobs": {"memory_max": "1g", "tasks_max": 99, "cpu_quota": "30%"}})
    eventually(
        lambda: has(host, "cron.service", MemoryMax=GIB, TasksMax=99, CPUQuotaPerSecUSec="300ms"), "the edit holds"
    )


def test_the_machine_follows_the_policy(host: RunningHost) -> None:
    has_bytes = int(host.root("awk '/MemTotal/{print $2}' /proc/meminfo").out) * 1024
    make_slice(host)
    save(host, {"reserve.memory": "3g", "engine.memory_max": "5g", "groups.student.total.tasks_max": 999})
    eventually(lambda: has(host, "ds01.slice", MemoryMax=has_bytes - 3 * GIB), "the reserve holds")
    eventually(lambda: has(host, "docker.slice", MemoryMax=5 * GIB), "the engine's limit holds")
    eventually(lambda: has(host, "ds01-student.slice", TasksMax=999), "the group's total holds")


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
    eventually(lambda: has(host, ALICE, TasksMax=5555), "the new limits hold where the user works")
    docker_run(host, "alice", "new")
    assert slice_of(host, "new") == ALICE
    host.run("alice", ["docker", "rm", "-f", "running", "new"])
    docker_run(host, "alice", "newer")
    assert slice_of(host, "newer") == ALICE, "a stopped container may start again"
    host.run("alice", ["docker", "rm", "-f", "newer", "stopped"])
    docker_run(host, "alice", "newest")
    assert slice_of(host, "newest") == RESEARCHER
    assert has(host, RESEARCHER, TasksMax=5555)
    eventually(lambda: has(host, ALICE, ActiveState="inactive"), "the old slice is gone")
    eventually(lambda: has(host, "user-1001.slice", TasksMax=333), "logins have the new limits")
    owned = [owner["group"] for owner in json.loads(host.read("/var/lib/ds01/slices.json")) if owner["user"] == "alice"]
    assert owned == ["researcher"], "the next boot does not make the old one again"


def test_a_user_is_moved_by_every_change_of_a_list(fresh_host: FreshHost) -> None:
    host = fresh_host()
    set_policy(host, {"groups.researcher.aggregate.tasks_max": 5555, "groups.student.aggregate.tasks_max": 444})
    docker_run(host, "alice", "train")
    docker_run(host, "bob", "train-too")
    for listed, tasks in (("alice", 5555), ("bob", 444), ("bob\nalice # both", 5555), ("", 444)):
        host.root(["sh", "-c", 'printf "%s\\n" "$1" >/etc/ds01/groups/researcher.members', "sh", listed])
        eventually(lambda tasks=tasks: has(host, ALICE, TasksMax=tasks), f"'{listed}' is in force")
    host.write("/etc/ds01/groups/researcher.members", "alice\n")
    eventually(lambda: has(host, ALICE, TasksMax=5555), "moved")
    host.root(["rm", "/etc/ds01/groups/researcher.members"])
    eventually(lambda: has(host, ALICE, TasksMax=444), "and back, without a list")


NAMES = (
    *("a.b", "a-b", "a--b", "a_b", "a-b.c", "x@example.org", "first.last@uni.example.org", "0day", "u1", "a+b"),
    *("r\u00f6ntgen", "l" * 33, "l" * 200),
)
"""Accounts that Debian makes; digits alone get no login session."""


def test_every_name_has_a_slice_and_limits_of_its_own(fresh_host: FreshHost) -> None:
    host = fresh_host()
    for name in NAMES:
        host.root(["useradd", "--badname", "--create-home", "--groups", "student,docker", name])
    tasks = {name: 1000 + count for count, name in enumerate(NAMES)}
    own = {name: {"aggregate": {"tasks_max": count}, "login": {"tasks_max": count}} for name, count in tasks.items()}
    set_policy(host, {"user_overrides": own})
    found = {}
    for name, count in tasks.items():
        docker_run(host, name, f"c{count}")
        found[slice_of(host, f"c{count}")] = count
        uid = host.root(["id", "-u", name]).out.strip()
        eventually(lambda uid=uid, count=count: has(host, f"user-{uid}.slice", TasksMax=count), f"{name} is held")
    assert len(found) == len(NAMES)
    assert [unit for unit, count in found.items() if not has(host, unit, TasksMax=count)] == []
    set_policy(host, {"user_overrides": {name: {"aggregate": {"tasks_max": n + 500}} for name, n in tasks.items()}})
    assert [unit for unit, count in found.items() if not has(host, unit, TasksMax=count + 500)] == []
    reboot(host)
    assert [unit for unit, count in found.items() if not has(host, unit, TasksMax=count + 500)] == []


# --- reboots --------------------------------------------------------------------------------------------------------

PROBE = f"""
[Unit]
After=ds01-boot.service
Before=ds01-limits-sync.service docker.service
[Service]
Type=oneshot
ExecStart=sh -c "systemctl show {ALICE} -p ActiveState -p MemoryMax -p TasksMax >/run/probe"
[Install]
WantedBy=multi-user.target
"""
"""Looks at a slice after boot has made it and before limits_sync starts."""


def reboot(host: RunningHost) -> None:
    """The plug is pulled, since containers take their whole grace at a clean end; all that was written is on disk."""
    host.root(["sync"])
    host.cut_power()


def probe(host: RunningHost) -> dict[str, str]:
    """What the probe saw at this boot."""
    return dict(line.split("=", 1) for line in host.read("/run/probe").splitlines())


def test_after_a_reboot_with_a_broken_file_the_last_good_policy_holds(fresh_host: FreshHost) -> None:
    host = fresh_host()
    host.write("/etc/systemd/system/probe.service", PROBE)
    host.root(["systemctl", "enable", "--quiet", "probe.service"])
    docker_run(host, "alice", "train", "--restart", "always")
    set_policy(host, aggregate(3, tasks=333))
    host.write(POLICY, "groups: [\n")
    eventually(lambda: "REJECTED" in status(host), "it is broken")
    reboot(host)
    limits = {"ActiveState": "active", "MemoryMax": str(3 * GIB), "TasksMax": "333"}
    assert probe(host) == limits
    assert has(host, ALICE, **limits)
    assert "REJECTED" in status(host)
    eventually(lambda: inspect(host, "train")["State"]["Running"], "her container is back")
    docker_run(host, "bob", "new")
    assert has(host, "ds01-student-bob.slice", TasksMax=333)


def test_a_drop_in_does_not_loosen_a_slice_between_boot_and_limits_sync(fresh_host: FreshHost) -> None:
    host = fresh_host()
    host.write("/etc/systemd/system/probe.service", PROBE)
    host.root(["systemctl", "enable", "--quiet", "probe.service"])
    make_slice(host)
    set_policy(host, aggregate(3, tasks=333))
    host.root(["mkdir", "-p", f"/etc/systemd/system/{ALICE}.d"])
    host.write(f"/etc/systemd/system/{ALICE}.d/60-site.conf", "[Slice]\nMemoryMax=infinity\nTasksMax=infinity\n")
    reboot(host)
    assert probe(host) == {"ActiveState": "active", "MemoryMax": str(3 * GIB), "TasksMax": "333"}


def test_without_any_good_policy_the_strict_built_in_one_holds(fresh_host: FreshHost) -> None:
    host = fresh_host()
    docker_run(host, "alice", "train", "--restart", "always")
    host.root(["rm", "/var/lib/ds01/policy.json"])
    host.write(POLICY, "groups: [\n")
    reboot(host)
    assert "the strict built-in one holds" in status(host)
    assert host.root(["systemctl", "is-active", "docker.service", "ds01.target"]).out.split() == ["active"] * 2
    eventually(lambda: inspect(host, "train")["State"]["Running"], "her container is back")
    docker_run(host, "bob", "new")
    for unit in (ALICE, slice_of(host, "new")):
        assert "infinity" not in show(host, unit, *LIMITS).values()
    assert host.run("bob", ["docker", "run", "--rm", "--gpus", "2", "busybox", "true"], check=False).status == 125
    assert host.root(["ls", "/var/lib/ds01/policy.json"], check=False).status != 0, "it is no last good one"
    host.root(["cp", "/usr/share/ds01/resource-limits.yaml", POLICY])
    eventually(lambda: "REJECTED" not in status(host), "a good file is taken at once")
    docker_run(host, "carol", "newest")
    assert slice_of(host, "newest") == "ds01-student-carol.slice"


# --- killed in the middle -------------------------------------------------------------------------------------------

EDITOR = f"""
while [ ! -e /run/storm-over ]; do
    i=$((i + 1)); sed "s/tasks_max: .*/tasks_max: $((1000 + i % 9000))/" /etc/storm.yaml >{POLICY}.new
    mv {POLICY}.new {POLICY}; sleep 0.03
done
echo $((1000 + i % 9000))
"""
READER = f"""
import json, os
good = bad = 0
seen = set()
while not os.path.exists("/run/storm-over"):
    try:
        seen.add(json.load(open("{PUBLISHED}"))["groups"]["student"]["limits"]["aggregate.tasks_max"]); good += 1
    except (OSError, ValueError, KeyError):
        bad += 1
print(good, bad, len(seen))
"""


@pytest.mark.expect_warnings("Main process exited|Failed with result|killed|signal|Failed to start ds01-limits-sync")
def test_kills_in_a_storm_of_edits_lose_no_edit_and_tear_no_file(host: RunningHost) -> None:
    make_slice(host)
    set_policy(host, {"groups.student.aggregate": {"tasks_max": 999}})
    host.write("/etc/storm.yaml", host.read(POLICY))
    with host.start("root", EDITOR) as editor, host.start("root", ["python3", "-c", READER]) as reader:
        for pause in (0.3, 1.1, 0.5, 0.9, 0.4, 1.2, 0.6, 0.8, 0.7, 1):  # while it starts, reads, applies, waits
            time.sleep(pause)
            host.root(["systemctl", "kill", "--signal=KILL", SYNC], check=False)
        host.root(["touch", "/run/storm-over"])
        last, (good, bad, states) = int(editor.communicate()[0]), map(int, reader.communicate()[0].split())
    host.root(["rm", "/run/storm-over", "/etc/storm.yaml"])
    eventually(lambda: has(host, ALICE, TasksMax=last), "what was saved last holds")
    assert bad == 0
    assert (good > 100, states > 5) == (True, True), "the reader saw the storm"
    assert json.loads(host.read(PUBLISHED))["groups"]["student"]["limits"]["aggregate.tasks_max"] == last
    eventually(lambda: host.read("/var/lib/ds01/policy.json") == host.read(PUBLISHED), "the last good one is the same")


# --- what users can and can't do ------------------------------------------------------------------------------------


def test_a_new_limit_counts_for_the_next_container(host: RunningHost) -> None:
    set_policy(host, {"groups.student.memory": "2g"})
    asked = ["docker", "run", "--rm", "--memory", "1536m", "busybox", "true"]
    host.run("alice", asked)
    set_policy(host, {"groups.student.memory": "1g"})
    told = host.run("alice", asked, check=False)
    assert told.status == 125
    assert "1.5 GiB" in told.err
    assert "1 GiB" in told.err


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ([], "policy"),
        (["--memory", "1g"], "memory_bytes=1073741824"),
        (["--pids-limit", "99", "--cpus", "0.5"], "cpus_nano=500000000 pids=99"),
    ],
)
def test_a_container_remembers_what_was_asked_for(host: RunningHost, options: list[str], label: str) -> None:
    docker_run(host, "alice", "train", *options)
    shown = host.run("alice", ["docker", "inspect", "--format", '{{index .Config.Labels "ds01.sizes"}}', "train"])
    assert shown.out.strip() == label


def test_nobody_says_for_himself_what_was_asked_for(host: RunningHost) -> None:
    claim = "ds01.sizes=memory_bytes=99999999999"
    told = host.run("mallory", ["docker", "run", "--rm", "--label", claim, "busybox", "true"], check=False)
    assert (told.status, "ds01.sizes" in told.err) == (125, True)
    host.root(f"tar -c -T /dev/null | docker -H {ENGINE} import -c 'LABEL {claim}' -c 'CMD [\"/x\"]' - claims")
    host.run("mallory", ["docker", "create", "--name", "m1", "claims"])
    assert inspect(host, "m1")["Config"]["Labels"]["ds01.sizes"] == "policy"


@pytest.mark.parametrize(
    "attempt",
    [
        f"echo 'default_group: admin' >>{POLICY}",
        f"mv /tmp/x {POLICY}",
        "echo mallory >/etc/ds01/groups/admin.members",
        f"echo '{{}}' >{PUBLISHED}",
        "echo '{}' >/run/ds01/shrinking.json",
        "cat /var/lib/ds01/policy.json",
        "python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('/run/ds01/limits-sync.sock')\"",
        "varlinkctl call /run/ds01/limits-sync.sock io.ds01.LimitsSync.EnsureSlice '{\"uid\": 1001}'",
        "systemctl --no-ask-password set-property ds01-student-mallory.slice MemoryMax=infinity",
        "systemctl --no-ask-password set-property --runtime user-1004.slice TasksMax=infinity",
        "systemctl --no-ask-password stop ds01-student-alice.slice",
        "systemctl --no-ask-password reload ds01-limits-sync",
        "systemctl --no-ask-password kill ds01-limits-sync",
        "echo max >/sys/fs/cgroup/user.slice/user-1004.slice/cgroup.max.descendants",
    ],
)
def test_mallory_changes_no_limit(host: RunningHost, attempt: str) -> None:
    make_slice(host)
    make_slice(host, "mallory")
    since = time.time()

    def world() -> list[object]:
        slices = [show(host, unit, "ActiveState", *LIMITS) for unit in (ALICE, "ds01-student-mallory.slice")]
        return [*slices, show(host, SYNC, "MainPID"), host.read(POLICY), host.read(PUBLISHED)]

    before = world()
    told = host.run("mallory", f"touch /tmp/x; {attempt}", check=False)
    assert told.status != 0, told.out
    assert world() == before
    assert events(host, "limits.restored", since) == [], "nothing had to be put back"


# --- ds01 policy ----------------------------------------------------------------------------------------------------

OLD = """
defaults: {max_mig_instances: 1, memory: 32g, idle_timeout_h: 0.5}
default_group: student
groups:
  student: {members: [alice], max_runtime_h: 24}
enforcement: {use_systemd: true}
"""


@pytest.mark.parametrize("user", ["alice", "ada"])
def test_everybody_may_ask_what_holds_and_why(host: RunningHost, user: str) -> None:
    set_policy(host, {"user_overrides": {"alice": {"memory": "1g"}}, "groups.student.memory": "2g"})
    shown = json.loads(host.run(user, ["ds01", "policy", "show", "alice", "--json"]).out)
    assert (shown["user"], shown["group"]) == ("alice", "student")
    assert host.run(user, ["ds01", "policy", "show"]).out.startswith(f"'{user}' is in group ")
    told = host.run(user, ["ds01", "policy", "explain", "alice", "memory"]).out
    for said in ("memory is 1 GiB for 'alice'", "12.5% of machine", "group 'student'", "user_overrides:"):
        assert said in told


@pytest.mark.parametrize(("user", "sees"), [("alice", True), ("ada", True), ("bob", False)])
def test_check_and_diff_judge_a_file_before_it_is_saved(host: RunningHost, user: str, sees: bool) -> None:
    docker_run(host, "alice", "train")
    assert "is good" in host.run(user, ["ds01", "policy", "check"]).out
    host.root(f"sed 's/^    memory: 12.5% of machine/    memory: 1g/' {POLICY} >/tmp/better.yaml")
    told = host.run(user, ["ds01", "policy", "diff", "/tmp/better.yaml"]).out
    assert "group 'student'" in told
    assert "-> 1 GiB" in told
    assert ("train" in told) is sees, "containers are told to their owners and to administrators"
    host.root(f"sed 's/^    memory: 12.5% of machine/    memory: BAD/' {POLICY} >/tmp/worse.yaml; rm /tmp/better.yaml")
    told = host.run(user, ["ds01", "policy", "check", "/tmp/worse.yaml"], check=False)
    number = host.root("grep --line-number BAD /tmp/worse.yaml; rm /tmp/worse.yaml").out.partition(":")[0]
    assert told.status == 78
    assert f"/tmp/worse.yaml:{number}:13: groups.student.memory: 'BAD' is not a size" in told.out


def test_the_predecessors_file_is_carried_over(host: RunningHost) -> None:
    host.run("ada", ["tee", "old.yaml"], stdin=OLD)
    told = host.run("ada", "ds01 policy migrate old.yaml --machine 128,1TiB; rm old.yaml")
    assert "max_runtime: 24h" in told.out
    assert "enforcement" in told.err
