"""Layout text and placements: the A100's tables."""

from __future__ import annotations

import pytest
from fakesite.errors import SiteError
from fakesite.profiles import PROFILES, Layout, parse_host, parse_layout, place
from hypothesis import given
from hypothesis import strategies as st


def test_host_text_names_each_gpu() -> None:
    assert parse_host("2x3g.20gb, full,mig") == (
        Layout(mig=True, profiles=("3g.20gb", "3g.20gb")),
        Layout(mig=False),
        Layout(mig=True),
    )


def test_none_is_a_host_without_gpus() -> None:
    assert parse_host("none") == ()


def test_host_text_names_the_pairs_that_nvlink_joins() -> None:
    assert [layout.links for layout in parse_host("full,mig,full nvlink=0-1,1-2")] == [{1}, {0, 2}, {1}]
    assert [layout.links for layout in parse_host("full,full")] == [frozenset(), frozenset()]


@pytest.mark.parametrize("links", ["0-0", "0-2", "0", "a-b", "0-1,"])
def test_pairs_that_are_none_are_refused(links: str) -> None:
    with pytest.raises(SiteError, match="joins no two of 2 GPUs"):
        parse_host(f"full,full nvlink={links}")


@pytest.mark.parametrize("text", ["", "2g.10gb", "0x2g.10gb", "xx2g.10gb", "3x2g.20gb", "1x2g.10gb+", "-1x2g.10gb"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(SiteError, match="is not a layout"):
        parse_layout(text)


@pytest.mark.parametrize(
    ("text", "placements"),
    [
        ("7x1g.5gb", [("1g.5gb", start, 7 + start) for start in range(7)]),
        ("4x1g.10gb", [("1g.10gb", 0, 3), ("1g.10gb", 2, 4), ("1g.10gb", 4, 5), ("1g.10gb", 6, 6)]),
        ("3x2g.10gb", [("2g.10gb", 0, 3), ("2g.10gb", 2, 4), ("2g.10gb", 4, 5)]),
        ("2x3g.20gb", [("3g.20gb", 0, 1), ("3g.20gb", 4, 2)]),
        ("1x4g.20gb", [("4g.20gb", 0, 1)]),
        ("1x7g.40gb", [("7g.40gb", 0, 0)]),
        ("1x3g.20gb+1x4g.20gb", [("4g.20gb", 0, 1), ("3g.20gb", 4, 2)]),
        ("1x1g.5gb+2x2g.10gb", [("2g.10gb", 0, 3), ("2g.10gb", 2, 4), ("1g.5gb", 4, 11)]),
    ],
)
def test_instances_lie_where_the_driver_puts_them(text: str, placements: list[tuple[str, int, int]]) -> None:
    placed = place(parse_layout(text).profiles)
    assert [(item.profile, item.start, item.gpu_instance) for item in placed] == placements


@pytest.mark.parametrize("text", ["8x1g.5gb", "5x1g.10gb", "4x2g.10gb", "3x3g.20gb", "2x4g.20gb", "1x7g.40gb+1x1g.5gb"])
def test_more_than_fits_is_refused(text: str) -> None:
    with pytest.raises(SiteError, match="does not fit one GPU"):
        parse_layout(text)


@given(st.lists(st.sampled_from(sorted(PROFILES)), max_size=7))
def test_placed_instances_never_overlap(names: list[str]) -> None:
    try:
        placed = place(tuple(names))
    except SiteError:
        return
    slices = [s for item in placed for s in range(item.start, item.start + PROFILES[item.profile].size)]
    assert len(slices) == len(set(slices))
    assert all(item.start in PROFILES[item.profile].starts for item in placed)
    assert len({item.gpu_instance for item in placed}) == len(names)
