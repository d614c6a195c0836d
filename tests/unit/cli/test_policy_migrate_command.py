"""`ds01 policy migrate`: the predecessor's folder in, a file that `check` takes out."""

from __future__ import annotations

import pytest
from policy_site import Site

OLD = """\
defaults: {max_runtime_h: 48, memory: 32g, storage_workspace: 100G}
default_group: student
groups:
  student: {aggregate: {memory_max: 96G}}
  researcher: {max_cpus: 64, aggregate: {cpu_quota: "9600%"}}
"""


@pytest.fixture
def old(site: Site) -> Site:
    site.write("old/resource-limits.yaml", OLD)
    return site


def test_the_result_is_data_and_the_rest_is_talk(old: Site) -> None:
    result = old.run("migrate", old.tmp_path / "old/resource-limits.yaml", "--machine", "128,1TiB")
    assert "  max_runtime: 48h                            # was max_runtime_h: 48\n" in result.stdout
    assert result.stderr == (
        f"{old.tmp_path}/old/resource-limits.yaml:1:44: defaults.storage_workspace: not carried: homes and data have no"
        " quota here; max_disk limits what containers, images and volumes use\n"
    )
    assert result.exit_code == 0


def test_the_result_is_written_and_good(old: Site) -> None:
    old.write("old/groups/researcher.members", "rita  # since May\n")
    old.write("old/user-overrides.yaml", "alice: {max_runtime_h: null}\n")
    old.write(
        "old/lifecycle-exemptions.yaml",
        "exemptions: [{username: bob, exempt_from: [idle_timeout_h], expires_on: null, reason: thesis}]\n",
    )
    new = old.tmp_path / "new.yaml"
    source = old.tmp_path / "old/resource-limits.yaml"
    result = old.run("migrate", source, "-o", new, "--machine", "128,1TiB")
    assert (result.stdout, result.exit_code) == ("", 0)
    checked = old.run("check", new, "--machine", "128,1TiB")
    assert checked.stdout == f"'{new}' is good: 2 groups, 1 listed member, 1 user override\n"
    text = new.read_text()
    assert "      - rita\n" in text
    assert "  alice:\n    max_runtime: unlimited  " in text
    assert '  - user: bob\n    from: [idle_timeout]\n    until: unlimited\n    why: "thesis"\n' in text


def test_a_limit_above_the_machine_is_told_as_check_tells_it(old: Site) -> None:
    new = old.tmp_path / "new.yaml"
    result = old.run("migrate", old.tmp_path / "old/resource-limits.yaml", "-o", new, "--machine", "32,1TiB")
    told = old.run("check", new, "--machine", "32,1TiB").stdout
    assert result.exit_code == 78
    assert "groups.researcher.max_cpus: 64 CPUs are more than the machine has" in told
    assert told in result.stderr


def test_a_file_that_is_there_is_not_overwritten(old: Site) -> None:
    new = old.write("new.yaml", "mine")
    result = old.run("migrate", old.tmp_path / "old/resource-limits.yaml", "-o", new)
    assert (result.exit_code, new.read_text()) == (73, "mine")


@pytest.mark.parametrize(
    ("path", "text", "exit_code", "told"),
    [
        ("nothing", None, 66, "does not exist"),
        ("old/resource-limits.yaml", "a: [", 78, "is not YAML"),
        ("old/user-overrides.yaml", "a: [", 78, "user-overrides.yaml:2:1: is not YAML"),
        ("old/groups/student.members", "a b", 78, "student.members:1:1: 'a b' is no name"),
    ],
)
def test_what_can_not_be_read(old: Site, path: str, text: str | None, exit_code: int, told: str) -> None:
    if text is not None:
        old.write(path, text)
    source = old.tmp_path / ("old/resource-limits.yaml" if text else path)
    result = old.run("migrate", source, "--machine", "128,1TiB")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert told in result.stderr


OURS = """\
# Whoever is new.
groups:
  student: {unix_groups: [student], memory: 32GiB}   # as agreed
user_overrides: {alice: {max_runtime: 96h}}
"""


@pytest.mark.parametrize("text", [OURS, OURS + "max_conections: 9\n", "defaults: {memory: 1g}\r\n", "{}"])
def test_a_file_in_todays_format_stays_as_it_is(site: Site, text: str) -> None:
    file = site.tmp_path / "ours.yaml"
    file.write_bytes(text.encode())
    result = site.run("migrate", file, "--machine", "128,1TiB")
    assert result.stdout_bytes.decode() == text
    assert result.stderr == f"'{file}' is in today's format already: nothing to carry over\n"
    assert result.exit_code == 0
    assert site.run("migrate", file, "-o", site.tmp_path / "same.yaml", "--machine", "128,1TiB").stdout == ""
    assert (site.tmp_path / "same.yaml").read_bytes() == text.encode()


def test_what_the_predecessor_has_beside_a_file_that_might_be_ours_is_carried_over(site: Site) -> None:
    file = site.write("old/resource-limits.yaml", "defaults: {memory: 1g}")
    site.write("old/user-overrides.yaml", "alice: {max_runtime_h: 96}")
    assert "  alice:\n    max_runtime: 96h " in site.run("migrate", file).stdout
