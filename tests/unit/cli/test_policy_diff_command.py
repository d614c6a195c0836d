"""`ds01 policy diff`: what a file would change, and for whom, before it is put in place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from policy_site import Site

OLD = "groups: {student: {memory: 32GiB}, prof: {}}\n"


def changed(site: Site, yaml: str) -> str:
    """What is told of a file in another folder."""
    result = site.run("diff", site.write("new/new.yaml", yaml))
    assert result.exit_code == 0
    return result.stdout


def test_nothing_changes(site: Site) -> None:
    site.publish(OLD)
    assert changed(site, "# moved by a line\n" + OLD) == "Nothing changes for anybody.\n"


@pytest.mark.parametrize(
    ("yaml", "lines"),
    [
        (
            "groups: {student: {memory: 64GiB}, prof: {}}",
            [
                "group 'student' (everybody who is in no other)",
                "  memory                 32 GiB -> 64 GiB      groups.student (new.yaml:1)",
                "  memory_swap            32 GiB -> 64 GiB      follows from memory",
                "  aggregate.memory_max   96 GiB -> 192 GiB     follows from memory x max_containers_per_user",
                "  aggregate.memory_high  86.4 GiB -> 172.8 GiB  follows from aggregate.memory_max: 90% of it",
            ],
        ),
        (
            OLD + "user_overrides: {daemon: {max_networks: 5}}",
            ["daemon (in 'student')", "  max_networks  2 -> 5  user_overrides.daemon (new.yaml:2)"],
        ),
        (
            "groups: {student: {memory: 32GiB}, prof: {members: [daemon, nobody], memory: 32GiB, max_cpus: 1}}",
            ["daemon, nobody (from 'student' to 'prof')", "  max_cpus  32 CPUs -> 1 CPU  groups.prof (new.yaml:1)"],
        ),
        (
            OLD + "policies: {sigterm_grace: 90s}",
            ["the machine as a whole", "  policies.sigterm_grace  1m -> 1m30s  top level (new.yaml:2)"],
        ),
        (OLD + "default_group: prof", ["the default group: student -> prof"]),
        (OLD + "binds: {/data: ro}", ["  binds./data  nothing -> ro  top level (new.yaml:2)"]),
        ("groups: {student: {memory: 32GiB}}", ["group 'prof' is gone"]),
        (
            "groups: {student: {memory: 32GiB}, prof: {}, guest: {members: [nobody]}}",
            ["group 'guest' is new (1 listed: nobody)"],
        ),
        (
            OLD + "exemptions: [{user: a, from: idle_timeout, until: unlimited, why: x}]",
            ["exemption of 'a' from idle_timeout for ever is new"],
        ),
    ],
)
def test_what_changes_is_told_with_its_origin(site: Site, yaml: str, lines: list[str]) -> None:
    site.publish(OLD)
    told = [" ".join(line.split()) for line in changed(site, yaml).splitlines()]
    assert [line for line in lines if " ".join(line.split()) not in told] == []


def test_members_by_unix_group_are_counted(site: Site) -> None:
    site.publish("groups: {student: {}, prof: {unix_groups: [daemon]}}")
    told = changed(site, "groups: {student: {}, prof: {unix_groups: [daemon], members: [root, daemon], max_cpus: 1}}")
    assert "group 'prof' (2 listed: daemon, root; 0 by Unix group daemon)" in told
    told = changed(site, "groups: {student: {}, prof: {unix_groups: [daemon], members: [root], max_cpus: 1}}")
    assert "group 'prof' (1 listed: root; 1 by Unix group daemon)" in told


def test_who_is_in_an_earlier_group_is_not_counted(site: Site) -> None:
    site.publish("groups: {a: {unix_groups: [daemon]}, student: {unix_groups: [daemon]}}")
    told = changed(site, "groups: {a: {unix_groups: [daemon]}, student: {unix_groups: [daemon], max_cpus: 1}}")
    assert "group 'student' (0 by Unix group daemon; everybody who is in no other)" in told


def test_plain_lines_stand_apart_from_values(site: Site) -> None:
    site.publish(OLD)
    told = changed(site, "groups: {student: {max_cpus: 1, memory: 32GiB}}").splitlines()
    assert told[:3] == ["group 'prof' is gone", "", "group 'student' (everybody who is in no other)"]


def test_many_names_are_not_all_told(site: Site) -> None:
    site.publish("groups: {student: {}, prof: {}}")
    told = changed(site, f"groups: {{student: {{}}, prof: {{members: [{', '.join(f'u{i}' for i in range(9))}]}}}}")
    assert "u0, u1, u2, u3, u4 and 4 more (from 'student' to 'prof')" in told


def test_the_lists_in_force_go_with_a_file_that_has_none(site: Site) -> None:
    site.write("etc/groups/prof.members", "daemon\n")
    site.publish(OLD)
    result = site.run("diff", site.write("new/new.yaml", OLD))
    assert result.stdout == "Nothing changes for anybody.\n"
    assert f"note: the lists of members are those in '{site.folder}/groups'" in result.stderr


def test_the_lists_beside_a_file_go_with_it(site: Site) -> None:
    site.publish(OLD)
    site.write("new/groups/prof.members", "daemon\n")
    assert "daemon (from 'student' to 'prof')" in changed(site, OLD)


def test_an_empty_folder_of_lists_beside_a_file_goes_with_it(site: Site) -> None:
    site.write("etc/groups/prof.members", "daemon\n")
    site.publish(OLD)
    (site.tmp_path / "new/groups").mkdir(parents=True)
    assert "daemon (from 'prof' to 'student')" in changed(site, OLD)


def test_a_bad_file_is_told_as_check_tells_it(site: Site) -> None:
    site.publish()
    file = site.write("new/new.yaml", "defaults: {memory: 64}")
    result = site.run("diff", file)
    assert (result.stdout, result.exit_code) == (site.run("check", file).stdout, 78)


def test_the_machine_is_the_one_that_the_rules_are_in_force_for(site: Site) -> None:
    site.publish()
    assert "  32 CPUs -> 100 CPUs  " in changed(site, "defaults: {max_cpus: 100}")


def test_a_silent_docker_is_told_and_no_failure(site: Site) -> None:
    site.publish(OLD)
    result = site.run("diff", site.write("new/new.yaml", OLD))
    assert result.exit_code == 0
    told = f"note: which running containers it concerns is unknown: Docker does not answer on {site.docker}: "
    assert told in result.stderr


def container(name: str, sizes: str, uid: str = "0") -> dict[str, Any]:
    return {"Id": name * 9, "Names": [f"/{name}._.{uid}"], "Labels": {"ds01.uid": uid, "ds01.sizes": sizes}}


TOGETHER = ["aggregate.cpu_quota", "aggregate.memory_max", "aggregate.memory_high"]


@pytest.mark.parametrize(
    ("running", "told"),
    [
        (container("train", "policy"), ["max_cpus", "memory", "memory_swap", *TOGETHER]),
        (container("small", "cpus_nano=500000000 memory_bytes=1048576"), TOGETHER),
        (container("admins", ""), TOGETHER),
        (container("gone", "policy", uid="999999"), []),
        ({"Id": "x", "Names": ["/x"], "Labels": None}, []),
    ],
)
def test_running_containers_are_told_with_what_reaches_them(
    site: Site, engine: list[dict[str, Any]], running: dict[str, Any], told: list[str]
) -> None:
    site.publish(OLD)
    engine.append(running)
    yaml = "groups: {student: {memory: 64GiB, max_cpus: 42}, prof: {}}"
    result = site.run("diff", site.write("new/new.yaml", yaml), "--json")
    found = json.loads(result.stdout)["containers"]
    assert bool(found) is bool(told)
    assert [change["key"] for one in found for change in one["changes"]] == told
    assert result.stderr == ""


def test_running_containers_are_a_table(site: Site, engine: list[dict[str, Any]]) -> None:
    site.publish(OLD)
    engine.append(container("train", "policy"))
    told = changed(site, "groups: {student: {memory: 64GiB}, prof: {}}").splitlines()
    assert told[-6:-3] == [
        "Containers that run now:",
        "NAME   USER  WHAT CHANGES",
        "train  root  memory 32 GiB -> 64 GiB",
    ]


def test_programs_get_both_values(site: Site) -> None:
    site.publish(OLD)
    file = site.write("new/new.yaml", OLD + "policies: {sigterm_grace: 90s}\nbinds: {/data: ro}")
    told = json.loads(site.run("diff", file, "--json").stdout)
    assert told["machine"] == [
        {
            "key": "policies.sigterm_grace",
            "old": {"value": 60.0, "unit": "seconds", "origin": "built in"},
            "new": {"value": 90.0, "unit": "seconds", "origin": "top level (new.yaml:2)"},
        }
    ]
    new = {"value": "ro", "unit": "", "origin": "top level (new.yaml:3)"}
    assert told["groups"]["prof"] == [{"key": "binds./data", "old": None, "new": new}]
    assert told["kept_as_made"] == ["policies.sigterm_grace"]


def test_programs_get_what_reaches_a_container(site: Site, engine: list[dict[str, Any]]) -> None:
    site.publish(OLD)
    engine.append(container("train", "pids=9"))
    file = site.write("new/new.yaml", "groups: {student: {memory: 32GiB, aggregate: {cpu_quota: 48.5}}, prof: {}}")
    told = json.loads(site.run("diff", file, "--json").stdout)["containers"]
    old = {"value": 96.0, "unit": "CPUs", "origin": "follows from max_cpus x max_containers_per_user"}
    change = {
        "key": "aggregate.cpu_quota",
        "old": old,
        "new": {"value": 48.5, "unit": "CPUs", "origin": "groups.student (new.yaml:1)"},
    }
    assert told == [{"name": "train", "id": "train" * 9, "user": "root", "changes": [change]}]


def test_programs_get_exemptions_by_the_words_of_the_file(site: Site) -> None:
    site.publish(OLD)
    exempt = "exemptions: [{user: root, from: max_runtime, until: unlimited, why: x}]"
    told = json.loads(site.run("diff", site.write("new/new.yaml", OLD + exempt), "--json").stdout)
    assert told["exemptions_new"] == [{"user": "root", "from": ["max_runtime"], "until": None}]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("memory: 8000m", "memory: 8001m", "8000 MiB -> 8001 MiB"),
        ("memory: 8001m", "memory: 8000m", "8001 MiB -> 8000 MiB"),
        ("memory: 8589934592b", "memory: 8589934593b", "8589934592 B -> 8589934593 B"),
        ("max_cpus: 1.001", "max_cpus: 1.002", "1.001 CPUs -> 1.002 CPUs"),
        ("max_cpus: 1", "max_cpus: 1.002", "1.0 CPUs -> 1.002 CPUs"),
        ("idle_timeout: 60.001s", "idle_timeout: 60.002s", "60.001 seconds -> 60.002 seconds"),
    ],
)
def test_two_values_are_never_told_in_the_same_words(site: Site, old: str, new: str, told: str) -> None:
    site.publish(f"defaults: {{{old}}}")
    assert f"  {told}  " in changed(site, f"defaults: {{{new}}}")


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("shm_size: 1GiB", "shm_size"),
        ("max_runtime: 1h", "systemd's last resort for max_runtime"),
        ("max_runtime: 1h, shm_size: 1GiB", "shm_size, systemd's last resort for max_runtime"),
    ],
)
@pytest.mark.parametrize("layer", ["defaults: {%s}", "user_overrides: {root: {%s}}"])
def test_what_containers_keep_as_it_was_made_is_said(site: Site, change: str, kept: str, layer: str) -> None:
    site.publish()
    sentence = f"\nOf containers that exist these stay as they were made: {kept}\n"
    assert changed(site, layer % change).endswith(sentence)


def test_of_a_key_that_containers_follow_nothing_is_said(site: Site) -> None:
    site.publish()
    assert "containers that exist" not in changed(site, "defaults: {memory: 1GiB}")
