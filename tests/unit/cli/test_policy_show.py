"""`ds01 policy show` and `explain`: what holds for whom, who says so, and what is about to change."""

from __future__ import annotations

import json
import os
import pwd
import time
from typing import Any

import pytest
from policy_site import Site

STUDENTS = "groups: {student: {memory: 64GiB, max_containers_per_user: 2}}\n"


def rows(site: Site, *args: str) -> dict[str, list[str]]:
    """What is shown: by key with its section, and with its star, the cells behind it."""
    found, section = {}, ""
    for line in site.run("show", *args).stdout.splitlines():
        if line.startswith("  "):
            key, *cells = [cell.strip() for cell in line.split("  ") if cell]
            found[section + key] = cells
        else:
            section = f"{line.rpartition('(')[2].rstrip(')')}." if line.endswith(")") else ""
    return found


@pytest.mark.parametrize(
    ("yaml", "key", "shown", "origin"),
    [
        ("{}", "max_containers_per_user", "3", "built in"),
        ("max_connections: 9", "max_connections", "9", "top level, resource-limits.yaml:1"),
        ("defaults: {memory: 64GiB}", "memory", "64 GiB", "defaults, resource-limits.yaml:1"),
        (STUDENTS, "memory", "64 GiB", "student, resource-limits.yaml:1"),
        ("user_overrides: {root: {max_cpus: 4}}", "max_cpus", "4 CPUs", "root, resource-limits.yaml:1"),
        (STUDENTS, "memory_swap", "64 GiB", "= memory"),
        (STUDENTS, "aggregate.memory_max", "128 GiB", "= memory x max_containers_per_user"),
        (STUDENTS, "aggregate.memory_high", "115.2 GiB", "= 90% of memory_max"),
        ("groups: {a: {total: {tasks_max: 99}}}", "total.tasks_max", "99", "a, resource-limits.yaml:1"),
        ("groups: {a: {binds: {/data.d: ro}}}", "binds./data.d *", "ro", "a, resource-limits.yaml:1"),
        ("wishes: {devices: refuse}", "wishes.devices *", "refuse", "top level, resource-limits.yaml:1"),
        ("defaults: {login: {cpu_quota: 2}}", "login.cpu_quota", "2 CPUs", "defaults, resource-limits.yaml:1"),
    ],
)
def test_each_value_tells_where_it_comes_from(site: Site, yaml: str, key: str, shown: str, origin: str) -> None:
    site.publish(yaml)
    assert rows(site, "root", "--all")[key] == [shown, origin]


def test_without_a_name_it_is_the_callers(site: Site) -> None:
    site.publish()
    assert site.run("show").stdout.startswith(f"'{pwd.getpwuid(os.getuid()).pw_name}' is in group 'default'")


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ("{a: {members: [root]}, student: {}}", "'root' is in group 'a': listed as a member"),
        ("{a: {unix_groups: [root]}, student: {}}", "'root' is in group 'a': by Unix group 'root'"),
        ("{a: {}, student: {}}", "'root' is in group 'student': in no group's list: this is the default one"),
    ],
)
def test_why_one_is_in_a_group(site: Site, groups: str, told: str) -> None:
    site.publish(f"groups: {groups}")
    assert site.run("show", "root").stdout.splitlines()[0] == told


def test_what_nothing_makes_hold_is_counted_and_shown_with_a_star_on_demand(site: Site) -> None:
    site.publish("groups: {a: {}}")
    everything = rows(site, "--all")
    idle = [key for key in everything if key.endswith(" *")]
    assert {"idle_timeout *", "wishes.devices *", "binds.~ *"} < {*idle}
    assert rows(site) == {key: cells for key, cells in everything.items() if key not in idle}
    assert site.run("show").stdout.endswith(f"\n\n{len(idle)} more values that nothing holds yet: --all\n")
    assert site.run("show", "--all").stdout.endswith("\n\n* nothing in this version makes it hold\n")


