"""Creates and starts that wait for their turn, between real sockets: what goes on meanwhile, and every way to end."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import Any

import pytest
from shim_world import ADA, ALICE, BOB, LIMITS, Reply, World, denial, eventually, in_world, parse, running

REQUEST = "req-12345678"
PLAIN = {"Image": "busybox"}
GPU: dict[str, Any] = {"Image": "busybox", "HostConfig": {"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}]}}
WAITS: dict[str, Any] = {**GPU, "Labels": {"ds01.wait": "1h", "mine": "x"}}
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def waiting(
    world: World, name: str = "train", request: str = REQUEST, body: dict[str, Any] | None = None
) -> Client:
    """A client whose create waits in the queue."""
    world.services.turn.clear()
    client = await send(world, f"/containers/create?name={name}", json.dumps(body or WAITS).encode(), request)
    await eventually(lambda: request in world.services.waiting)
    return client


async def send(world: World, target: str, payload: bytes = b"", request: str = REQUEST) -> Client:
    reader, writer = await world.connect()
    fields = f"Host: d\r\nX-DS01-Request: {request}\r\nContent-Length: {len(payload)}\r\n"
    writer.write(f"POST {target} HTTP/1.1\r\n{fields}\r\n".encode() + payload)
    await writer.drain()
    return reader, writer


async def answered(client: Client) -> Reply:
    reply = parse(await asyncio.wait_for(client[0].read(), 10))
    client[1].close()
    return reply


async def told_behind_a_slow_create(world: World) -> tuple[Client, Client]:
    """A client whose turn has come, while another create of the same user keeps the engine busy; and that one."""
    client = await waiting(world)
    world.engine.hang_on = {"/containers/create"}
    slow = await send(world, "/containers/create?name=slow", json.dumps(PLAIN).encode(), "req-slowslow")
    await eventually(lambda: bool(world.engine.requests("/containers/create")))
    world.services.turn.set()
    await eventually(lambda: world.services.waiting == [])
    await asyncio.sleep(0.1)
    return client, slow


def last_labels(world: World) -> dict[str, str]:
    labels: dict[str, str] = world.engine.requests("/containers/create")[-1].json()["Labels"]
    return labels


# --- the turn ------------------------------------------------------------------------------------------------------


@in_world
async def test_a_create_waits_for_its_turn_and_keeps_its_labels(world: World) -> None:
    client = await waiting(world)
    first = world.services.named("Lease")[0]
    assert (first["request_id"], first["gpus"], first["container_name"]) == (REQUEST, "1", "train")
    assert 3599 < first["wait_s"] <= 3600
    assert world.engine.requests("/containers/create") == []
    world.services.turn.set()
    assert (await answered(client)).status == 201
    labels = last_labels(world)
    assert (labels["ds01.wait"], labels["ds01.gpus"], labels["mine"]) == ("1h", "1", "x")
    assert [call["wait_s"] for call in world.services.named("Lease")[1:]] == [0.0]
    assert world.services.named("Release") == []


@in_world
async def test_without_the_label_nobody_waits(world: World) -> None:
    world.services.turn.clear()
    reply = await world.ask("POST", "/containers/create", GPU)
    assert (reply.status, reply.reason) == (409, "none-free")


@in_world
async def test_a_wait_without_gpus_does_not_wait(world: World) -> None:
    world.services.turn.clear()
    reply = await world.ask("POST", "/containers/create", {**PLAIN, "Labels": {"ds01.wait": ""}})
    assert reply.status == 201
    assert last_labels(world)["ds01.wait"] == ""


@in_world
async def test_who_waited_in_vain_is_told(world: World) -> None:
    world.services.denial = denial("waited-in-vain", "1 h have passed")
    reply = await world.ask("POST", "/containers/create", WAITS)
    assert (reply.status, reply.reason) == (409, "waited-in-vain")
    assert "ds01.wait" not in reply.message


@in_world
async def test_warnings_of_the_grant_are_told_once(world: World) -> None:
    world.services.warnings = ["'all' is 1 GPU unit(s)"]
    reply = await world.ask("POST", "/containers/create", WAITS)
    assert reply.json()["Warnings"] == ["from the engine", "'all' is 1 GPU unit(s)"]


@in_world
async def test_an_administrators_create_waits_too(world: World) -> None:
    world.peer = ADA
    client = await waiting(world)
    world.services.turn.set()
    assert (await answered(client)).status == 201
    assert last_labels(world)["ds01.wait"] == "1h"


# --- meanwhile -----------------------------------------------------------------------------------------------------


@in_world
async def test_other_creates_of_the_same_user_go_on(world: World) -> None:
    client = await waiting(world)
    assert (await world.ask("POST", "/containers/create?name=other", PLAIN)).status == 201
    second = await waiting(world, "second", "req-abcdefgh")
    assert len(world.services.waiting) == 2
    world.services.turn.set()
    assert {(await answered(one)).status for one in (client, second)} == {201}


REFUSED_EARLY: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "mine"}, 409, "name-taken"),
    ({"name": "theirs"}, 409, "name-taken"),
    ({"containers": 3}, 403, "over-containers"),
    ({"Image": "nothing:here"}, 404, ""),
]


@pytest.mark.parametrize(("case", "status", "reason"), REFUSED_EARLY)
def test_what_can_be_refused_is_refused_before_the_wait(case: dict[str, Any], status: int, reason: str) -> None:
    @in_world
    async def whole(world: World) -> None:
        world.services.turn.clear()
        world.own(ALICE, "mine")
        world.own(BOB, "theirs")
        for number in range(case.get("containers", 1) - 1):
            world.own(ALICE, f"c{number}")
        body = {**WAITS, "Image": case.get("Image", "busybox")}
        reply = await world.ask("POST", f"/containers/create?name={case.get('name', 'train')}", body)
        assert reply.status == status
        assert not reason or reply.reason == reason
        assert world.services.named("Lease") == []

    whole()


@in_world
async def test_a_name_that_only_resembles_anothers_is_not_taken(world: World) -> None:
    world.own(BOB, "trainer")
    client = await waiting(world)
    world.services.turn.set()
    assert (await answered(client)).status == 201
    asked = [json.loads(item.query["filters"]) for item in world.engine.requests("/containers/json")]
    assert {"name": ["^/train$"]} in asked


# --- hanging up ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [b"", b"GET /version HTTP/1.1\r\nHost: d\r\n\r\n", b"x" * (1 << 18)])
def test_a_client_that_hangs_up_leaves_the_queue_at_once(later: bytes) -> None:
    """Also one that has sent more than its request meanwhile, and was not read."""

    @in_world
    async def whole(world: World) -> None:
        _, writer = await waiting(world)
        writer.write(later)
        await asyncio.sleep(0.05)
        assert world.services.left == []
        writer.transport.abort()
        await eventually(lambda: world.services.left == [REQUEST])
        world.services.turn.set()
        assert (await world.ask("GET", "/version")).status == 200
        assert world.engine.requests("/containers/create") == []

    whole()


@in_world
async def test_a_client_that_has_said_everything_still_waits(world: World) -> None:
    client = await waiting(world)
    client[1].write_eof()
    await asyncio.sleep(0.1)
    assert world.services.waiting == [REQUEST]
    world.services.turn.set()
    assert (await answered(client)).status == 201


@in_world
async def test_a_client_that_hangs_up_when_its_turn_has_come_gives_the_lease_back(world: World) -> None:
    client, slow = await told_behind_a_slow_create(world)
    client[1].transport.abort()
    await asyncio.sleep(0.1)
    assert world.services.named("Release") == []
    world.engine.released.set()
    await eventually(lambda: [call["lease"] for call in world.services.named("Release")] == ["l-req-1234"])
    assert len(world.engine.requests("/containers/create")) == 1
    slow[1].close()


# --- restarts ------------------------------------------------------------------------------------------------------


@in_world
async def test_an_allocator_that_restarts_does_not_end_the_wait(world: World) -> None:
    client = await waiting(world)
    for _ in range(3):  # together longer than the place is kept
        world.services.stop()
        await eventually(lambda: world.services.waiting == [])
        await asyncio.sleep(0.6)
        await world.services.start()
        await eventually(lambda: world.services.waiting == [REQUEST])
        await asyncio.sleep(0.2)  # a connection that never stood this long is none that was lost
    waits = [call["wait_s"] for call in world.services.named("Lease")]
    assert waits == sorted(waits, reverse=True)
    assert {call["request_id"] for call in world.services.named("Lease")} == {REQUEST}
    world.services.turn.set()
    assert (await answered(client)).status == 201


def test_an_allocator_that_stays_away_ends_the_wait() -> None:
    async def whole() -> None:
        async with running(kept_s=0.3) as world:
            client = await waiting(world)
            world.services.stop()
            reply = await answered(client)
            assert (reply.status, reply.reason) == (503, "allocator-down")
            await world.services.start()

    asyncio.run(asyncio.wait_for(whole(), 20))


def test_a_shim_that_stops_closes_the_connection_and_gives_nothing_back() -> None:
    async def whole() -> None:
        async with running() as world:
            await waiting(world)
            services = world.services
        assert services.named("Release") == []
        assert services.waiting == []

    asyncio.run(asyncio.wait_for(whole(), 20))


# --- after the wait ------------------------------------------------------------------------------------------------


async def no_image(world: World) -> None:
    world.engine.images.clear()


async def name_of_ones_own(world: World) -> None:
    world.own(ALICE, "train")


async def name_of_another(world: World) -> None:
    world.own(BOB, "train")


async def too_many(world: World) -> None:
    for number in range(3):
        world.own(ALICE, f"c{number}")


async def no_slice(world: World) -> None:
    world.services.down = {"EnsureSlice"}


async def smaller_limits(world: World) -> None:
    world.limits = replace(LIMITS, memory_bytes=1 << 30, memory_swap_bytes=1 << 30)


async def engine_fails(world: World) -> None:
    world.engine.create_status = 500


async def engine_breaks_off(world: World) -> None:
    world.engine.close_on = {"/containers/create"}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (no_image, 404),
        (name_of_ones_own, 409),
        (name_of_another, 409),
        (too_many, 403),
        (no_slice, 503),
        (smaller_limits, 403),
        (engine_fails, 500),
        (engine_breaks_off, 503),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_has_become_wrong_during_the_wait_gives_the_lease_back(change: Any, status: int) -> None:
    @in_world
    async def whole(world: World) -> None:
        body = {**WAITS, "HostConfig": {**WAITS["HostConfig"], "Memory": 2 << 30}}
        client = await waiting(world, body=body)
        await change(world)
        world.services.turn.set()
        assert (await answered(client)).status == status
        assert [call["lease"] for call in world.services.named("Release")] == ["l-req-1234"]

    whole()


@in_world
async def test_the_same_request_twice_waits_twice_and_is_one_container_with_one_lease(world: World) -> None:
    first = await waiting(world)
    second = await send(world, "/containers/create?name=train", json.dumps(WAITS).encode())
    await eventually(lambda: len(world.services.waiting) == 2)
    world.services.turn.set()
    replies = [await answered(first), await answered(second)]
    assert [reply.status for reply in replies] == [201, 201]
    assert replies[0].json()["Id"] == replies[1].json()["Id"]
    assert len(world.engine.requests("/containers/create")) == 1
    assert world.services.named("Release") == []


@in_world
async def test_a_lease_that_ended_before_its_container_came_is_not_used(world: World) -> None:
    """The other of two creates with one request id failed, and has given the lease back that both were told of."""
    client, slow = await told_behind_a_slow_create(world)
    world.services.ended.add("l-req-1234")
    world.engine.hang_on = set()
    world.engine.released.set()
    assert (await answered(client)).status == 201
    assert last_labels(world)["ds01.lease"] == "l-req-1234-again"
    slow[1].close()


# --- how many ------------------------------------------------------------------------------------------------------


@in_world
async def test_a_create_that_waits_is_one_of_the_users_streams(world: World) -> None:
    world.limits = replace(LIMITS, max_connections=8, max_streams=2)
    world.own(ALICE, "mine")
    world.engine.hang_on = {"/wait"}
    stream = await send(world, "/containers/mine/wait")
    await eventually(lambda: bool(world.engine.requests("/wait")))
    client = await waiting(world)
    reply = await world.ask("POST", "/containers/create?name=more", WAITS)
    assert (reply.status, reply.reason) == (429, "over-streams")
    assert (reply.json()["ds01"]["limit"], reply.json()["ds01"]["used"]) == ("2", "2")
    assert len(world.services.named("Lease")) == 1
    assert (await world.ask("POST", "/containers/create?name=other", PLAIN)).status == 201
    client[1].close()
    await eventually(lambda: world.services.left == [REQUEST])
    again = await waiting(world, "again", "req-abcdefgh")
    for one in (again, stream):
        one[1].close()


@in_world
async def test_administrators_may_wait_as_often_as_they_like(world: World) -> None:
    world.limits = replace(LIMITS, max_streams=1)
    world.peer = ADA
    clients = [await waiting(world, f"c{number}", f"req-1234567{number}") for number in range(3)]
    world.services.turn.set()
    assert {(await answered(client)).status for client in clients} == {201}


# --- start ---------------------------------------------------------------------------------------------------------


async def starting(world: World, wait: str = "1h") -> Client:
    made = world.own(ALICE, "mine", lease="l-1")
    made.body["Labels"]["ds01.wait"] = wait
    world.services.turn.clear()
    client = await send(world, "/containers/mine/start")
    await eventually(lambda: bool(world.services.named("Renew")))
    return client


@in_world
async def test_a_start_with_the_label_waits(world: World) -> None:
    client = await starting(world)
    await eventually(lambda: world.services.waiting == ["l-1"])
    renewed = world.services.named("Renew")[0]
    assert (renewed["lease"], renewed["uid"], 3599 < renewed["wait_s"] <= 3600) == ("l-1", 1001, True)
    assert world.engine.requests("/start") == []
    world.services.turn.set()
    assert (await answered(client)).status == 204
    assert len(world.services.named("EnsureSlice")) == 2


@pytest.mark.parametrize("label", ["", "true", "x", "99"])
def test_a_start_with_a_label_that_is_not_ours_does_not_wait(label: str) -> None:
    @in_world
    async def whole(world: World) -> None:
        reply = await answered(await starting(world, label))
        assert (reply.status, reply.reason) == (409, "none-free")
        assert "docker run --label ds01.wait=1h" in reply.message
        assert world.services.named("Renew")[0]["wait_s"] == 0.0

    whole()


@in_world
async def test_a_start_whose_client_hangs_up_leaves_the_queue_and_does_not_happen(world: World) -> None:
    client = await starting(world)
    await eventually(lambda: world.services.waiting == ["l-1"])
    client[1].close()
    await eventually(lambda: world.services.left == ["l-1"])
    world.services.turn.set()
    assert (await world.ask("GET", "/version")).status == 200
    assert world.engine.requests("/start") == []


@in_world
async def test_a_start_whose_client_hangs_up_as_its_turn_comes_does_not_happen(world: World) -> None:
    client = await starting(world)
    await eventually(lambda: world.services.waiting == ["l-1"])
    loop = asyncio.get_running_loop()
    world.services.turn.set()
    while world.services.waiting:
        await asyncio.sleep(0)
    client[1].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    loop.call_soon(client[1].close)
    await asyncio.sleep(0.2)
    assert world.engine.requests("/start") == []


@in_world
async def test_a_container_with_the_same_lease_that_came_meanwhile_keeps_both_from_starting(world: World) -> None:
    client = await starting(world)
    await eventually(lambda: world.services.waiting == ["l-1"])
    world.own(ALICE, "two", lease="l-1")
    world.services.turn.set()
    reply = await answered(client)
    assert (reply.status, reply.reason) == (409, "lease-shared")
    assert world.engine.requests("/start") == []


@in_world
async def test_a_start_that_waits_is_one_of_the_users_streams(world: World) -> None:
    world.limits = replace(LIMITS, max_streams=1)
    client = await waiting(world)
    reply = await answered(await send_start(world))
    assert (reply.status, reply.reason) == (429, "over-streams")
    client[1].close()


async def send_start(world: World) -> Client:
    world.own(ALICE, "mine", lease="l-1").body["Labels"]["ds01.wait"] = "1h"
    return await send(world, "/containers/mine/start")
