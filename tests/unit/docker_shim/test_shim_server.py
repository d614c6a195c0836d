"""The whole shim between real sockets: what reaches the engine, and what a client gets, when somebody misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import replace

import pytest
from shim_engine import Container
from shim_world import ADA, ALICE, BOB, LIMITS, Reply, World, denial, eventually, in_world, parse

UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
GPU = {"Image": "busybox", "HostConfig": {"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}]}}
PLAIN = {"Image": "busybox"}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def last_create(world: World) -> dict[str, object]:
    created = world.engine.requests("/containers/create")[-1].json()
    assert isinstance(created, dict)
    return created


# --- what is open ------------------------------------------------------------------------------------------------


@in_world
async def test_ping_announces_the_classic_builder(world: World) -> None:
    for method in ("GET", "HEAD"):
        reply = await world.ask(method, "/_ping")
        assert (reply.status, reply.headers["builder-version"], reply.headers["api-version"]) == (200, "1", "1.45")
        assert (reply.body != b"") == (method == "GET")


@in_world
async def test_open_routes_go_to_the_newest_version(world: World) -> None:
    for path in ("/version", "/v1.24/info", "/v1.40/images/busybox/json"):
        assert (await world.ask("GET", path)).status == 200
    assert {item.target.split("/")[1] for item in world.engine.received} == {"v1.45"}


@in_world
async def test_http_1_0_is_answered_without_chunks(world: World) -> None:
    mine = world.own(ALICE, "mine")
    reply = await world.ask_raw(f"GET /containers/{mine.id}/logs?stdout=1 HTTP/1.0\r\n\r\n".encode())
    assert "transfer-encoding" not in reply.headers
    assert reply.body == b"one\ntwo\n"


# --- create ------------------------------------------------------------------------------------------------------


@in_world
async def test_a_create_without_gpu_needs_no_allocator(world: World) -> None:
    world.services.down = {"Lease", "Release", "Record"}
    reply = await world.ask("POST", "/v1.45/containers/create?name=train", PLAIN)
    assert reply.status == 201
    host = last_create(world)["HostConfig"]
    assert isinstance(host, dict)
    assert host["CgroupParent"] == "ds01-student-u1001.slice"
    assert world.services.named("EnsureSlice") == [{"uid": 1001}]
    assert world.engine.requests("create")[-1].query == {"name": "train"}


@in_world
async def test_a_gpu_create_leases_first_and_carries_the_lease(world: World) -> None:
    reply = await world.ask("POST", "/containers/create?name=train", GPU, {"X-DS01-Request": "req-12345678"})
    assert reply.status == 201
    leased = {"request_id": "req-12345678", "uid": 1001, "container_name": "train", "gpus": "1", "wait_s": 0.0}
    assert world.services.named("Lease") == [leased]
    body = last_create(world)
    labels = body["Labels"]
    assert isinstance(labels, dict)
    assert (labels["ds01.lease"], labels["ds01.request"]) == ("l-req-1234", "req-12345678")
    assert world.services.named("Release") == []


@in_world
async def test_warnings_of_ours_join_the_engines(world: World) -> None:
    world.services.warnings = ["'all' is 1 GPU unit(s)"]
    body = {**PLAIN, "Env": ["NVIDIA_VISIBLE_DEVICES=all"], "HostConfig": {"DeviceRequests": [{"Count": -1}]}}
    warnings = (await world.ask("POST", "/containers/create", body)).json()["Warnings"]
    assert warnings[0] == "from the engine"
    assert ["NVIDIA_VISIBLE" in warnings[1], warnings[2:] == world.services.warnings] == [True, True]


@in_world
async def test_the_same_request_again_is_the_same_container(world: World) -> None:
    headers = {"X-DS01-Request": "req-12345678"}
    first = await world.ask("POST", "/containers/create?name=train", GPU, headers)
    again = await world.ask("POST", "/containers/create?name=train", GPU, headers)
    other = await world.ask("POST", "/containers/create?name=other", GPU, headers)
    assert first.json()["Id"] == again.json()["Id"]
    assert (other.status, other.reason) == (409, "request-reused")
    assert len(world.services.named("Lease")) == 1


DENIALS = [
    ("over-gpu-equivalents", 403),
    ("over-group-total", 403),
    ("full-gpu-not-allowed", 403),
    ("none-free", 409),
    ("waited-in-vain", 409),
    ("not-a-request", 400),
    ("no-such-unit", 400),
]


OTHERS_END = ("none-free", "over-group-total")


@in_world
async def test_a_denial_is_the_allocators_and_creates_nothing(world: World) -> None:
    for reason, status in DENIALS:
        world.services.denial = denial(reason, "you hold 2 of 2", "retire one")
        reply = await world.ask("POST", "/containers/create", GPU)
        assert (reply.status, reply.reason) == (status, reason)
        advice = "'ds01 status' shows who holds what; try again later" if reason in OTHERS_END else "retire one"
        assert reply.message.startswith(f"you hold 2 of 2; {advice}")
        assert ("docker run --label ds01.wait=1h" in reply.message) == (reason in OTHERS_END)
        assert reply.json()["ds01"]["used"] == "2"
    assert world.engine.requests("create") == []
    assert world.events == []


@in_world
async def test_gpu_creates_wait_briefly_for_the_allocator_then_refuse(world: World) -> None:
    world.services.down = {"Lease"}
    reply = await world.ask("POST", "/containers/create", GPU)
    assert (reply.status, reply.reason) == (503, "allocator-down")
    assert len(world.services.named("Lease")) > 1
    assert world.engine.requests("create") == []


@in_world
async def test_nothing_is_created_without_a_slice(world: World) -> None:
    world.services.down = {"EnsureSlice"}
    reply = await world.ask("POST", "/containers/create", GPU)
    assert (reply.status, reply.reason) == (503, "limits-sync-down")
    assert world.services.named("Lease") == []


@in_world
async def test_a_create_that_fails_gives_the_lease_back(world: World) -> None:
    world.engine.create_status = 500
    reply = await world.ask("POST", "/containers/create", GPU)
    assert (reply.status, reply.message) == (500, "failed: 500")
    assert len(world.services.named("Release")) == 1


@in_world
async def test_an_engine_that_dies_during_create_gives_the_lease_back(world: World) -> None:
    world.engine.close_on = {"/containers/create"}
    reply = await world.ask("POST", "/containers/create", GPU)
    assert (reply.status, reply.reason) == (503, "engine-down")
    assert len(world.services.named("Release")) == 1


@in_world
async def test_a_missing_image_is_the_engines_404_and_leases_nothing(world: World) -> None:
    reply = await world.ask("POST", "/containers/create", {**GPU, "Image": "nothing:here"})
    assert (reply.status, reply.message) == (404, "No such image: x")
    assert world.services.named("Lease") == []


@in_world
async def test_a_name_that_is_taken_leaks_neither_id_nor_owner(world: World) -> None:
    bobs = world.own(BOB, "train")
    reply = await world.ask("POST", "/containers/create?name=train", GPU)
    assert (reply.status, reply.reason) == (409, "name-taken")
    assert bobs.id[:12] not in reply.body.decode()
    assert "bob" not in reply.body.decode()
    assert len(world.services.named("Release")) == 1


@in_world
async def test_a_name_of_ones_own_that_is_taken_says_so_and_leases_nothing(world: World) -> None:
    world.own(ALICE, "train")
    reply = await world.ask("POST", "/containers/create?name=train", GPU)
    assert (reply.status, reply.reason) == (409, "name-taken")
    assert "docker start train" in reply.message
    assert world.services.named("Lease") == []


@in_world
async def test_containers_in_all_states_are_counted(world: World) -> None:
    for number in range(3):
        world.own(ALICE, f"c{number}")
    world.own(BOB, "other")
    reply = await world.ask("POST", "/containers/create", PLAIN)
    assert (reply.status, reply.reason) == (403, "over-containers")
    assert (reply.json()["ds01"]["limit"], reply.json()["ds01"]["used"]) == ("3", "3")
    world.peer = BOB
    assert (await world.ask("POST", "/containers/create", PLAIN)).status == 201


@in_world
async def test_the_last_place_is_given_once(world: World) -> None:
    for number in range(2):
        world.own(ALICE, f"c{number}")
    replies = await asyncio.gather(*(world.ask("POST", "/containers/create", PLAIN) for _ in range(4)))
    assert sorted(reply.status for reply in replies) == [201, 403, 403, 403]


@in_world
async def test_the_health_check_of_an_image_is_slowed(world: World) -> None:
    world.engine.images["ill"] = {"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000}}
    reply = await world.ask("POST", "/containers/create", {"Image": "ill"})
    assert last_create(world)["Healthcheck"] == {"Interval": 5_000_000_000}
    assert any("health check" in warning for warning in reply.json()["Warnings"])


@in_world
async def test_an_engine_without_controllers_gets_properties(world: World) -> None:
    world.engine.info = {}
    assert (await world.ask("POST", "/containers/create", PLAIN)).status == 201
    host = last_create(world)["HostConfig"]
    assert isinstance(host, dict)
    assert "NanoCpus" not in host
    assert host["Annotations"]["org.systemd.property.TasksMax"] == f"uint64 {LIMITS.pids}"


@in_world
async def test_a_small_engine_gets_the_cpus_that_it_has(world: World) -> None:
    world.engine.info = {**world.engine.info, "NCPU": 2}
    assert (await world.ask("POST", "/containers/create", PLAIN)).status == 201
    body = last_create(world)
    host, labels = body["HostConfig"], body["Labels"]
    assert isinstance(host, dict)
    assert isinstance(labels, dict)
    assert (host["NanoCpus"], labels["ds01.sizes"]) == (2_000_000_000, "policy")
    reply = await world.ask("POST", "/containers/create", {**PLAIN, "HostConfig": {"NanoCpus": 8_000_000_000}})
    assert (reply.status, reply.reason) == (403, "over-limit")
    assert "this machine has 2 CPUs" in reply.message
    assert len(world.engine.requests("/containers/create")) == 1


@in_world
async def test_a_runtime_without_a_limit_is_created_without_a_backstop(world: World) -> None:
    world.limits = replace(LIMITS, max_runtime_s=None)
    assert (await world.ask("POST", "/containers/create", PLAIN)).status == 201
    host = last_create(world)["HostConfig"]
    assert isinstance(host, dict)
    assert host["Annotations"] == {}


@in_world
async def test_a_user_does_not_update_a_container(world: World) -> None:
    world.own(ALICE, "mine")
    reply = await world.ask("POST", "/containers/mine/update", {"Memory": 1 << 40})
    assert (reply.status, reply.reason) == (403, "route-refused")
    assert world.engine.requests("/update") == []


@in_world
async def test_a_refused_field_reaches_nobody_but_the_audit(world: World) -> None:
    reply = await world.ask("POST", "/containers/create", {**PLAIN, "HostConfig": {"Privileged": True}})
    assert (reply.status, reply.reason) == (403, "field-refused")
    await asyncio.wait_for(world.services.recorded.wait(), 5)
    recorded = world.services.named("Record")[0]
    assert (recorded["event"], recorded["uid"], recorded["reason"]) == ("access.refused", 1001, "field-refused")
    assert [event.name for event in world.events] == ["access.refused"]
    assert world.engine.requests("create") == []


# --- start and remove ----------------------------------------------------------------------------------------------


@in_world
async def test_start_renews_the_lease_first(world: World) -> None:
    mine = world.own(ALICE, "mine", lease="l-1")
    assert (await world.ask("POST", "/containers/mine/start")).status == 204
    assert world.services.named("Renew") == [{"lease": "l-1", "uid": 1001, "wait_s": 0.0}]
    assert world.services.named("EnsureSlice") == [{"uid": 1001}]
    assert world.engine.requests("/start")[0].path == f"/v1.45/containers/{mine.id}/start"


@in_world
async def test_a_start_whose_lease_is_denied_does_not_happen(world: World) -> None:
    mine = world.own(ALICE, "mine", lease="l-1")
    world.services.denial = denial("none-free")
    assert (await world.ask("POST", "/containers/mine/start")).status == 409
    assert not mine.running
    assert world.engine.requests("/start") == []


@in_world
async def test_a_start_without_gpu_needs_no_allocator(world: World) -> None:
    world.own(ALICE, "mine")
    world.services.down = {"Renew"}
    assert (await world.ask("POST", "/containers/mine/start", {})).status == 204


@in_world
async def test_a_start_with_a_body_is_refused(world: World) -> None:
    world.own(ALICE, "mine")
    reply = await world.ask("POST", "/containers/mine/start", {"Binds": ["/:/host"]})
    assert reply.status == 400
    assert world.engine.requests("/start") == []


@in_world
async def test_remove_takes_anonymous_volumes_along_and_ends_the_lease_before_it_answers(world: World) -> None:
    world.own(ALICE, "mine", lease="l-1")
    assert (await world.ask("DELETE", "/containers/mine?force=1")).status == 204
    assert world.engine.received[-1].query == {"force": "1", "v": "1"}
    assert world.services.named("Release") == [{"lease": "l-1", "reason": "container removed"}]


@in_world
async def test_remove_works_while_the_allocator_is_down(world: World) -> None:
    world.own(ALICE, "mine", lease="l-1")
    world.services.down = {"Release"}
    assert (await world.ask("DELETE", "/containers/mine")).status == 204


# --- ownership -----------------------------------------------------------------------------------------------------

FOREIGN = [
    ("GET", "/containers/{}/json"),
    ("GET", "/containers/{}/logs?stdout=1"),
    ("POST", "/containers/{}/attach?stream=1"),
    ("POST", "/containers/{}/exec"),
    ("POST", "/containers/{}/kill"),
    ("POST", "/containers/{}/stop"),
    ("POST", "/containers/{}/start"),
    ("POST", "/containers/{}/wait"),
    ("POST", "/containers/{}/resize?h=1&w=1"),
    ("DELETE", "/containers/{}?force=1"),
    ("GET", "/containers/json?filters=%7B%22before%22%3A%5B%22{}%22%5D%7D"),
]


@pytest.mark.parametrize(("method", "path"), FOREIGN)
def test_somebody_elses_container_looks_like_none(method: str, path: str) -> None:
    @in_world
    async def whole(world: World) -> None:
        theirs = world.own(BOB, "theirs", lease="l-9")
        missing = await world.ask(method, path.format("nothing"))
        for reference in ("theirs", theirs.id, theirs.id[:12]):
            reply = await world.ask(method, path.format(reference))
            assert reply.status == missing.status == 404
            assert reply.message == missing.message.replace("nothing", reference)
            assert "bob" not in reply.body.decode()
        assert theirs.id in world.engine.containers
        assert world.services.named("Release") == world.services.named("Renew") == []
        sent = {item.path.rsplit("/", 1)[-1] for item in world.engine.received}
        assert sent <= {"json", "_ping"}

    whole()


@in_world
async def test_a_foreign_reference_is_an_event_and_a_missing_one_is_none(world: World) -> None:
    world.own(BOB, "theirs")
    await world.ask("POST", "/containers/nothing/kill")
    await world.ask("POST", "/containers/theirs/kill")
    await eventually(lambda: bool(world.events))
    assert [event.reason for event in world.events] == ["not-yours"]


@in_world
async def test_names_and_prefixes_become_the_full_id(world: World) -> None:
    mine = world.own(ALICE, "mine")
    for reference in ("mine", mine.id, mine.id[:12], "m%69ne"):
        assert (await world.ask("POST", f"/v1.41/containers/{reference}/kill?signal=TERM")).status == 204
    targets = {item.target for item in world.engine.requests("/kill")}
    assert targets == {f"/v1.45/containers/{mine.id}/kill?signal=TERM"}


@in_world
async def test_a_name_like_the_beginning_of_ones_id_does_not_hide_it(world: World) -> None:
    mine = world.own(ALICE, "mine", identity="beefbeefbeef" + "0" * 52)
    world.own(BOB, "beefbeefbeef")
    assert (await world.ask("POST", "/containers/beefbeefbeef/kill")).status == 204
    assert world.engine.requests("/kill")[0].path == f"/v1.45/containers/{mine.id}/kill"


@in_world
async def test_containers_without_an_owner_are_nobodys(world: World) -> None:
    world.engine.add("old", {})
    world.engine.add("odd", {"ds01.uid": "", "ds01.user": "alice"})
    assert [(await world.ask("GET", f"/containers/{name}/json")).status for name in ("old", "odd")] == [404, 404]


@in_world
async def test_ps_is_narrowed_in_the_request(world: World) -> None:
    mine = world.own(ALICE, "mine")
    world.own(BOB, "theirs")
    for query in ("", "?all=1", "?filters=%7B%22label%22%3A%5B%22ds01.uid%3D1002%22%5D%7D"):
        reply = await world.ask("GET", f"/containers/json{query}")
        assert [item["Id"] for item in reply.json()] in ([mine.id], [])
    world.peer = ADA
    assert len((await world.ask("GET", "/containers/json")).json()) == 2


@in_world
async def test_an_exec_belongs_to_the_owner_of_its_container(world: World) -> None:
    world.own(ALICE, "mine")
    identity = (await world.ask("POST", "/containers/mine/exec", {"Cmd": ["sh"]})).json()["Id"]
    assert (await world.ask("GET", f"/exec/{identity}/json")).status == 200
    world.peer = BOB
    for method, path in (("GET", "json"), ("POST", "start"), ("POST", "resize?h=1&w=1")):
        assert (await world.ask(method, f"/exec/{identity}/{path}")).status == 404
    assert world.engine.requests(f"/exec/{identity}/start") == []


# --- streams -------------------------------------------------------------------------------------------------------


async def begin(
    world: World, path: str, body: bytes, upgrade: bool, early: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await world.connect()
    fields = "".join(f"{key}: {value}\r\n" for key, value in (UPGRADE if upgrade else {}).items())
    head = f"POST {path} HTTP/1.1\r\nHost: d\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body + early)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("upgrade", [True, False], ids=["101", "200"])
@pytest.mark.parametrize("route", ["attach", "exec"])
def test_no_byte_is_forwarded_before_the_engine_grants_the_stream(upgrade: bool, route: str) -> None:
    @in_world
    async def whole(world: World) -> None:
        mine = world.own(ALICE, "mine")
        path, body = f"/containers/{mine.id}/attach?stream=1&stdin=1", b""
        if route == "exec":
            world.engine.execs["a" * 64] = mine.id
            path, body = f"/exec/{'a' * 64}/start", b'{"Tty":false}'
        world.engine.grant.clear()
        early = b"POST /containers/create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
        reader, writer = await begin(world, path, body, upgrade, early)
        await asyncio.wait_for(world.engine.asked_upgrade.wait(), 5)
        asked = world.engine.received[-1]
        writer.write(b"more")
        await writer.drain()
        assert (await world.ask("GET", "/version")).status == 200  # the shim had its turn
        assert bytes(asked.rest) == b""
        world.engine.grant.set()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 101 UPGRADED" if upgrade else "HTTP/1.1 200 OK")
        assert ("Upgrade: tcp" in head) is upgrade
        assert await reader.readexactly(6) == b"hello "
        assert await reader.readexactly(len(early) + 4) == early + b"more"
        writer.write_eof()
        assert await reader.read() == b"bye"
        assert world.engine.requests("/containers/create") == []
        writer.close()

    whole()


@in_world
async def test_an_upgrade_that_is_not_granted_forwards_nothing(world: World) -> None:
    mine = world.own(ALICE, "mine")
    world.engine.close_on = {"/attach"}
    reader, writer = await begin(world, f"/containers/{mine.id}/attach?stream=1", b"", True, b"secret")
    reply = parse(await reader.read())
    assert (reply.status, reply.reason) == (503, "engine-down")
    assert bytes(world.engine.received[-1].rest) == b""
    writer.close()


@in_world
async def test_large_streams_are_carried_whole_and_half_close_is_kept(world: World) -> None:
    mine = world.own(ALICE, "mine")
    reader, writer = await begin(world, f"/containers/{mine.id}/attach?stream=1", b"", True)
    await reader.readuntil(b"hello ")
    sent = os.urandom(4 << 20)

    async def feed() -> None:
        for start in range(0, len(sent), 1 << 16):
            writer.write(sent[start : start + (1 << 16)])
            await writer.drain()
        writer.write_eof()

    feeding = asyncio.create_task(feed())
    assert await reader.read(-1) == sent + b"bye"
    await feeding
    writer.close()


@in_world
async def test_a_client_that_vanishes_from_a_stream_is_noticed(world: World) -> None:
    mine = world.own(ALICE, "mine")
    before = descriptors()
    reader, writer = await begin(world, f"/containers/{mine.id}/attach?stream=1", b"", True)
    await reader.readuntil(b"hello ")
    writer.write(b"last words")
    await writer.drain()
    writer.close()
    await asyncio.wait_for(world.engine.gone.wait(), 5)
    assert bytes(world.engine.received[-1].rest) == b"last words"
    await eventually(lambda: descriptors() <= before)


@in_world
async def test_a_client_that_vanishes_from_endless_logs_closes_the_engines_side(world: World) -> None:
    world.own(ALICE, "mine")
    world.engine.endless_logs = True
    before = descriptors()
    reader, writer = await world.connect()
    writer.write(b"GET /containers/mine/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    await reader.readuntil(b"two\n")
    writer.close()
    await asyncio.wait_for(world.engine.gone.wait(), 5)
    await eventually(lambda: descriptors() <= before)


@in_world
async def test_a_client_that_half_closes_still_gets_its_answer(world: World) -> None:
    world.own(ALICE, "mine")
    reader, writer = await world.connect()
    writer.write(b"GET /containers/mine/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    writer.write_eof()
    assert b"two\n" in await reader.read()
    writer.close()


@in_world
async def test_a_client_that_waits_in_vain_is_let_go_with_its_engine_connection(world: World) -> None:
    world.own(ALICE, "mine")
    world.engine.hang_on = {"/wait"}
    before = descriptors()
    _, writer = await world.connect()
    writer.write(b"POST /containers/mine/wait HTTP/1.1\r\nHost: d\r\n\r\n")
    await eventually(lambda: bool(world.engine.requests("/wait")))
    writer.close()
    await asyncio.wait_for(world.engine.gone.wait(), 5)
    await eventually(lambda: descriptors() <= before)


# --- bad input -----------------------------------------------------------------------------------------------------

CREATE = "POST /containers/create HTTP/1.1\r\nHost: d\r\n"
SMUGGLED = "GET /containers/json HTTP/1.1\r\nHost: d\r\n\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + SMUGGLED,
        CREATE + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: d\r\n\r\n" + SMUGGLED,
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        + SMUGGLED,
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        "GET /containers/json HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET //containers/json HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET /containers/%2e%2e/json HTTP/1.1\r\nHost: d\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: d\r\nX: " + "a" * 70_000 + "\r\n\r\n",
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 33554432\r\n\r\n" + "[" * 1000,
        "\x16\x03\x01\r\n\r\n",
    ],
)
def test_a_request_that_is_not_one_is_refused_and_reaches_nobody(raw: str) -> None:
    @in_world
    async def whole(world: World) -> None:
        reply = await world.ask_raw(raw.encode("latin-1"))
        assert 400 <= reply.status < 500
        assert [item for item in world.engine.received if not item.path.endswith("_ping")] == []

    whole()


@in_world
async def test_a_client_that_says_half_a_head_and_dies_leaves_nothing(world: World) -> None:
    before = descriptors()
    for text in (b"", b"GET /ver", b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 50\r\n\r\n{"):
        _, writer = await world.connect()
        writer.write(text)
        await writer.drain()
        writer.close()
    await eventually(lambda: descriptors() <= before)
    assert (await world.ask("GET", "/version")).status == 200


@in_world
async def test_continue_is_said_before_the_body(world: World) -> None:
    reader, writer = await world.connect()
    body = json.dumps(PLAIN).encode()
    writer.write(f"{CREATE}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert parse(await reader.read()).status == 201
    writer.close()


@in_world
async def test_a_refusal_is_read_by_a_client_that_is_still_sending(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(b"POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def feed() -> None:
        for _ in range(64):
            writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            await writer.drain()

    await feed()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 403")
    writer.close()


@in_world
async def test_a_caller_that_cannot_be_told_is_refused(world: World) -> None:
    world.refuse_peer = "the caller is in a container"
    reply = await world.ask("GET", "/_ping")
    assert (reply.status, reply.reason) == (403, "peer-refused")
    assert world.engine.received == []
    await eventually(lambda: bool(world.events))


@in_world
async def test_connections_of_one_user_are_limited_and_others_are_served(world: World) -> None:
    world.own(ALICE, "mine")
    world.engine.endless_logs = True
    held = [await world.connect() for _ in range(LIMITS.max_connections)]
    for reader, writer in held:
        writer.write(b"GET /containers/mine/logs?follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
        await reader.readuntil(b"two\n")
    reply = await world.ask("GET", "/version")
    assert (reply.status, reply.reason) == (403, "over-connections")
    assert (reply.json()["ds01"]["limit"], reply.json()["ds01"]["used"]) == ("4", "4")
    world.peer = BOB
    assert (await world.ask("GET", "/version")).status == 200
    world.peer = ALICE
    for _, writer in held:
        writer.close()

    async def served() -> Reply:
        return await world.ask("GET", "/version")

    async with asyncio.timeout(5):
        while (await served()).status != 200:
            pass


STREAMS = [
    ("/logs", "GET /containers/{}/logs?follow=1&stdout=1", b""),
    ("/logs", "GET /containers/{}/logs?stdout=1", b""),
    ("/wait", "POST /containers/{}/wait", b""),
    ("/attach", "POST /containers/{}/attach?stream=1", b""),
    ("/start", "POST /exec/{}/start", b'{"Tty":false}'),
]


@pytest.mark.parametrize(("ending", "line", "body"), STREAMS)
def test_streams_of_one_user_are_limited_and_what_ends_goes_on(ending: str, line: str, body: bytes) -> None:
    @in_world
    async def whole(world: World) -> None:
        world.limits = replace(LIMITS, max_connections=8, max_streams=2)
        mine = world.own(ALICE, "mine")
        world.engine.execs[mine.id] = mine.id
        world.engine.hang_on = {ending}
        raw = f"{line.format(mine.id)} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        held = [await world.connect() for _ in range(2)]
        for _, writer in held:
            writer.write(raw)
        await eventually(lambda: len(world.engine.requests(ending)) == 2)
        reply = await world.ask_raw(raw)
        assert (reply.status, reply.reason) == (429, "over-streams")
        assert "2 open streams" in reply.message
        assert "your limit is 2; close one" in reply.message
        assert (reply.json()["ds01"]["limit"], reply.json()["ds01"]["used"]) == ("2", "2")
        assert len(world.engine.requests(ending)) == 2
        assert (await world.ask("GET", "/containers/mine/json")).status == 200
        assert (await world.ask("POST", "/containers/mine/kill")).status == 204
        await eventually(lambda: [event.reason for event in world.events] == ["over-streams"])
        held[0][1].close()
        await asyncio.wait_for(world.engine.gone.wait(), 5)
        async with asyncio.timeout(5):
            while len(world.engine.requests(ending)) == 2:
                reader, writer = await world.connect()
                writer.write(raw)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(), 0.2)
                writer.close()
        held[1][1].close()

    whole()


@in_world
async def test_streams_are_counted_for_each_user_and_not_for_administrators(world: World) -> None:
    world.limits = replace(LIMITS, max_streams=1)
    world.engine.hang_on = {"/wait"}
    held = []
    for count, peer in enumerate((ALICE, BOB, ADA, ADA), start=1):
        world.peer = peer
        name = world.own(peer, f"c{count}").id
        held.append((await world.connect())[1])
        held[-1].write(f"POST /containers/{name}/wait HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        await eventually(lambda: len(world.engine.requests("/wait")) == len(held))
    for writer in held:
        writer.close()


@in_world
async def test_a_stream_that_ended_is_not_counted(world: World) -> None:
    world.limits = replace(LIMITS, max_streams=1)
    world.own(ALICE, "mine")
    for _ in range(3):
        assert (await world.ask("GET", "/containers/mine/logs?stdout=1")).status == 200
        await asyncio.sleep(0)


@in_world
async def test_a_flood_of_refusals_is_one_event_and_a_number(world: World) -> None:
    for _ in range(20):
        await world.ask("GET", "/swarm")
    await eventually(lambda: sum(event.count or 0 for event in world.events) >= 20)
    assert len(world.events) <= 4


# --- the engine ----------------------------------------------------------------------------------------------------


@in_world
async def test_an_engine_that_is_down_is_a_sentence(world: World) -> None:
    await world.engine.stop()
    for method, path in (("GET", "/_ping"), ("GET", "/version"), ("GET", "/containers/json")):
        reply = await world.ask(method, path)
        assert (reply.status, reply.reason) == (503, "engine-down")
        assert "the Docker engine does not answer" in reply.message
    assert (await world.ask("POST", "/containers/create", GPU)).status == 503
    assert world.services.calls == []


@in_world
async def test_an_engine_that_hangs_is_known_within_two_seconds(world: World) -> None:
    world.engine.hang_on = {"/_ping", "/version"}
    started = asyncio.get_running_loop().time()
    for method, path in (("HEAD", "/_ping"), ("GET", "/_ping"), ("GET", "/version")):
        assert (await world.ask(method, path)).status == 503
    assert len(world.engine.received) == 1
    assert asyncio.get_running_loop().time() - started < 2


@in_world
async def test_an_engine_that_comes_back_is_found(world: World) -> None:
    await world.engine.stop()
    os.unlink(world.engine.path)
    assert (await world.ask("GET", "/version")).status == 503
    await world.engine.start()
    assert (await world.ask("GET", "/version")).status == 200


# --- administrators ------------------------------------------------------------------------------------------------


@in_world
async def test_an_administrators_request_is_streamed_as_it_is(world: World) -> None:
    world.peer = ADA
    reply = await world.ask("POST", "/v1.40/something/new?a=b&a=c", b"payload", {"X-Registry-Auth": "abc"})
    assert reply.status == 404
    sent = world.engine.received[-1]
    assert (sent.target, sent.body) == ("/v1.45/something/new?a=b&a=c", b"payload")
    assert sent.headers["x-registry-auth"] == "abc"


@in_world
async def test_an_administrators_chunked_body_is_streamed(world: World) -> None:
    world.peer = ADA
    await world.ask_raw(
        b"POST /images/load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    sent = world.engine.received[-1]
    assert (sent.body, sent.headers["transfer-encoding"]) == (b"abcde", "chunked")


@in_world
async def test_an_administrators_create_is_rewritten_but_not_refused(world: World) -> None:
    world.peer = ADA
    asked = {**GPU, "HostConfig": {**GPU["HostConfig"], "binds": ["/data:/data"], "Privileged": True}}  # type: ignore[dict-item]
    assert (await world.ask("POST", "/containers/create?name=tool", asked)).status == 201
    body = last_create(world)
    host, labels = body["HostConfig"], body["Labels"]
    assert isinstance(host, dict)
    assert isinstance(labels, dict)
    assert (host["Binds"], host["Privileged"]) == (["/data:/data"], True)
    assert host["CgroupParent"] == "ds01-student-u1010.slice"
    assert host["DeviceRequests"][0]["Driver"] == "cdi"
    assert labels["ds01.uid"] == "1010"


@in_world
async def test_an_administrator_opts_out_by_label_and_the_container_says_so(world: World) -> None:
    world.peer = ADA
    device = [{"Driver": "cdi", "DeviceIDs": ["vendor.com/fpga=0"]}]
    asked = {"Image": "busybox", "HostConfig": {"DeviceRequests": device}}
    refused = await world.ask("POST", "/containers/create", asked)
    assert (refused.status, "ds01.unmanaged=1" in refused.message) == (403, True)
    assert (await world.ask("POST", "/containers/create", {**asked, "Labels": {"ds01.unmanaged": "1"}})).status == 201
    body = last_create(world)
    host, labels = body["HostConfig"], body["Labels"]
    assert isinstance(host, dict)
    assert isinstance(labels, dict)
    assert host["DeviceRequests"] == device
    assert (labels["ds01.unmanaged"], labels["ds01.managed"]) == ("1", "")
    assert world.services.named("Lease") == []


@in_world
async def test_an_administrator_restarts_for_the_owner(world: World) -> None:
    mine: Container = world.own(ALICE, "mine", lease="l-1")
    world.peer = ADA
    assert (await world.ask("POST", "/containers/mine/restart?t=1")).status == 204
    assert world.services.named("Renew") == [{"lease": "l-1", "uid": 1001, "wait_s": 0.0}]
    assert world.engine.received[-1].target == f"/v1.45/containers/{mine.id}/restart?t=1"


# --- what was found by attacking -------------------------------------------------------------------------------------


@in_world
async def test_two_containers_with_one_lease_do_not_start(world: World) -> None:
    world.own(ALICE, "one", lease="l-1")
    world.own(ALICE, "two", lease="l-1")
    reply = await world.ask("POST", "/containers/one/start")
    assert (reply.status, reply.reason) == (409, "lease-shared")
    assert world.services.named("Renew") == []


@in_world
async def test_an_engine_that_breaks_off_in_the_middle_is_no_second_answer(world: World) -> None:
    world.own(ALICE, "mine")
    world.engine.truncate_logs = True
    reader, writer = await world.connect()
    writer.write(b"GET /containers/mine/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := await reader.read(65536):
            received += data
    assert received.count(b"HTTP/1.1 ") == 1
    assert not received.endswith(b"0\r\n\r\n")
    writer.close()


@in_world
async def test_a_flood_of_repeated_keys_costs_nothing(world: World) -> None:
    keys = ",".join(f'"{number}":0' for number in range(60_000))
    started = asyncio.get_running_loop().time()
    reply = await world.ask("POST", "/containers/create", f'{{{keys},"59999":0}}'.encode())
    assert (reply.status, "twice" in reply.message) == (400, True)
    assert asyncio.get_running_loop().time() - started < 2


@in_world
async def test_control_characters_do_not_reach_an_administrators_terminal(world: World) -> None:
    await world.ask("POST", "/containers/create", {**PLAIN, "\x1b[2Jgone\n": 1})
    await asyncio.wait_for(world.services.recorded.wait(), 5)
    assert all(text.isprintable() for text in (world.events[0].message, world.services.named("Record")[0]["message"]))


@in_world
async def test_hundreds_of_streams_that_end_at_once_leave_nothing(world: World) -> None:
    mine = world.own(ADA, "mine")
    world.peer = ADA
    before = descriptors()
    held = [await begin(world, f"/containers/{mine.id}/attach?stream=1", b"", True) for _ in range(100)]
    for reader, _ in held:
        await reader.readuntil(b"hello ")
    for _, writer in held:
        writer.transport.abort()
    await eventually(lambda: descriptors() <= before)
    assert (await world.ask("GET", "/version")).status == 200
