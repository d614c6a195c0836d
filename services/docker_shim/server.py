"""Accepts connections and serves one request on each: who is it, what is asked, may it, do it, answer."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ds01.common.errors import PeerRefused, PolicyInvalid, Unavailable
from ds01.common.hangups import Hangups
from ds01.common.peer import Peer
from ds01.common.rates import Rates
from ds01.docker_shim.actions import STREAMED_BODY, Actions, request_id
from ds01.docker_shim.audit import Audit
from ds01.docker_shim.connection import ClientConnection, ClientGone
from ds01.docker_shim.engine_state import EngineState
from ds01.docker_shim.guard import UPGRADABLE, Passed, decide
from ds01.docker_shim.model import Answer, Head, Reason, Refused, Relay
from ds01.docker_shim.refusals import Note, answer
from ds01.docker_shim.relay import Relayer
from ds01.docker_shim.streams import Seat, held, over_streams
from ds01.docker_shim.target import parse_target

HEAD_TIMEOUT_S = 10.0
CROWDED_TIMEOUT_S = 1.0
BACKLOG = 4096
ACCEPTS_AT_ONCE = 64
CONNECTIONS_PER_S, CONNECTIONS_BURST = 100.0, 300.0
MAX_OPEN = 8192
"""Connections of all users together; more are closed at once."""

MAX_OPEN_PER_UID = 256
"""Connections by one uid of SO_PEERCRED, whoever that turns out to be; more are closed at once."""

ACCEPT_PAUSE_S = 0.1
NOBODY = Peer(uid=-1, user="", groups=frozenset(), pid=0, service="", is_admin=False)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of the shim one user may hold at a time: connections, and those that are streams or wait."""

    connections: int
    streams: int


