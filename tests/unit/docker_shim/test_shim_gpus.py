"""What is asked of GPUs, in every spelling that clients have; the label that waits; and the allocator's "no"."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shim_world import denial

from ds01.docker_shim.admin_create import build_admin, parse_admin_wish
from ds01.docker_shim.denials import refused_of
from ds01.docker_shim.gpus import MAX_TEXT, is_request, parse_requests
from ds01.docker_shim.model import GpuWish, Json, Origin, Owner, Refused
from ds01.docker_shim.refusals import answer
from ds01.docker_shim.waitlabel import LONGEST_S, kept_wait_s, parse_wait, wait_text
from ds01.docker_shim.wish import parse_gpus, parse_wish

GPU = [["gpu"]]
UUID = "GPU-5b0d2b0e-9a0c-4a43-9f2a-0c6d6d1c0001"


def named(*identities: str, **more: Json) -> dict[str, Json]:
    return {"Driver": "", "Count": 0, "DeviceIDs": [*identities], "Capabilities": [["gpu"]], "Options": {}, **more}


def cdi(*identities: str) -> dict[str, Json]:
    return {"Driver": "cdi", "DeviceIDs": [*identities]}


SPELLINGS: list[tuple[str, list[dict[str, Json]], str]] = [
    ("none", [], ""),
    ("count 0", [{"Count": 0}], ""),
    ("count 0 twice", [{"Count": 0}, {"Count": 0, "DeviceIDs": []}], ""),
    ("--gpus 1", [{"Driver": "", "Count": 1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}], "1"),
    (
        "--gpus 2,driver=nvidia",
        [{"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu", "compute", "utility"]]}],
        "2",
    ),
    ("two counts", [{"Count": 1}, {"Count": 2}], "3"),
    ("--gpus all", [{"Count": -1, "Capabilities": [["gpu"]]}], "all"),
    ("--gpus device=all", [named("all")], "all"),
    ("--gpus device=0", [named("0")], "device=0"),
    ("--gpus device=0:1", [named("0:1")], "device=0:1"),
    ("--gpus device=GPU-…", [named(UUID)], f"device={UUID}"),
    ('--gpus "device=0:1,1:0"', [named("0:1", "1:0")], "device=0:1,1:0"),
    ('device_ids=["0,2"]', [named("0,2")], "device=0,2"),
    ("--gpus device=2g.10gb", [named("2g.10gb")], "device=2g.10gb"),
    ("--gpus device=1g.10gb+me", [named("1g.10gb+me")], "device=1g.10gb+me"),
    ("--gpus device=2x2g.10gb", [named("2x2g.10gb")], "device=2x2g.10gb"),
    ("--gpus device=full", [named("full", Driver="nvidia")], "device=full"),
    ("--gpus device=0 --gpus device=1:0", [named("0"), named("1:0")], "device=0,1:0"),
    ("--device nvidia.com/gpu=0", [cdi("nvidia.com/gpu=0")], "device=0"),
    ("--device nvidia.com/gpu=all", [cdi("nvidia.com/gpu=all")], "all"),
    ("two --device", [cdi("nvidia.com/gpu=0:1", "nvidia.com/gpu=1:0")], "device=0:1,1:0"),
    ("--device and --gpus", [cdi("nvidia.com/gpu=0:1"), named("1:0")], "device=0:1,1:0"),
    ("sixty names", [named(*(f"{gpu}:0" for gpu in range(60)))], "device=" + ",".join(f"{g}:0" for g in range(60))),
]


@pytest.mark.parametrize(("spelling", "requests", "text"), SPELLINGS, ids=[row[0] for row in SPELLINGS])
def test_every_spelling_is_one_text(spelling: str, requests: list[dict[str, Json]], text: str) -> None:
    wish = parse_wish({"Image": "busybox", "HostConfig": {"DeviceRequests": [*requests]}})
    assert not isinstance(wish, Refused)
    assert wish.gpus == GpuWish(text)
    assert is_request(text) is bool(text)
    admin = parse_admin_wish({"Image": "busybox", "HostConfig": {"DeviceRequests": [*requests]}})
    assert not isinstance(admin, Refused)
    assert admin.gpus == GpuWish(text)


REFUSED: list[tuple[list[Json], int, str]] = [
    ([{"Count": 1}, named("0")], 400, "exclude each other"),
    ([{"Count": -1}, named("0")], 400, "exclude each other"),
    ([{"Count": -1}, {"Count": 1}], 400, "exclude each other"),
    ([cdi("nvidia.com/gpu=all", "nvidia.com/gpu=0")], 400, "exclude each other"),
    ([named("0", Count=1)], 400, "both"),
    ([named("0", Count=-1)], 400, "both"),
    ([cdi("ds01.io/gpu=l-2")], 403, "'ds01.io/gpu=l-2' is refused"),
    ([cdi("vendor.com/fpga=0")], 403, "is refused"),
    ([cdi("nvidia.com/mig=0:1")], 403, "is refused"),
    ([cdi("0")], 403, "is refused"),
    ([cdi("nvidia.com/gpu=0", "ds01.io/gpu=l-2")], 403, "is refused"),
    ([cdi("nvidia.com/gpu=0,ds01.io/gpu=l-2")], 400, "names no GPU"),
    ([cdi("nvidia.com/gpu=")], 400, "names no GPU"),
    ([named("nvidia.com/gpu=0")], 400, "names no GPU"),
    ([named("")], 400, "names no GPU"),
    ([named("0,")], 400, "names no GPU"),
    ([named("0 1")], 400, "names no GPU"),
    ([named("0\n")], 400, "names no GPU"),
    ([named("-1")], 400, "names no GPU"),
    ([named("\u0661")], 400, "names no GPU"),
    ([named("device=0")], 400, "names no GPU"),
    ([named("a\0")], 400, "list of texts"),
    ([named(*[UUID] * 11)], 400, "longer than 400"),
    ([named("9" * 401)], 400, "longer than 400"),
    ([{"Driver": "amd", "Count": 1}], 403, "driver 'amd'"),
    ([{"Count": 1, "Capabilities": [["tpu"]]}], 403, "capabilities"),
    ([{"Count": 1, "Capabilities": "gpu"}], 403, "capabilities"),
    ([{"Count": 1, "Options": {"a": "b"}}], 403, "options"),
    ([{"Count": -2}], 400, "not a number of GPU units"),
    ([{"Count": "1"}], 400, "number"),
    ([{"Count": True}], 400, "number"),
    ([{"DeviceIDs": "0"}], 400, "list of texts"),
    ([{"Count": 1, "New": 1}], 403, "New"),
    (["0"], 400, "list of objects"),
]


@pytest.mark.parametrize(("requests", "status", "word"), REFUSED)
def test_what_is_no_request_for_gpus_is_refused(requests: list[Json], status: int, word: str) -> None:
    refused = parse_requests(requests)
    assert isinstance(refused, Refused)
    assert (refused.status, word in refused.message) == (status, True)


def test_a_mixture_is_refused_with_the_flag_to_use() -> None:
    refused = parse_requests([{"Count": 1}, named("0")])
    assert isinstance(refused, Refused)
    assert "--gpus device=2g.10gb" in refused.hint


@given(st.lists(st.fixed_dictionaries({"Count": st.integers(0, 2**63 - 1)}), max_size=40))
def test_what_is_asked_is_short_however_often_it_is_asked(requests: list[Json]) -> None:
    text = parse_requests(requests)
    assert isinstance(text, Refused) or not text or (is_request(text) and len(text) <= MAX_TEXT)


WAITS: list[tuple[Json, float, str]] = [
    (None, 0.0, ""),
    ("", LONGEST_S, "7d"),
    ("true", LONGEST_S, "7d"),
    ("1h", 3600.0, "1h"),
    ("1h30m", 5400.0, "1h30m"),
    ("90s", 90.0, "1m30s"),
    ("0.5s", 1.0, "1s"),
    ("0s", 0.0, ""),
    ("7d", LONGEST_S, "7d"),
    ("8d", LONGEST_S, "7d"),
    ("300d", LONGEST_S, "7d"),
]


@pytest.mark.parametrize(("said", "wait_s", "kept"), WAITS)
def test_a_wait_is_kept_as_a_duration_of_a_week_at_most(said: Json, wait_s: float, kept: str) -> None:
    assert parse_wait(said) == wait_s
    assert wait_text(wait_s) == kept
    assert kept_wait_s(kept) == wait_s


@pytest.mark.parametrize(
    "said", ["false", "True", "1", "-1h", "1h ", "1y", "0", "nan", "inf", "\x1b[2J", "1s" * 30, 5, ["1h"], True]
)
def test_a_wait_that_is_none_is_refused_with_the_way_to_write_it(said: Json) -> None:
    refused = parse_wait(said)
    assert isinstance(refused, Refused)
    assert (refused.status, "--label ds01.wait=1h" in refused.hint) == (400, True)
    assert refused.message.isprintable()


@pytest.mark.parametrize("kept", ["true", "x", "1", "9" * 100 + "h", "1s" * 30, "5000000h"])
def test_a_label_that_is_not_ours_does_not_wait(kept: str) -> None:
    assert kept_wait_s(kept) == 0.0


def test_a_label_that_says_more_than_a_week_waits_a_week() -> None:
    assert kept_wait_s("300d") == LONGEST_S


def test_a_wait_without_gpus_means_nothing_and_is_read_all_the_same() -> None:
    assert parse_gpus(None, {"ds01.wait": "1h"}) == GpuWish()
    assert isinstance(parse_gpus(None, {"ds01.wait": "soon"}), Refused)


@pytest.mark.parametrize("key", ["DS01.wait", "ds01.Wait", "ds01.wait ", "ds01.gpus", "ds01.lease", "ds01.waits"])
def test_no_other_label_of_ours_is_the_users(key: str) -> None:
    refused = parse_wish({"Image": "busybox", "Labels": {key: "1h"}})
    assert isinstance(refused, Refused)
    assert (refused.status, "ds01.wait" in refused.hint) == (403, True)


OWNER, ORIGIN = Owner(1010, "ada", "prof", "ds01-prof-ada.slice"), Origin("req-12345678", "docker", "tool")


@pytest.mark.parametrize(
    ("labels", "wait", "gpus"),
    [
        ({"ds01.wait": "true"}, "7d", "device=0"),
        ({"ds01.wait": "1h", "ds01.gpus": "all"}, "1h", "device=0"),
        ({"ds01.wait": "1h", "ds01.unmanaged": "1"}, "", ""),
    ],
)
def test_an_administrators_container_has_the_same_labels(labels: dict[str, Json], wait: str, gpus: str) -> None:
    wish = parse_admin_wish(
        {"Image": "busybox", "Labels": labels, "HostConfig": {"DeviceRequests": [cdi("nvidia.com/gpu=0")]}}
    )
    assert not isinstance(wish, Refused)
    written = build_admin(wish, OWNER, ORIGIN, "l-1" if gpus else "").body["Labels"]
    assert isinstance(written, dict)
    assert (written["ds01.wait"], written["ds01.gpus"]) == (wait, gpus)


def blocker(mine: bool, until: float | None = None, name: str = "train") -> dict[str, Any]:
    """As somebody is told who is taken for an administrator: with all names."""
    who = {"user": "alice" if mine else "bob", "group": "student" if mine else "prof"}
    return {"mine": mine, **who, "name": name, "units": "0:1", "state": "active", "until": until}


def test_a_denial_says_who_would_have_to_end_and_no_name_of_others() -> None:
    no = denial("none-free", "none is free", "try later", (blocker(True), blocker(False, 1.8e9 + 0.5, "secret")))
    sent = json.loads(answer(refused_of(no), "r").body)
    mine, theirs = sent["ds01"]["to_end"]
    assert (mine["mine"], mine["name"], mine["user"], mine["until"]) == (True, "train", "alice", None)
    assert (theirs["mine"], theirs["group"], theirs["until"]) == (False, "prof", 1_800_000_001)
    assert "your 'train' (0:1, active), somebody's of group 'prof' (0:1, active until 20" in sent["message"]
    assert sent["message"].endswith("or 'container deploy NAME --wait'")
    assert not {"bob", "secret"} & set(json.dumps(sent).replace('"', " ").split())


def test_of_many_three_are_named() -> None:
    no = denial("over-gpu-equivalents", to_end=tuple(blocker(True, name=f"c{number}") for number in range(5)))
    refused = refused_of(no)
    assert refused.message.endswith("'c2' (0:1, active), 2 more")
    assert len(refused.to_end) == 5