@pytest.mark.parametrize("args", [(), ("--all",), ("--machine",), ("--machine", "--all"), ("root", "--all")])
@pytest.mark.parametrize("group", ["student", "a-group-with-as-long-a-name-as-is"])
def test_no_line_is_wider_than_a_terminal(site: Site, args: tuple[str, ...], group: str) -> None:
    above = "\n" * 98765
    site.publish(f"{above}groups: {{{group[:32]}: {{max_gpu_slots_per_container: 2, max_streams: 9}}}}\nmax_streams: 8")
    lines = site.run("show", *args).stdout.splitlines()
    assert [line for line in lines[1:] if len(line) > 80] == []
    assert "--machine" in args or [line for line in lines if line.endswith(", resource-limits.yaml:98766")]


def test_beside_a_folder_that_is_wider_than_a_terminal_nothing_is_cut(site: Site) -> None:
    folder = f"/{'a' * 79}"
    site.publish(f"groups: {{student: {{binds: {{{folder}: ro}}}}}}")
    assert rows(site, "root", "--all")[f"binds.{folder} *"] == ["ro", "student, resource-limits.yaml:1"]


def test_the_machine_has_its_own_values(site: Site) -> None:
    site.publish("engine: {memory_max: 100GiB}")
    shown = rows(site, "--machine")
    assert shown["engine.memory_max"] == ["100 GiB", "top level, resource-limits.yaml:1"]
    assert shown["jobs.memory_high"] == ["115.2 GiB", "= 90% of memory_max"]
    assert rows(site, "--machine", "--all")["policies.idle_warnings *"] == ["50%, 80%, 95%", "built in"]


def test_exemptions_are_shown(site: Site) -> None:
    site.publish(
        "exemptions: [{user: root, from: [idle_timeout, max_runtime], until: 2027-03-31, why: x},"
        " {user: daemon, from: max_runtime, until: unlimited, why: x}]"
    )
    told = site.run("show", "root").stdout.splitlines()[1:3]
    until = "from idle_timeout and max_runtime until 2027-03-31"
    assert told == [f"exempt {until}, which nothing in this version heeds", ""]
    programs = json.loads(site.run("show", "root", "--json").stdout)["exemptions"]
    assert programs == [{"user": "root", "from": ["idle_timeout", "max_runtime"], "until": "2027-03-31"}]


def test_programs_get_where_a_value_comes_from_and_who_makes_it_hold(site: Site) -> None:
    site.publish(STUDENTS)
    told = json.loads(site.run("show", "root", "--json").stdout)
    assert (told["user"], told["uid"], told["group"]) == ("root", 0, "student")
    origin = {"origin": "groups.student (resource-limits.yaml:1)", "held_by": "ds01-docker-shim"}
    assert told["values"]["memory"] == {"value": 64 * 2**30, "unit": "bytes", **origin}
    assert told["values"]["idle_timeout"] == {"value": 1800.0, "unit": "seconds", "origin": "built in", "held_by": ""}


@pytest.mark.parametrize(
    ("yaml", "key", "value", "unit"),
    [
        ("memory: 128GiB", "memory", 137438953472, "bytes"),
        ("idle_timeout: 30m", "idle_timeout", 1800.0, "seconds"),
        ("max_cpus: 1.5", "max_cpus", 1.5, "CPUs"),
        ("aggregate: {cpu_quota: 6400%}", "aggregate.cpu_quota", 64.0, "CPUs"),
        ("aggregate: {cpu_quota: unlimited}", "aggregate.cpu_quota", None, "CPUs"),
        ("max_gpu_equivalents: 6/14", "max_gpu_equivalents", "3/7", "GPUs"),
        ("policies: {gpu_idle_threshold: 5%}", "policies.gpu_idle_threshold", 5.0, "percent"),
        ("pids_limit: 99", "pids_limit", 99, ""),
        ("allow_full_gpu: true", "allow_full_gpu", True, ""),
        ("binds: {/data: ro}", "binds./data", "ro", ""),
    ],
)
def test_programs_get_the_same_value_and_unit_from_show_explain_and_diff(
    site: Site, yaml: str, key: str, value: Any, unit: str
) -> None:
    site.publish(f"groups: {{a: {{}}, student: {{{yaml}}}}}")
    same = {"value": value, "unit": unit}
    shown = json.loads(site.run("show", "root", "--json").stdout)["values"][key]
    explained = json.loads(site.run("explain", "root", key, "--json").stdout)
    file = site.write("new/new.yaml", "groups: {a: {}, student: {}}")
    changes = json.loads(site.run("diff", file, "--json").stdout)["groups"].get("student", [])
    (old,) = [one["old"] for one in changes if one["key"] == key] or [same]
    for told in (shown, explained, explained["layers"][-1], old):
        assert {name: told[name] for name in same} == same
    assert explained["key"] == key


