"""What the installer plans: places of files, minimums, daemon.json, ranges of ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ds01_installer import plan
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
GOOD = {
    "kernel": (6, 8),
    "systemd": (257,),
    "docker": (26, 1, 5),
    "runc": (1, 1, 12),
    "python": (3, 13),
    "nvidia-container-toolkit": None,
}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("units/ds01.slice", "/usr/lib/systemd/system/ds01.slice"),
        ("units/user-.slice.d/20-ds01.conf", "/usr/lib/systemd/system/user-.slice.d/20-ds01.conf"),
        (
            "units/systemd-journald@ds01.socket.d/50-ds01.conf",
            "/usr/lib/systemd/system/systemd-journald@ds01.socket.d/50-ds01.conf",
        ),
        ("units/timers/ds01-reaper.timer", "/usr/lib/systemd/system/ds01-reaper.timer"),
        ("units/journald@ds01.conf", "/usr/lib/systemd/journald@ds01.conf"),
        ("units/tmpfiles.d/ds01.conf", "/usr/lib/tmpfiles.d/ds01.conf"),
        ("units/udev/71-ds01-nvidia.rules", "/usr/lib/udev/rules.d/71-ds01-nvidia.rules"),
        ("config/policy.json", "/usr/share/ds01/policy.json"),
        ("packaging/ds01.catalog", "/usr/lib/systemd/catalog/ds01.catalog"),
        ("docs/decisions/0001.md", "/usr/share/doc/ds01/decisions/0001.md"),
        ("docs/man/ds01.1", "/usr/share/man/man1/ds01.1"),
        ("packaging/installer.py", None),
        ("config/example.yaml", None),
    ],
)
def test_place_of_a_file(source: str, target: str | None) -> None:
    assert plan.target_of(source) == target


def test_a_unit_file_without_a_place_is_an_error() -> None:
    with pytest.raises(plan.PlanError, match=r"'units/sysctl.d/x.conf' has no place"):
        plan.layout(["units/sysctl.d/x.conf"])


def test_every_file_below_units_is_placed_once() -> None:
    sources = [str(path.relative_to(ROOT)) for path in (ROOT / "units").rglob("*") if path.is_file()]
    targets = [placed.target for placed in plan.layout(sources)]
    assert len(targets) == len(sources) == len(set(targets))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("systemd 257 (257.13-1~deb13u1)\n+PAM", (257,)),
        ("Docker version 26.1.5+dfsg1, build 411e817", (26, 1, 5)),
        ("runc version 1.1.15+ds1\nspec: 1.2.0", (1, 1, 15)),
        ("6.5.0-1023-generic", (6, 5, 0)),
        ("NVIDIA Container Toolkit CLI version 1.17.8", (1, 17, 8)),
        ("none", None),
    ],
)
def test_version_of_a_program(text: str, version: plan.Version | None) -> None:
    assert plan.parse_version(text) == version


def test_a_machine_that_is_new_enough_lacks_nothing() -> None:
    assert plan.shortfalls(GOOD) == ()


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("kernel", (5, 15), "kernel is 5.15, at least 6.5 is needed"),
        ("systemd", (252,), "systemd is 252, at least 255 is needed"),
        ("docker", (20, 10, 24), "docker is 20.10.24, at least 26 is needed"),
        ("docker", None, "docker was not found"),
        ("runc", (1, 1, 11), "runc is 1.1.11, at least 1.1.12 is needed: CVE-2024-21626"),
        ("nvidia-container-toolkit", (1, 17, 7), "nvidia-container-toolkit is 1.17.7"),
    ],
)
def test_a_machine_that_is_too_old_is_told_why(name: str, version: plan.Version | None, sentence: str) -> None:
    (said,) = plan.shortfalls({**GOOD, name: version})
    assert said.startswith(sentence)


def test_the_engine_is_configured_whole() -> None:
    config = json.loads(plan.engine_config(None).text)
    assert config["userns-remap"] == "default"
    assert config["live-restore"] is True
    assert config["icc"] is False
    assert config["no-new-privileges"] is True
    assert config["cgroup-parent"] == "docker-unmanaged.slice"
    assert config["default-runtime"] == "runc"
    assert config["features"] == {"cdi": True}
    assert config["cdi-spec-dirs"] == ["/etc/cdi", "/run/cdi"]
    assert config["exec-opts"] == ["native.cgroupdriver=systemd"]
    assert config["builder"] == {"Entitlements": {"network-host": False, "security-insecure": False}}
    assert config["log-driver"] == "json-file"


def test_the_sites_network_and_disks_are_kept_and_the_rest_is_named() -> None:
    former = {"data-root": "/data", "hosts": ["tcp://0.0.0.0:2375"], "default-runtime": "nvidia", "icc": False}
    config = plan.engine_config(json.dumps(former))
    assert json.loads(config.text)["data-root"] == "/data"
    assert config.dropped == ("default-runtime", "hosts")


def test_our_own_file_is_written_the_same_again() -> None:
    once = plan.engine_config('{"mtu": 1400}').text
    again = plan.engine_config(once)
    assert (again.text, again.dropped, again.hides_old_containers) == (once, (), False)


def test_old_containers_are_hidden_when_the_user_namespace_is_new() -> None:
    assert plan.engine_config('{"live-restore": true}').hides_old_containers


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_daemon_json_that_nobody_can_read_is_not_overwritten(text: str) -> None:
    with pytest.raises(plan.PlanError, match="move it away"):
        plan.engine_config(text)


ranges = st.lists(st.tuples(st.integers(0, 600000), st.integers(1, 70000)), max_size=6)


@given(taken=ranges, used=st.frozensets(st.integers(0, 600000), max_size=20))
def test_the_chosen_range_is_nobodys(taken: list[tuple[int, int]], used: frozenset[int]) -> None:
    text = "".join(f"user{index}:{first}:{count}\n" for index, (first, count) in enumerate(taken))
    try:
        first = plan.choose_range([text, "broken line\n"], used)
    except plan.PlanError:
        return
    ours = range(first, first + plan.ID_RANGE)
    assert not used & set(ours)
    assert all(start + count <= first or start >= ours.stop for start, count in taken)
    assert ours.start >= plan.FIRST_ID
    assert ours.stop - 1 <= plan.LAST_ID


def test_no_free_range_is_said() -> None:
    with pytest.raises(plan.PlanError, match="no free range"):
        plan.choose_range(["all:0:700000000\n"], ())


def test_a_user_without_neighbours_gets_the_first_range() -> None:
    assert plan.choose_range(["", ""], {0, 1000}) == 100000


lines = st.text(alphabet="ab:1", max_size=8)


@given(before=st.lists(lines))
def test_a_line_that_was_added_goes_away_again(before: list[str]) -> None:
    text = "".join(line + "\n" for line in before)
    line = "dockremap:100000:65536"
    assert plan.without_line(plan.with_line(text, line), line) == text
    assert plan.with_line(plan.with_line(text, line), line) == plan.with_line(text, line)


def test_has_subids_compares_whole_names() -> None:
    assert plan.has_subids("dockremap:1:2\n", "dockremap")
    assert not plan.has_subids("dockremapper:1:2\n", "dockremap")
