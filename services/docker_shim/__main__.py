"""Wires the Docker shim: `python -m ds01.docker_shim`, started by ds01-docker-shim.service."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.notify import Notifier
from ds01.common.daemon import listen_sockets, run, supervise
from ds01.common.engine import Engine
from ds01.common.errors import PolicyInvalid
from ds01.common.hangups import Hangups
from ds01.common.peer import Peer, identify
from ds01.common.policyfile import PolicyFile
from ds01.common.varlink import call
from ds01.docker_shim.actions import Actions, Doors
from ds01.docker_shim.audit import Audit
from ds01.docker_shim.clients import AllocatorClient, LimitsClient
from ds01.docker_shim.engine_state import EngineState
from ds01.docker_shim.refusals import Coalescer
from ds01.docker_shim.relay import Relayer
from ds01.docker_shim.server import Budget, Server

PROBE_TIMEOUT_S = 1.5
WORK_TIMEOUT_S = 300.0
WITHOUT_POLICY = Budget(connections=32, streams=32)


async def start(stack: AsyncExitStack) -> str:
    """Bring the shim up; the status line."""
    policy = PolicyFile()
    engine = Engine()
    state = EngineState(Engine(timeout_s=PROBE_TIMEOUT_S), engine)
    allocator = AllocatorClient(call)
    doors = Doors(engine, Engine(timeout_s=WORK_TIMEOUT_S), state, allocator, LimitsClient(call), policy.current)
    audit = Audit(JournalEventLog(), allocator.record, Coalescer())
    hangups = Hangups()
    stack.callback(hangups.close)

    def budget(peer: Peer) -> Budget:
        try:
            limits = policy.current().limits_for(peer.user, peer.groups)
        except PolicyInvalid:
            return WITHOUT_POLICY
        return Budget(limits.max_connections, limits.max_streams)

    server = Server(Actions(doors), Relayer(hangups), hangups, state, audit, identify, budget)
    stack.push_async_callback(server.close)
    listeners = listen_sockets(os.environ, os.getpid())["docker"]
    works = [server.accept(listener) for listener in listeners]
    for name, work in [("audit", audit.work()), *(("accept", work) for work in works)]:
        stack.callback(supervise(asyncio.create_task(work, name=name)).cancel)
    return "serving the Docker socket"


if __name__ == "__main__":
    run(start, Notifier())
