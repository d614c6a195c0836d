"""The engine client against an engine that answers these very bytes, or none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ds01.common.engine import Engine, container_facts
from ds01.common.errors import EngineRefused, Unavailable

Talk = Callable[[Engine, list[bytes]], Awaitable[None]]
INSPECTED = {
    "Id": "c1",
    "Name": "/train._.1001",
    "Config": {"Labels": {"ds01.uid": "1001", "ds01.lease": "l1", "ds01.protected": ""}},
    "State": {"Running": True, "Restarting": False, "StartedAt": "2026-01-01T00:00:00Z", "Pid": 7, "Error": ""},
    "HostConfig": {"CgroupParent": "ds01-student-alice.slice", "RestartPolicy": {"Name": "always"}},
}


def answer(status: int, body: object) -> bytes:
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(raw)) + raw


def talk(tmp_path: Path, parts: list[bytes], scene: Talk, timeout_s: float = 5.0) -> None:
    """Serve one answer to every request, in `parts`, and play the scene; an empty list is silence."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if parts:
            writer.close()

    async def play() -> None:
        server = await asyncio.start_unix_server(serve, tmp_path / "engine")
        await asyncio.wait_for(scene(Engine(str(tmp_path / "engine"), timeout_s), heads), 10)
        server.close()

    asyncio.run(play())


def test_inspect_reads_what_counts(tmp_path: Path) -> None:
    async def scene(engine: Engine, heads: list[bytes]) -> None:
        facts = await engine.inspect("c1")
        assert facts == container_facts(INSPECTED)
        assert (facts.owner_uid, facts.lease, facts.restart_policy) == (1001, "l1", "always")
        assert heads[0].startswith(b"GET /v1.45/containers/c1/json HTTP/1.1")

    talk(tmp_path, [answer(200, INSPECTED)], scene)


@pytest.mark.parametrize("uid", ["", "root", "-1", "1e3", None])
def test_a_label_that_is_no_uid_is_no_owner(uid: str | None) -> None:
    raw = {**INSPECTED, "Config": {"Labels": None if uid is None else {"ds01.uid": uid}}}
    assert container_facts(raw).owner_uid is None


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    async def scene(engine: Engine, heads: list[bytes]) -> None:
        assert await engine.inspect("c1") is None

    talk(tmp_path, [answer(404, {"message": "No such container"})], scene)


def test_an_error_of_the_engine_has_its_words(tmp_path: Path) -> None:
    async def scene(engine: Engine, heads: list[bytes]) -> None:
        with pytest.raises(EngineRefused, match="no space left"):
            await engine.inspect("c1")

    talk(tmp_path, [answer(500, {"message": "no space left"})], scene)


@pytest.mark.parametrize(
    "parts",
    [[], [b"HTTP/1.1 200 OK\r\n"], [b"garbage\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"], [b"\0"]],
    ids=["silence", "half a head", "no HTTP", "half a body", "a NUL"],
)
def test_an_engine_that_does_not_answer_is_unavailable(tmp_path: Path, parts: list[bytes]) -> None:
    async def scene(engine: Engine, heads: list[bytes]) -> None:
        with pytest.raises(Unavailable):
            await engine.inspect("c1")

    talk(tmp_path, parts, scene, timeout_s=0.5)


def test_no_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        asyncio.run(Engine(str(tmp_path / "absent")).answers())


def test_events_come_whole_however_they_are_cut(tmp_path: Path) -> None:
    lines = b'{"id": 1}\n{"id": 2}\n{"id": 3}\n'
    chunks = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    chunks += [b"%x\r\n%s\r\n" % (len(lines[i : i + 7]), lines[i : i + 7]) for i in range(0, len(lines), 7)]

    async def scene(engine: Engine, heads: list[bytes]) -> None:
        seen: list[int] = []

        async def follow() -> None:
            async for event in engine.events(5.0):
                seen.append(event["id"])

        with pytest.raises(Unavailable):
            await follow()
        assert seen == [1, 2, 3]
        assert b"since=5.000000" in heads[0]

    talk(tmp_path, chunks, scene)