@pytest.mark.parametrize("command", [("show",), ("explain", "memory")])
def test_who_has_no_account_is_no_such(site: Site, command: tuple[str, ...]) -> None:
    site.publish()
    result = site.run(command[0], "no-such-user", *command[1:])
    assert (result.exit_code, result.stdout) == (66, "")
    assert "there is no account 'no-such-user'" in result.stderr


@pytest.mark.parametrize(
    ("text", "told"), [(None, "can't be read: No such file"), ("{}", "can't be used"), ("{", "used")]
)
def test_rules_that_can_not_be_read_are_told(site: Site, text: str | None, told: str) -> None:
    if text is not None:
        site.published.write_text(text)
    result = site.run("show", "root")
    assert result.exit_code == 69
    assert told in result.stderr


def test_a_user_and_the_machine_are_too_much(site: Site) -> None:
    assert site.run("show", "root", "--machine").exit_code == 2


def waits(**more: Any) -> dict[str, Any]:
    """A limit of the caller that goes down in 25 minutes."""
    until = time.time() + 25 * 60
    entry = {"uid": os.getuid(), "user": "x", "what": "all containers of x", "until": until}
    return {**entry, "from_bytes": 64 * 2**30, "to_bytes": 32 * 2**30, **more}


def test_a_limit_that_goes_down_is_told_first(site: Site) -> None:
    site.publish()
    site.shrinking.write_text(json.dumps({"units": {"a.slice": waits()}}))
    first = site.run("show").stdout.splitlines()[0]
    assert first.startswith("note: the memory limit of all containers of x goes down from 64 GiB to 32 GiB at ")
    assert first.endswith(" (in 25 min): end or shrink what you do not need before then")


def test_a_limit_that_goes_down_is_told_in_status_even_while_the_allocator_is_silent(site: Site) -> None:
    site.shrinking.write_text(json.dumps({"units": {"a.slice": waits(from_bytes=2**64 - 1)}}))
    result = site.ds01("status")
    assert result.stderr.startswith("note: the memory limit of all containers of x goes down from no limit to 32 GiB")
    assert result.exit_code == 69


def test_a_limit_that_goes_down_by_little_is_told_in_numbers_that_differ(site: Site) -> None:
    site.publish()
    site.shrinking.write_text(json.dumps({"units": {"a": waits(from_bytes=8001 * 2**20, to_bytes=8000 * 2**20)}}))
    assert " goes down from 8001 MiB to 8000 MiB at " in site.run("show").stdout


def test_a_limit_that_goes_down_is_told_beside_the_list_of_containers(site: Site, engine: list[dict[str, Any]]) -> None:
    assert site.container("list").stderr.startswith("note: which GPUs are held is unknown")
    site.shrinking.write_text(json.dumps({"units": {"a.slice": waits()}}))
    result = site.container("list")
    assert result.stderr.startswith("note: the memory limit of all containers of x goes down from 64 GiB to 32 GiB at ")
    assert result.stdout.startswith("You have no containers.")


