"""Request heads and targets: what two parsers could read differently is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import h11
import pytest

from ds01.docker_shim.guard import Passed, decide
from ds01.docker_shim.head import MAX_HEAD, parse_head
from ds01.docker_shim.model import Head, Reason, Refused, Target
from ds01.docker_shim.routes import BY_HAND, ROUTES, Kind, Route, filled, match
from ds01.docker_shim.target import engine_target, parse_target

POST = "POST /containers/create HTTP/1.1\r\nHost: d\r\n"


def head_of(text: str) -> Head | Refused:
    return parse_head(text.encode("latin-1") + b"\r\n", h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD))


@pytest.mark.parametrize(
    "text",
    [
        POST + "Content-Length: 5\r\nContent-Length: 5\r\n",
        POST + "Content-Length: 5\r\nContent-Length: 6\r\n",
        POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        POST + "content-length: 5\r\nTRANSFER-ENCODING: chunked\r\n",
        POST + "Content-Length: 5, 5\r\n",
        POST + "Content-Length: +5\r\n",
        POST + "Content-Length: -1\r\n",
        POST + "Content-Length: 0x5\r\n",
        POST + "Content-Length: 99999999999999999999\r\n",
        POST + "Transfer-Encoding: gzip, chunked\r\n",
        POST + "Transfer-Encoding: identity\r\n",
        POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
        POST + "X: a\r\n folded: b\r\n",
        POST + "X: a\nContent-Length: 5\r\n",
        POST + "X: a\rContent-Length: 5\r\n",
        POST + "X: a\0b\r\n",
        POST + "Content-Length : 5\r\n",
        POST + "no colon\r\n",
        POST + "Upgrade: tcp\r\nUpgrade: h2c\r\n",
        "POST /x HTTP/2.0\r\nHost: d\r\n",
        "POST  /x HTTP/1.1\r\nHost: d\r\n",
        "POST /x\r\nHost: d\r\n",
        "BREW /x HTTP/1.1\r\nHost: d\r\n",
        "PRI * HTTP/2.0\r\n",
        "\r\n" + POST,
        "GET / HTTP/1.1\r\n",
    ],
)
def test_a_head_that_could_be_framed_in_two_ways_is_refused(text: str) -> None:
    refused = head_of(text)
    assert isinstance(refused, Refused)
    assert refused.status == 400


@pytest.mark.parametrize(
    ("text", "length", "upgrade"),
    [
        ("GET /_ping HTTP/1.1\r\nHost: d\r\n", 0, ""),
        ("GET /_ping HTTP/1.0\r\n", 0, ""),
        (POST + "Content-Length: 12\r\nExpect: 100-continue\r\n", 12, ""),
        (POST + "Transfer-Encoding: chunked\r\n", None, ""),
        ("POST /exec/1/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n", 0, "tcp"),
        ("GET /x HTTP/1.1\r\nHost: d\r\nUpgrade: h2c\r\n", 0, ""),
    ],
)
def test_heads_of_real_clients_are_read(text: str, length: int | None, upgrade: str) -> None:
    head = head_of(text)
    assert isinstance(head, Head)
    assert (head.length, head.upgrade) == (length, upgrade)


@pytest.mark.parametrize(
    "target",
    [
        "//containers/json",
        "/containers//json",
        "/containers/json/",
        "/v1.45//containers/json",
        "/v1.45/../containers/json",
        "/containers/./json",
        "/containers/../images/json",
        "/containers/%2e%2e/json",
        "/containers/%2E/json",
        "/%2e%2e/containers/json",
        "/containers/a%2fb/json",
        "/containers/a%2Fjson",
        "/containers/a%00b/json",
        "/containers/a%5cb/json",
        "/containers/a%25b/json",
        "/containers/a%0ab/json",
        "/containers/a%20b/json",
        "/containers/a%ffb/json",
        "/containers/a%3fb/json",
        "/containers/a%/json",
        "/containers/a%2/json",
        "/containers/a%zz/json",
        "/containers\\json",
        "/containers/json#x",
        "http://docker/containers/json",
        "*",
        "",
        "/",
        "/v1.45",
        "/v1.45/",
        "/v1.99/containers/json",
        "/v1.23/containers/json",
        "/v2.0/containers/json",
        "/containers/json?a=%zz",
        "/containers/json?a=%ff",
        "/containers/json?a=%00",
        "/containers/json?a=1;b=2",
        "/containers/" + "a" * 20_000 + "/json",
        "/containers/caf\u00e9/json",
        "/containers/a\tb/json",
    ],
)
def test_targets_that_could_be_read_in_two_ways_are_refused(target: str) -> None:
    refused = parse_target(target)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.reason) == (400, Reason.MALFORMED)


@pytest.mark.parametrize(
    ("target", "segments", "sent"),
    [
        ("/_ping", ("_ping",), "/v1.45/_ping"),
        ("/v1.24/containers/json", ("containers", "json"), "/v1.45/containers/json"),
        ("/v1.45/containers/a%5Fb/json", ("containers", "a_b", "json"), "/v1.45/containers/a_b/json"),
        ("/images/a/b:1/json?x=%7B+%7D", ("images", "a", "b:1", "json"), "/v1.45/images/a/b:1/json?x=%7B+%7D"),
        ("/images/a%40sha256:0/json", ("images", "a@sha256:0", "json"), "/v1.45/images/a@sha256:0/json"),
    ],
)
def test_targets_are_rebuilt_at_the_engines_newest_version(target: str, segments: tuple[str, ...], sent: str) -> None:
    found = parse_target(target)
    assert isinstance(found, Target)
    assert found.segments == segments
    assert engine_target(found.segments, found.query) == sent


def request(method: str, path: str, upgrade: str = "", is_admin: bool = False) -> Passed | Refused:
    target = parse_target(path)
    assert isinstance(target, Target)
    return decide(Head(method, path, "1.1", 0, upgrade, False, ()), target, is_admin)


def test_every_documented_route_has_one_row() -> None:
    rows = [(route.method, route.path) for route in (*ROUTES, *BY_HAND)]
    assert len(rows) == len(set(rows))
    assert all(route.why for route in (*ROUTES, *BY_HAND))
    with (Path(__file__).parent / "routes.tsv").open() as lines:
        documented = {(row["method"], row["path"]) for row in csv.DictReader(lines, delimiter="\t")}
    assert {(route.method, route.path) for route in ROUTES} == documented


@pytest.mark.parametrize("route", [*ROUTES, *BY_HAND], ids=lambda route: f"{route.method} {route.path}")
def test_a_row_is_found_by_its_own_path_and_decided_by_its_class(route: Route) -> None:
    path = re.sub(r"\{(id|name)\}", "abc", route.path)
    target = parse_target("/v1.40" + path)
    assert isinstance(target, Target)
    found = match(route.method, target)
    assert found is not None
    assert found.route is route
    verdict = request(route.method, path)
    if route.kind in (Kind.ADMIN, Kind.REFUSE):
        assert isinstance(verdict, Refused)
        if route.method == "GET" and path.endswith(("/abc", "/abc/json")):  # 'docker inspect' goes on to the next kind
            assert (verdict.status, verdict.reason) == (404, Reason.NOT_FOUND)
        else:
            assert (verdict.status, verdict.reason) == (403, Reason.ROUTE)
            assert route.why in verdict.message
    else:
        assert isinstance(verdict, Passed)
    assert isinstance(request(route.method, path, is_admin=True), Passed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/a/secrets"),
        ("GET", "/containers/a/b/json"),
        ("GET", "/containers/json/json/json"),
        ("DELETE", "/containers"),
        ("GET", "/Containers/json"),
        ("POST", "/containers/json"),
        ("PUT", "/containers/create"),
        ("GET", "/v9/containers/json"),
        ("POST", "/images/a"),
        ("POST", "/something/new"),
        ("GET", "/metrics"),
    ],
)
def test_routes_that_are_not_in_the_table_are_refused_by_name(method: str, path: str) -> None:
    refused = request(method, path)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.UNKNOWN_ROUTE
    assert path in refused.message


@pytest.mark.parametrize(
    ("method", "path", "upgrade", "reason"),
    [
        ("GET", "/containers/json", "tcp", Reason.MALFORMED),
        ("POST", "/containers/a/start", "tcp", Reason.MALFORMED),
        ("POST", "/containers/a/attach", "h2c", Reason.MALFORMED),
        ("POST", "/containers/a/attach", "websocket", Reason.MALFORMED),
        ("GET", "/containers/json?all=1&all=0", "", Reason.MALFORMED),
        ("POST", "/containers/create?name=a&name=b", "", Reason.MALFORMED),
        ("DELETE", "/containers/a?link=1", "", Reason.UNKNOWN_FIELD),
        ("POST", "/containers/a/start?checkpoint=x", "", Reason.UNKNOWN_FIELD),
        ("POST", "/containers/a/start?checkpoint-dir=/x", "", Reason.UNKNOWN_FIELD),
    ],
)
def test_upgrades_and_parameters_are_judged(method: str, path: str, upgrade: str, reason: Reason) -> None:
    refused = request(method, path, upgrade)
    assert isinstance(refused, Refused)
    assert refused.reason is reason


def test_parameters_that_say_nothing_are_dropped() -> None:
    passed = request("DELETE", "/containers/a?link=False&force=1&v=True")
    assert isinstance(passed, Passed)
    assert passed.query == {"force": "1", "v": "True"}


def test_an_image_name_may_have_slashes() -> None:
    target = parse_target("/images/ds01-1001/a/torch:1/json")
    assert isinstance(target, Target)
    found = match("GET", target)
    assert found is not None
    assert found.parameters == {"name": "ds01-1001/a/torch:1"}
    assert filled(found) == ("images", "ds01-1001", "a", "torch:1", "json")
