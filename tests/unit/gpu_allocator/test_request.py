from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01.common.model import Denied, Reason
from ds01.gpu_allocator.request import MOST, GpuRequest, parse_request


@pytest.mark.parametrize(
    ("text", "count", "profile", "names"),
    [
        ("1", 1, "", ()),
        (" 2 ", 2, "", ()),
        ("64", 64, "", ()),
        ("007", 7, "", ()),
        ("2g.10gb", 1, "2g.10gb", ()),
        ("3x2g.10gb", 3, "2g.10gb", ()),
        ("1g.5gb+me", 1, "1g.5gb+me", ()),
        ("1g.10gb+me.all", 1, "1g.10gb+me.all", ()),
        ("1c.3g.20gb", 1, "1c.3g.20gb", ()),
        ("7g.80gb", 1, "7g.80gb", ()),
        ("10g", 1, "10gb", ()),
        ("10gb", 1, "10gb", ()),
        ("10GB", 1, "10gb", ()),
        ("10GiB", 1, "10gb", ()),
        ("2x10g", 2, "10gb", ()),
        ("full", 1, "full", ()),
        ("2xfull", 2, "full", ()),
        ("0:1", 1, "", ("0:1",)),
        ("0:1,2", 2, "", ("0:1", "2")),
        ("0:1, 1:1", 2, "", ("0:1", "1:1")),
        ("GPU-ab12", 1, "", ("GPU-ab12",)),
        ("GPU-1,MIG-2", 2, "", ("GPU-1", "MIG-2")),
        ("MIG-GPU-1/2/0", 1, "", ("MIG-GPU-1/2/0",)),
        ("device=0", 1, "", ("0",)),
        ("device=0,1", 2, "", ("0", "1")),
        ("device=0:1", 1, "", ("0:1",)),
        ("device=GPU-ab", 1, "", ("GPU-ab",)),
        ("device=2g.10gb", 1, "2g.10gb", ()),
        ("device=2x10g", 2, "10gb", ()),
        ("device=full", 1, "full", ()),
    ],
)
def test_the_grammar(text: str, count: int, profile: str, names: tuple[str, ...]) -> None:
    assert parse_request(text) == GpuRequest(count, profile, names)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "65",
        "9999999999",
        "-1",
        "1.5",
        "0xfull",
        "65x2g.10gb",
        "x2g.10gb",
        "2x",
        "2x2",
        "2 x 10g",
        "8.10gb",
        "0g.10gb",
        "2g.10",
        "g",
        "0g",
        "Full",
        "none",
        "void",
        "gpu-1",
        "GPU-",
        "0:",
        ":1",
        "0:1:2",
        "0000",
        "0:0,0:0",
        "1,2,1",
        "device=",
        "device=device=0",
        "0,",
        "a" * 10_000,
        ",".join(str(index) for index in range(MOST + 1)),
        "GPU-1\n",
        "GPU-1;reboot",
        "\uff12",
    ],
)
def test_anything_else_is_no_request_and_says_how_to_ask(text: str) -> None:
    verdict = parse_request(text)
    if text == "GPU-1\n":
        assert verdict == GpuRequest(1, names=("GPU-1",)), "white space around is nothing"
        return
    assert isinstance(verdict, Denied), verdict
    assert verdict.reason is Reason.NOT_A_REQUEST
    assert "2g.10gb" in verdict.hint
    assert len(verdict.requested) <= 60


def test_all_is_what_the_site_says_and_says_so() -> None:
    request = parse_request("all", 3)
    assert isinstance(request, GpuRequest)
    assert (request.count, request.profile, request.names) == (3, "", ())
    assert "'all' is 3" in request.warning


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", "one GPU unit"),
        ("2", "2 GPU units"),
        ("2g.10gb", "one 2g.10gb"),
        ("2x2g.10gb", "2x 2g.10gb"),
        ("full", "one whole GPU"),
        ("2xfull", "2 whole GPUs"),
        ("device=0,1", "GPU 0, 1"),
    ],
)
def test_in_words(text: str, words: str) -> None:
    request = parse_request(text)
    assert isinstance(request, GpuRequest)
    assert request.words == words


LIKELY = st.text("0123456789x:,.+-gbGPUMIdeviceful= \n/", max_size=24)


@given(st.one_of(st.text(max_size=40), LIKELY), st.integers(1, MOST))
def test_no_text_is_too_much_and_what_is_understood_is_said_again_the_same(text: str, all_means: int) -> None:
    request = parse_request(text, all_means)
    if isinstance(request, GpuRequest):
        again = parse_request(str(request))
        assert isinstance(again, GpuRequest)
        assert (again.count, again.profile, again.names) == (request.count, request.profile, request.names)
        assert request.count == (len(request.names) or request.count)
        assert 1 <= request.count <= MOST


@pytest.mark.parametrize("all_means", [1, MOST, MOST + 1, 1000])
def test_all_can_be_kept_and_asked_for_again(all_means: int) -> None:
    """What waits or has ended is leased again from this text, whatever the policy says of 'all'."""
    request = parse_request("all", all_means)
    assert isinstance(request, GpuRequest)
    assert isinstance(parse_request(str(request)), GpuRequest)
