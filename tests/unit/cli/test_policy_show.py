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


def row(site: Site, key: str, *args: str) -> list[str]:
    """The row of `key` in what is shown, by cells."""
    lines = [line.strip() for line in site.run("show", *args).stdout.splitlines()]
    (found,) = [line for line in lines if line.split("  ")[0] in (key, f"{key} *")]
    return [cell.strip() for cell in found.split("  ") if cell]


@pytest.mark.parametrize(
    ("yaml", "key", "shown", "origin"),
    [
        ("{}", "max_containers_per_user", "3", "built in"),
        ("max_connections: 9", "max_connections", "9", "top level (resource-limits.yaml:1)"),
        ("defaults: {memory: 64GiB}", "memory", "64 GiB", "defaults (resource-limits.yaml:1)"),
        (STUDENTS, "memory", "64 GiB", "groups.student (resource-limits.yaml:1)"),
        ("user_overrides: {root: {max_cpus: 4}}", "max_cpus", "4 CPUs", "user_overrides.root (resource-limits.yaml:1)"),
        (STUDENTS, "memory_swap", "64 GiB", "follows from memory"),
        (STUDENTS, "aggregate.memory_max", "128 GiB", "follows from memory x max_containers_per_user"),
        (STUDENTS, "aggregate.memory_high", "115.2 GiB", "follows from aggregate.memory_max: 90% of it"),
        ("groups: {a: {total: {tasks_max: 99}}}", "total.tasks_max", "99", "groups.a (resource-limits.yaml:1)"),
        ("groups: {a: {binds: {/data: ro}}}", "binds./data", "ro", "groups.a (resource-limits.yaml:1)"),
        ("wishes: {devices: refuse}", "wishes.devices", "refuse", "top level (resource-limits.yaml:1)"),
        ("defaults: {login: {cpu_quota: 2}}", "login.cpu_quota", "2 CPUs", "defaults (resource-limits.yaml:1)"),
    ],
)
def test_each_value_tells_where_it_comes_from(site: Site, yaml: str, key: str, shown: str, origin: str) -> None:
    site.publish(yaml)
    assert row(site, key, "root")[1:] == [shown, origin]


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


def test_what_nothing_makes_hold_has_a_star(site: Site) -> None:
    site.publish()
    assert row(site, "idle_timeout")[0] == "idle_timeout *"
    assert row(site, "memory")[0] == "memory"
    assert site.run("show").stdout.endswith("\n\n* nothing in this version makes it hold\n")


def test_the_machine_has_its_own_values(site: Site) -> None:
    site.publish("engine: {memory_max: 100GiB}")
    assert row(site, "engine.memory_max", "--machine")[1:] == ["100 GiB", "top level (resource-limits.yaml:1)"]
    assert row(site, "jobs.memory_high", "--machine")[2] == "follows from jobs.memory_max: 90% of it"


def test_exemptions_are_shown(site: Site) -> None:
    site.publish(
        "exemptions: [{user: root, from: [idle_timeout, max_runtime], until: 2027-03-31, why: x},"
        " {user: daemon, from: max_runtime, until: unlimited, why: x}]"
    )
    told = site.run("show", "root").stdout.splitlines()[1:3]
    assert told == ["exempt from idle_timeout and max_runtime until 2027-03-31 *", ""]


def test_programs_get_values_in_base_units(site: Site) -> None:
    site.publish(STUDENTS)
    told = json.loads(site.run("show", "root", "--json").stdout)
    assert (told["user"], told["uid"], told["group"]) == ("root", 0, "student")
    assert told["values"]["memory"] == {
        "value": 64 * 2**30,
        "shown": "64 GiB",
        "origin": "groups.student (resource-limits.yaml:1)",
        "held": True,
    }


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
    assert row(site, "aggregate.memory_max", "root")[1] == "64 GiB"


@pytest.mark.parametrize(
    ("key", "exit_code", "told"),
    [
        ("memory_max", 2, "write aggregate.memory_max or login.memory_max or total.memory_max"),
        ("idle_timeout_h", 66, "did you mean 'idle_timeout'?"),
        ("zzz", 66, "'ds01 policy show' lists them"),
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


def test_a_layer_that_is_misread_does_not_hide_the_others(site: Site) -> None:
    site.publish("defaults: {memory: 64GiB}\ngroups: {student: {memory: 32GiB}}")
    site.file.write_text("defaults: {memory: 64}\ngroups: {student: {memory: 32GiB}}")
    result = site.run("explain", "root", "memory")
    assert "group 'student'  32 GiB" in result.stdout
    assert "defaults" not in result.stdout.split("\n\n")[1]


def test_programs_get_the_layers(site: Site) -> None:
    site.publish(LAYERS)
    told = json.loads(site.run("explain", "root", "max_connections", "--json").stdout)
    assert [step["value"] for step in told["steps"]] == [32, 11, 12, 13, 14]
    assert (told["shown"], told["held_by"], told["group"]) == ("14", "docker_shim", "student")
