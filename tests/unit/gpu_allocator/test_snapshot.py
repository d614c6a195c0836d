from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import ALICE, BOB, REFERENCE_SITE, RESEARCHER, RITA, STUDENT, asker, instance, lease

from ds01.common.errors import Malformed
from ds01.common.limits import GpuTotal
from ds01.common.model import Denied, Granted, LeaseKind, LeaseState, Reason, Unit
from ds01.gpu_allocator.choose import keys
from ds01.gpu_allocator.decide import decide
from ds01.gpu_allocator.explain import explain
from ds01.gpu_allocator.request import GpuRequest, parse_request
from ds01.gpu_allocator.snapshot import parse_snapshot, replay, snapshot_text
from ds01.gpu_allocator.world import Asker, World, masked

some_units = st.lists(st.sampled_from(REFERENCE_SITE), unique=True).map(tuple)
ALIVE = [state for state in LeaseState if state is not LeaseState.RELEASED]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any world: units, who holds some, and everything else that a decision may see."""
    leases = tuple(
        replace(
            lease(
                draw(st.sampled_from([ALICE, BOB, RITA])),
                unit,
                state=draw(st.sampled_from(ALIVE)),
                until=draw(st.none() | st.floats(0, 1e10)),
                kind=draw(st.sampled_from(list(LeaseKind))),
            ),
            group=draw(st.sampled_from(["student", "researcher"])),
        )
        for unit in draw(some_units)
    )
    return World(
        units=draw(some_units),
        leases=leases,
        withheld=draw(st.dictionaries(st.integers(0, 9), st.text(max_size=9), max_size=2)),
        occupied={unit.key: draw(st.text(max_size=9)) for unit in draw(some_units)},
        reserved=keys(draw(some_units)),
        links=draw(st.dictionaries(st.integers(0, 9), st.frozensets(st.integers(0, 9), max_size=3), max_size=4)),
        ends={one.id: draw(st.floats(0, 1e10)) for one in leases if draw(st.booleans())},
    )


askers = st.builds(
    asker,
    st.sampled_from([ALICE, BOB]),
    st.sampled_from([STUDENT, RESEARCHER, replace(STUDENT, max_gpu_equivalents=Fraction(3, 7))]),
    st.sampled_from([GpuTotal(), GpuTotal(Fraction(5, 7), 3)]),
)
requests = st.sampled_from(["1", "2", "3", "full", "10g", "0:0", "2,3", "GPU-3", "all", "9:9", "nonsense"])


@given(worlds(), askers, st.integers(1, 9))
def test_a_world_comes_back_as_it_was(world: World, who: Asker, means: int) -> None:
    assert parse_snapshot(snapshot_text(who, world, means, 5.0)) == (who, world, means)


@given(worlds(), askers, requests, st.integers(1, 3))
def test_a_replay_says_what_was_said(world: World, who: Asker, gpus: str, means: int) -> None:
    assert replay(snapshot_text(who, world, means, 5.0), gpus) == explain(gpus, who, world, means)


@given(worlds(), askers, requests)
def test_what_is_explained_is_what_is_decided(world: World, who: Asker, gpus: str) -> None:
    lines, verdict, against = explain(gpus, who, world, 1)
    request = parse_request(gpus)
    assert lines
    assert verdict == (decide(request, who, world) if isinstance(request, GpuRequest) else request)
    assert (against[0] == verdict) if isinstance(verdict, Denied) else not against


def bare(verdict: Granted | Denied) -> Granted | Denied:
    """Without the names of those who would have to end."""
    return replace(verdict, to_end=()) if isinstance(verdict, Denied) else verdict


@given(worlds(), askers, requests)
def test_a_masked_world_decides_the_same(world: World, who: Asker, gpus: str) -> None:
    request = parse_request(gpus)
    if isinstance(request, GpuRequest):
        assert bare(decide(request, who, masked(world, who.uid))) == bare(decide(request, who, world))


def test_a_masked_world_names_nobody_else() -> None:
    bobs = replace(
        lease(BOB, instance(0, 0), name="l1"), container="bobs-id", container_name="bobs", request_id="r-bob"
    )
    world = World(REFERENCE_SITE, (bobs, lease(ALICE, instance(0, 1), name="l2")))
    text = snapshot_text(asker(ALICE), masked(world, ALICE), 1, 5.0)
    assert not [secret for secret in (str(BOB), "bobs", "bobs-id", "r-bob") if secret in text]
    assert f"user{ALICE}" in text
    assert "0:0" in text


def good() -> dict[str, object]:
    world = World(REFERENCE_SITE[:1], (lease(ALICE, instance(0, 0)),))
    return dict(json.loads(snapshot_text(asker(ALICE), world, 1, 5.0)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}", "[" * 100_000, '{"ds01_snapshot": 9}'])
def test_what_is_no_snapshot(text: str) -> None:
    with pytest.raises(Malformed):
        parse_snapshot(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ds01_snapshot", 2),
        ("asker", None),
        ("asker", {}),
        ("asker", {"uid": 1}),
        ("gpus_all_means", "x"),
        ("gpus_all_means", float("inf")),
        ("units", [{}]),
        ("units", [{"key": "a", "name": "0", "profile": "full", "uuid": "a", "gpu": 0, "size": "1/0"}]),
        ("units", 3),
        ("leases", [{"state": "asleep", "kind": "container", "units": []}]),
        ("leases", [[]]),
        ("withheld", {"x": "why"}),
        ("withheld", []),
        ("occupied", "x"),
        ("reserved", [1]),
        ("links", {"0": 1}),
        ("ends", {"l": "soon"}),
    ],
)
def test_what_is_broken_in_one_place_is_malformed(key: str, value: object) -> None:
    raw = {**good(), key: value}
    with pytest.raises(Malformed):
        parse_snapshot(json.dumps(raw))


@pytest.mark.parametrize("key", sorted(good()))
def test_what_lacks_something_is_malformed(key: str) -> None:
    raw = good()
    del raw[key]
    if key == "at":
        parse_snapshot(json.dumps(raw))  # when it was is for people
        return
    with pytest.raises(Malformed):
        parse_snapshot(json.dumps(raw))


def test_the_text_is_for_people_too() -> None:
    unit: Unit = instance(0, 0)
    assert '"size": "2/7"' in snapshot_text(asker(ALICE), World((unit,), ()), 1, 5.0)


SAVED = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize(
    ("file", "gpus", "expected"),
    [
        ("one-instance-left", "1", Reason.OVER_MIG_INSTANCES),
        ("one-instance-left", "full", Reason.FULL_GPU_NOT_ALLOWED),
        ("one-instance-left", "3", Reason.OVER_UNITS_PER_CONTAINER),
        ("two-gpus-broken", "1", Reason.NONE_FREE),
        ("two-gpus-broken", "device=3", Reason.NONE_FREE),
        ("two-gpus-broken", "0:9", Reason.NO_SUCH_UNIT),
    ],
)
def test_a_saved_world_is_decided_in_as_it_was(file: str, gpus: str, expected: Reason) -> None:
    """The files are what `ds01 status --snapshot` writes."""
    _, verdict, against = replay((SAVED / f"{file}.json").read_text(), gpus)
    assert isinstance(verdict, Denied)
    assert (verdict.reason, verdict) == (expected, against[0])