def test_the_socket_that_does_not_answer_is_named(site: Site) -> None:
    result = site.container("list")
    assert result.exit_code == 69
    assert f"Docker does not answer on {site.docker}: " in result.stderr


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"units": []}', json.dumps({"units": {"a": waits(uid=1), "b": {"uid": os.getuid()}, "c": None}})],
)
def test_what_is_not_ones_own_or_can_not_be_read_is_not_told(site: Site, text: str) -> None:
    site.publish()
    site.shrinking.write_text(text)
    result = site.run("show")
    assert result.exit_code == 0
    assert not result.stdout.startswith("note:")


def test_one_bad_entry_hides_no_other(site: Site) -> None:
    site.publish()
    site.shrinking.write_text(json.dumps({"units": {"a": {"uid": os.getuid()}, "b": waits()}}))
    assert site.run("show").stdout.count("goes down") == 1


LAYERS = """\
max_connections: 11
defaults: {max_connections: 12}
groups: {student: {max_connections: 13}}
user_overrides: {root: {max_connections: 14}}
"""


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        (0, ["built in", "32", "holds"]),
        (1, ["top level", "11", "resource-limits.yaml:1", "holds"]),
        (2, ["defaults", "12", "resource-limits.yaml:2", "holds"]),
        (3, ["group 'student'", "13", "resource-limits.yaml:3", "holds"]),
        (4, ["user 'root'", "14", "resource-limits.yaml:4", "holds"]),
    ],
)
def test_every_layer_is_told_and_the_last_one_wins(site: Site, lines: int, last: list[str]) -> None:
    site.publish("".join(LAYERS.splitlines(keepends=True)[:lines]) or "{}")
    result = site.run("explain", "root", "max_connections")
    table = result.stdout.split("\n\n")[1].splitlines()
    assert len(table) == 2 + lines
    assert [cell.strip() for cell in table[-1].split("  ") if cell.strip()] == last
    assert result.stdout.count("holds") == 1
    assert result.stdout.startswith(f"max_connections is {last[1]} for 'root': connections to the Docker socket")


def test_a_part_of_the_machine_is_told_as_such(site: Site) -> None:
    site.publish("defaults: {memory: 25% of machine}")
    told = site.run("explain", "root", "memory").stdout
    assert "built in  128 GiB (12.5% of machine)\n" in told
    assert "defaults  256 GiB (25% of machine)    resource-limits.yaml:1  holds\n" in told


def test_what_follows_from_others_is_told_as_such(site: Site) -> None:
    site.publish(STUDENTS)
    told = site.run("explain", "root", "aggregate.memory_max").stdout
    assert "worked out  128 GiB  follows from memory x max_containers_per_user  holds" in told


@pytest.mark.parametrize(
    ("key", "lines"),
    [
        ("memory", "  user_overrides:\n    root:\n      memory: VALUE    # a size like 64GiB\n"),
        ("privileged", "    root:\n      wishes:\n        privileged: VALUE    # refuse or drop\n"),
        ("idle_timeout", "      idle_timeout: VALUE    # a time like 24h, or unlimited\n"),
        ("binds.~", "      binds:\n        ~: VALUE    # ro, rw or none\n"),
        ("sigterm_grace", "It holds for the whole machine: it can't be changed for one user.\n"),
        ("total.memory_max", "It holds for the whole group: it can't be changed for one user.\n"),
    ],
)
def test_how_to_change_it_for_one_user(site: Site, key: str, lines: str) -> None:
    site.publish()
    assert site.run("explain", "root", key).stdout.endswith(lines)


def test_what_is_written_as_told_is_taken(site: Site) -> None:
    site.publish()
    told = site.run("explain", "root", "aggregate.memory_max").stdout.partition("\n\n  user_overrides:")[2]
    site.publish("  user_overrides:" + told.replace("VALUE", "64GiB"))
    assert rows(site, "root")["aggregate.memory_max"][0] == "64 GiB"


