"""`ds01 policy check`: what the daemon would say, told beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from policy_site import Site

GOOD = "groups: {student: {members: [root, daemon], memory: 64GiB}}\nuser_overrides: {root: {max_cpus: 4}}\n"


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
    assert (result.stdout, result.exit_code) == ("", 66)
    assert result.stderr == f"'{site.tmp_path}/new.yaml' does not exist\n"


def test_that_the_machine_has_no_file_is_a_mistake_as_it_is_to_the_daemon(site: Site) -> None:
    result = site.run("check")
    assert (result.stdout, result.exit_code) == (f"{site.file}: does not exist\n", 78)


def test_the_exit_statuses_are_in_the_help(site: Site) -> None:
    said = [line.split()[0] for line in site.run("check", "--help").stdout.splitlines() if line[:5].strip().isdigit()]
    assert said == ["0", "66", "78"]


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
        ("groups: {a: {max_networks: 3, memory: 1GiB}}", "max_networks"),
        ("user_overrides: {root: {max_networks: 3, idle_timeout: 1h}}", "idle_timeout, max_networks"),
        ("policies: {idle_action: park}", "policies.idle_action"),
        ("binds: {~/x: ro}", "binds"),
        ("exemptions: [{user: root, from: idle_timeout, until: unlimited, why: x}]", "exemptions"),
    ],
)
def test_what_nothing_makes_hold_is_named_and_no_mistake(site: Site, yaml: str, named: str) -> None:
    result = site.run("check", site.write("new.yaml", yaml))
    assert result.stderr == f"note: read, but nothing in this version makes it hold: {named}\n"
    assert result.exit_code == 0


NOBODYS = """\
groups: {student: {members: [root, no1]}}
user_overrides: {no2: {max_cpus: 1}, no1: {}}
exemptions:
  - {user: no3, from: max_runtime, until: unlimited, why: x}
"""
NO_ACCOUNT = "note: no account on this machine: "


def test_names_that_no_account_has_are_told_with_their_places(site: Site) -> None:
    site.write("groups/student.members", "daemon\nno4\n")
    result = site.run("check", site.write("new.yaml", NOBODYS))
    told = "'no4' (student.members:2), 'no1' (new.yaml:1), 'no2' (new.yaml:2), 'no3' (new.yaml:4)"
    assert NO_ACCOUNT + told + "\n" in result.stderr
    assert result.exit_code == 0


def test_of_many_names_the_first_ones_are_told(site: Site) -> None:
    file = site.write("new.yaml", f"groups: {{student: {{members: [{', '.join(f'no{i}' for i in range(7))}]}}}}")
    assert site.run("check", file).stderr.endswith("'no4' (new.yaml:1) and 2 more\n")


def test_names_in_a_file_with_mistakes_are_told_too(site: Site) -> None:
    result = site.run("check", site.write("new.yaml", "user_overrides: {no1: {memory: 64}}"))
    assert (result.stderr, result.exit_code) == (NO_ACCOUNT + "'no1' (new.yaml:1)\n", 78)


@pytest.mark.parametrize(
    ("until", "is_over"),
    [
        ("unlimited", False),
        ("2020-01-01", True),
        (f"{date.today()}", False),
        ("9999-12-31", False),
        ("2020-01-01T12:00", True),
        ("2020-01-01T12:00+02:00", True),
        ("9999-12-31T12:00", False),
        ("0001-01-01T00:00Z", True),
    ],
)
def test_exemptions_that_are_over_are_told(site: Site, until: str, is_over: bool) -> None:
    file = site.write("new.yaml", f"exemptions: [{{user: root, from: max_runtime, until: '{until}', why: x}}]")
    result = site.run("check", file)
    assert ("note: exemptions that are over: 'root' (new.yaml:1)\n" in result.stderr) is is_over
    assert result.exit_code == 0


def test_programs_get_the_counts(site: Site) -> None:
    told = json.loads(site.run("check", site.write("new.yaml", GOOD), "--machine", "128,1TiB", "--json").stdout)
    notes = {"not_held": [], "no_account": [], "exemptions_over": []}
    assert told == {"good": True, "problems": [], "groups": 1, "members": 2, "overrides": 1, **notes}


def test_programs_get_the_names(site: Site) -> None:
    told = json.loads(site.run("check", site.write("new.yaml", "user_overrides: {no1: {}}"), "--json").stdout)
    place = {"file": f"{site.tmp_path}/new.yaml", "line": 1, "column": 18}
    assert told["no_account"] == [{"name": "no1", "place": place}]


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
