"""`ds01 policy check`: what the daemon would say, told beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from policy_site import Site

GOOD = "groups: {student: {members: [alice, bob], memory: 64GiB}}\nuser_overrides: {alice: {max_cpus: 4}}\n"


def test_a_good_file_is_told_in_one_sentence(site: Site) -> None:
    file = site.write("new.yaml", GOOD)
    result = site.run("check", file, "--machine", "128,1TiB")
    assert result.stdout == f"'{file}' is good: 1 group, 2 listed members, 1 user override\n"
    assert (result.stderr, result.exit_code) == ("", 0)


def test_without_a_file_it_is_the_one_of_the_machine(site: Site) -> None:
    site.write("etc/resource-limits.yaml", "{}")
    assert site.run("check").stdout.startswith(f"'{site.file}' is good")


@pytest.mark.parametrize(
    ("yaml", "line"),
    [
        ("groups: {student: {memory: 64}}", "1:28: groups.student.memory: '64' has no unit: write 64GiB or 64MiB"),
        ("defaults:\n  max_cpu: 4\n", "2:3: defaults.max_cpu: is not a key: did you mean 'max_cpus'?"),
        ("defaults: [\n", "2:1: is not YAML"),
    ],
)
def test_a_problem_is_told_with_its_place(site: Site, yaml: str, line: str) -> None:
    file = site.write("new.yaml", yaml)
    result = site.run("check", file)
    assert result.exit_code == 78
    assert result.stdout.startswith(f"{file}:{line}")


def test_all_problems_are_told_one_a_line(site: Site) -> None:
    result = site.run("check", site.write("new.yaml", "defaults: {memory: 1, shm_size: 2, pids_limit: x}"))
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [
        "defaults.memory",
        "defaults.shm_size",
        "defaults.pids_limit",
    ]


def test_lists_of_members_beside_the_file_are_checked_too(site: Site) -> None:
    site.write("groups/prof.members", "alice\n")
    result = site.run("check", site.write("new.yaml", "groups: {student: {}}"))
    assert result.exit_code == 78
    assert "groups/prof.members: there is no group 'prof'" in result.stdout


def test_a_file_that_is_not_there(site: Site) -> None:
    result = site.run("check", site.tmp_path / "new.yaml")
    assert (result.stdout, result.exit_code) == (f"{site.tmp_path}/new.yaml: does not exist\n", 78)


@pytest.mark.parametrize(("machine", "exit_code"), [("2,8GiB", 78), ("128,32GiB", 78), ("128, 1TiB", 0)])
def test_another_machine_can_be_meant(site: Site, machine: str, exit_code: int) -> None:
    assert site.run("check", site.write("new.yaml", GOOD), "--machine", machine).exit_code == exit_code


@pytest.mark.parametrize(
    ("machine", "tasks", "exit_code"),
    [("4,8GiB", 65536, 0), ("4,8GiB", 65537, 78), ("128,1TiB", 2**22, 0), ("128,1TiB", 2**22 + 1, 78)],
)
def test_another_machine_has_room_for_as_many_processes_as_its_kernel_would(
    site: Site, machine: str, tasks: int, exit_code: int
) -> None:
    file = site.write("new.yaml", f"defaults: {{aggregate: {{tasks_max: {tasks}}}}}")
    assert site.run("check", file, "--machine", machine).exit_code == exit_code


@pytest.mark.parametrize("machine", ["128", "1TiB", "128,1", "x,1TiB", "0,1TiB", "4,50% of machine", "4,0g"])
def test_what_is_no_machine_is_wrong_usage(site: Site, machine: str) -> None:
    result = site.run("check", site.write("new.yaml", GOOD), "--machine", machine)
    assert result.exit_code == 2
    assert f"'{machine}' is no machine" in result.stderr


@pytest.mark.parametrize(
    ("yaml", "named"),
    [
        ("defaults: {idle_timeout: 1h}", "idle_timeout"),
        ("groups: {a: {priority: 200, memory: 1GiB}}", "priority"),
        ("user_overrides: {alice: {max_networks: 3, idle_timeout: 1h}}", "idle_timeout, max_networks"),
        ("policies: {idle_action: park}", "policies.idle_action"),
        ("binds: {~/x: ro}", "binds"),
        ("exemptions: [{user: a, from: idle_timeout, until: unlimited, why: x}]", "exemptions"),
    ],
)
def test_what_nothing_makes_hold_is_named_and_no_mistake(site: Site, yaml: str, named: str) -> None:
    result = site.run("check", site.write("new.yaml", yaml))
    assert result.stderr == f"note: read, but nothing in this version makes it hold: {named}\n"
    assert result.exit_code == 0


def test_programs_get_the_counts(site: Site) -> None:
    told = json.loads(site.run("check", site.write("new.yaml", GOOD), "--machine", "128,1TiB", "--json").stdout)
    assert told == {"good": True, "problems": [], "groups": 1, "members": 2, "overrides": 1, "not_held": []}


def test_programs_get_the_places(site: Site) -> None:
    file = site.write("new.yaml", "defaults: {memory: 64}")
    result = site.run("check", file, "--json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem["place"] == {"file": str(file), "line": 1, "column": 20}
    assert (problem["path"], result.exit_code) == ("defaults.memory", 78)


def test_a_command_that_needs_no_policy_imports_none() -> None:
    code = "import sys, ds01.cli.ds01; print(*sys.modules)"
    path = str(Path(__file__).parents[3] / "build" / "typing")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path})
    assert run.returncode == 0
    assert not {"yaml", "ds01.common", "http.client", "dataclasses", "pathlib"} & set(run.stdout.split())