class Server:
    """The socket's loop."""

    def __init__(
        self,
        actions: Actions,
        relayer: Relayer,
        hangups: Hangups,
        state: EngineState,
        audit: Audit,
        identify: Callable[[socket.socket], Peer],
        budget: Callable[[Peer], Budget],
    ) -> None:
        self._actions = actions
        self._relayer = relayer
        self._hangups = hangups
        self._state = state
        self._audit = audit
        self._identify = identify
        self._budget = budget
        self._open: Counter[int] = Counter()
        self._streams: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rates = Rates(CONNECTIONS_PER_S, CONNECTIONS_BURST)

    async def accept(self, listener: socket.socket) -> None:
        """For ever: take connections from `listener`."""
        listener.listen(BACKLOG)
        loop = asyncio.get_running_loop()
        for number in itertools.count(1):
            if number % ACCEPTS_AT_ONCE == 0:
                await asyncio.sleep(0)  # in a flood sock_accept never waits, and those who are in must be served
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as exc:
                _logger.warning("no connection can be accepted for a moment: %s", exc)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            uid = _uid_of(connection)
            if len(self._tasks) >= MAX_OPEN or (uid and not self._may_enter(uid, loop.time())):
                connection.close()
                continue
            self._accepted[uid] += 1
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._ended, uid))

    def _may_enter(self, uid: int, now: float) -> bool:
        return self._accepted[uid] < MAX_OPEN_PER_UID and self._rates.allows(uid, now)

    def _ended(self, uid: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("a connection of uid %d failed", uid, exc_info=task.exception())
        self._accepted[uid] -= 1
        if not self._accepted[uid]:
            del self._accepted[uid]

    async def close(self) -> None:
        """End what is being served."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            client = await ClientConnection.open(connection)
        except OSError:
            connection.close()
            return
        try:
            peer = await self._peer(connection)
            if isinstance(peer, Refused):
                await self._refuse_unheard(client, NOBODY, peer)
                return
            with held(self._open, peer.uid) as others:
                limit = self._budget(peer).connections
                if others >= limit and not peer.is_admin:
                    await self._refuse_unheard(client, peer, _crowded(others, limit))
                else:
                    await self._serve_peer(client, peer)
        except (ClientGone, ConnectionError):
            pass
        finally:
            await client.close()

    async def _peer(self, connection: socket.socket) -> Peer | Refused:
        try:
            return await asyncio.to_thread(self._identify, connection)
        except PeerRefused as exc:
            return Refused(403, Reason.PEER, f"the Docker socket does not answer this caller: {exc}")

    async def _refuse_unheard(self, client: ClientConnection, peer: Peer, refused: Refused) -> None:
        """Read the head, so that the client can read us, and say no whatever it is."""
        head = await client.read_head(CROWDED_TIMEOUT_S)
        await self._refuse(client, peer, refused, request_id(head) if isinstance(head, Head) else "")

    async def _serve_peer(self, client: ClientConnection, peer: Peer) -> None:
        head = await client.read_head(HEAD_TIMEOUT_S)
        if isinstance(head, Refused):
            await self._refuse(client, peer, head, "")
            return
        request = request_id(head)
        try:
            result = await self._carried_out(client, peer, head, request)
        except Unavailable as exc:
            self._state.lost()
            result = _unavailable(Reason.ENGINE_DOWN, exc)
        except PolicyInvalid as exc:
            result = _unavailable(Reason.NO_POLICY, exc)
        except (ClientGone, ConnectionError):
            raise
        except Exception:
            _logger.exception("a request of uid %d failed: %s %s", peer.uid, head.method, head.target[:200])
            result = Refused(500, Reason.BROKEN, "the request failed in DS01", f"tell an administrator: {request}")
        if result is None:
            return
        if client.begun:
            client.abort()
        elif isinstance(result, Refused):
            await self._refuse(client, peer, result, request)
        else:
            await client.send(result)

    async def _carried_out(
        self, client: ClientConnection, peer: Peer, head: Head, request: str
    ) -> Answer | Refused | None:
        """What is still to be answered; None after a relay to its end."""
        result = await self._result(client, peer, head, request)
        return await self._relayed(client, peer, head, result) if isinstance(result, Relay) else result

    async def _result(self, client: ClientConnection, peer: Peer, head: Head, request: str) -> Answer | Relay | Refused:
        target = parse_target(head.target)
        if isinstance(target, Refused):
            return target
        passed = decide(head, target, peer.is_admin)
        if isinstance(passed, Refused):
            return passed
        body: bytes | Refused = b""
        if not (peer.is_admin and passed.action in STREAMED_BODY):
            body = await client.read_body(head)
        if isinstance(body, Refused):
            return body
        if client.early and not _may_be_early(passed, peer):
            return Refused(400, Reason.MALFORMED, "bytes came after the request", "send one request per connection")
        return await self._actions.act(peer, head, passed, body, request, self._seat(client, peer))

    def _seat(self, client: ClientConnection, peer: Peer) -> Seat:
        limit = None if peer.is_admin else self._budget(peer).streams
        return Seat(self._hangups, self._streams, client.fileno, peer.uid, limit)

    async def _relayed(self, client: ClientConnection, peer: Peer, head: Head, relay: Relay) -> Refused | None:
        """Carry the relay to its end; a refusal if it is to stay open and the peer has too many that are.

        Those of administrators never say that they stay open.
        """
        if not relay.stays_open:
            await self._relayer.run(client, head, relay)
            return None
        with held(self._streams, peer.uid) as others:
            limit = self._budget(peer).streams
            if others >= limit:
                return over_streams(others, limit)
            await self._relayer.run(client, head, relay)
            return None

    async def _refuse(self, client: ClientConnection, peer: Peer, refused: Refused, request: str) -> None:
        self._audit.note(Note(peer.uid, peer.user, refused, request))
        await client.send(answer(refused, request))


def _may_be_early(passed: Passed, peer: Peer) -> bool:
    """Input for a stream that is yet to be granted, or an administrator's body that is yet to be read."""
    return passed.action in UPGRADABLE or (peer.is_admin and passed.action in STREAMED_BODY)


def _uid_of(connection: socket.socket) -> int:
    """The uid as the kernel saw it at connect; the whole identity is established later, off the loop."""
    uid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return uid


def _crowded(used: int, limit: int) -> Refused:
    return Refused(
        403,
        Reason.OVER_CONNECTIONS,
        f"you have {used} connections to Docker, and your limit is {limit}",
        "end a 'docker logs -f', 'docker attach' or 'docker exec' that you no longer need",
        limit=str(limit),
        used=str(used),
        requested="1",
    )


def _unavailable(reason: Reason, exc: Exception) -> Refused:
    return Refused(
        503,
        reason,
        str(exc),
        "what runs goes on; try again in a moment, and tell an administrator if it stays",
    )