@pytest.mark.parametrize(
    ("key", "exit_code", "told"),
    [
        ("memory_max", 2, "write aggregate.memory_max or login.memory_max or total.memory_max"),
        ("idle_timeout_h", 66, "did you mean 'idle_timeout'?"),
        ("zzz", 66, "'ds01 policy show --all' lists them"),
        ("binds./data", 66, "did you mean"),
    ],
)
def test_a_key_that_is_none(site: Site, key: str, exit_code: int, told: str) -> None:
    site.publish()
    result = site.run("explain", "root", key)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert told in result.stderr


@pytest.mark.parametrize(
    ("key", "service"), [("memory", "ds01-docker-shim makes"), ("idle_timeout", "nothing in this")]
)
def test_who_makes_it_hold(site: Site, key: str, service: str) -> None:
    site.publish()
    assert f"; {service}" in site.run("explain", "root", key).stdout


def test_a_file_that_is_not_in_force_is_not_explained(site: Site) -> None:
    site.publish("defaults: {memory: 64GiB}")
    site.file.write_text("defaults: {memory: 32GiB}")
    result = site.run("explain", "root", "memory")
    assert "defaults  64 GiB  resource-limits.yaml:1  holds" in result.stdout
    assert "32 GiB" not in result.stdout
    assert "says otherwise, and is not in force" in result.stderr


def test_without_the_file_the_winner_alone_is_told(site: Site) -> None:
    site.publish(LAYERS)
    site.file.unlink()
    result = site.run("explain", "root", "max_connections")
    assert "user_overrides.root  14     resource-limits.yaml:4  holds" in result.stdout
    assert "can't be read" in result.stderr


BROKEN = (
    "note: resource-limits.yaml has 1 mistake and does not hold;"
    " this is the last good policy: see 'ds01 policy check'\n"
)


@pytest.mark.parametrize("args", [("show",), ("show", "root", "--all"), ("show", "--machine"), ("show", "--json")])
def test_that_a_file_does_not_hold_is_told_above_what_does(site: Site, args: tuple[str, ...]) -> None:
    site.publish(LAYERS)
    good = site.run(*args)
    site.file.write_text("defaults: {memory: 64}")
    broken = site.run(*args)
    assert (good.stderr, broken.stderr) == ("", BROKEN)
    assert (broken.stdout, broken.exit_code) == (good.stdout, 0)


def test_every_file_that_has_mistakes_is_named(site: Site) -> None:
    site.publish()
    site.write("etc/groups/prof.members", "a b\n")
    site.file.write_text("defaults: {memory: 64, shm_size: 1}")
    told = "prof.members and resource-limits.yaml have 4 mistakes and do not hold; this is the last good policy"
    assert f"note: {told}" in site.run("show").stderr


def test_what_one_can_not_read_is_no_mistake(site: Site) -> None:
    site.publish()
    (site.folder / "groups/a.members").mkdir(parents=True)
    assert site.run("show").stderr == ""
    site.file.unlink()
    assert site.run("show").stderr == ""


def test_of_a_file_with_mistakes_no_layer_is_told(site: Site) -> None:
    site.publish("defaults: {memory: 64GiB}\ngroups: {student: {memory: 32GiB}}")
    site.file.write_text("defaults: {memory: 64GiB, shm_size: 1}\ngroups: {student: {memory: 32GiB}}")
    result = site.run("explain", "root", "memory")
    table = [line.split() for line in result.stdout.split("\n\n")[1].splitlines()[1:]]
    assert table == [["groups.student", "32", "GiB", "resource-limits.yaml:2", "holds"]]
    only = f"note: only the layer that holds is told: '{site.file}' has mistakes\n"
    assert result.stderr == BROKEN + only


def test_programs_get_the_layers(site: Site) -> None:
    site.publish(LAYERS)
    told = json.loads(site.run("explain", "root", "max_connections", "--json").stdout)
    assert [layer["value"] for layer in told["layers"]] == [32, 11, 12, 13, 14]
    assert (told["value"], told["held_by"], told["group"]) == (14, "ds01-docker-shim", "student")
