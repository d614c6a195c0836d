"""The two services that the shim asks, allocator and limits_sync, over Varlink. Parses their answers.

Both may be restarting: a call is repeated for a short while. Leasing is idempotent by its request id, so a repeated
call never holds two leases, and whoever waits in the queue keeps his place. A call that is cancelled closes its
connection, and with it leaves the queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ds01.common.errors import Unavailable
from ds01.docker_shim.denials import refused_of
from ds01.docker_shim.model import Owner, Reason, Refused
from ds01.docker_shim.refusals import Note, printable

ALLOCATOR_SOCKET = "/run/ds01/allocator.sock"
LIMITS_SOCKET = "/run/ds01/limits-sync.sock"
PATIENCE_S = 3.0
RETRY_S = 0.1
KEPT_S = 15.0
"""How long the allocator keeps the place of somebody whose connection was lost."""

MARGIN_S = 10.0
"""How long after the end of a wait the answer may take."""

Call = Callable[..., Awaitable[dict[str, Any]]]
"""common.varlink.call: (socket path, method, timeout_s, **parameters)."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease that holds units, and what its user should know of them."""

    lease: str
    warnings: tuple[str, ...] = ()


class AllocatorClient:
    """io.ds01.Allocator, acting for users."""

    def __init__(
        self, call: Call, path: str = ALLOCATOR_SOCKET, patience_s: float = PATIENCE_S, kept_s: float = KEPT_S
    ) -> None:
        self._call = call
        self._path = path
        self._patience_s = patience_s
        self._kept_s = kept_s

    async def lease(self, request: str, uid: int, name: str, gpus: str, wait_s: float = 0.0) -> Grant | Refused:
        """Lease `gpus` for a container that is about to be created, waiting for them in the queue if need be."""
        return await self._grant("Lease", wait_s, request_id=request, uid=uid, container_name=name, gpus=gpus)

    async def renew(self, lease: str, uid: int, wait_s: float = 0.0) -> Grant | Refused:
        """Make sure that the lease has units before its container starts, waiting for them if need be."""
        return await self._grant("Renew", wait_s, lease=lease, uid=uid)

    async def release(self, lease: str, reason: str) -> None:
        """Give a lease back. Raises `Unavailable`; the allocator then finds out by itself."""
        await self._patiently("Release", lease=lease, reason=reason)

    async def record(self, note: Note) -> None:
        """Keep a refusal in the ledger. Raises `Unavailable`."""
        await self._call(
            self._path,
            "io.ds01.Allocator.Record",
            timeout_s=self._patience_s,
            event="access.refused",
            uid=note.uid,
            reason=str(note.refused.reason),
            message=printable(note.refused.sentence),
            container=note.refused.container,
            container_name=note.refused.container_name,
            request=note.request,
            count=note.count,
        )

    async def _grant(self, method: str, wait_s: float, **parameters: Any) -> Grant | Refused:
        try:
            if wait_s:
                reply = await self._in_queue(method, wait_s, parameters)
            else:
                reply = await self._patiently(method, wait_s=0.0, **parameters)
            grant = reply.get("grant")
            if grant is not None:
                return Grant(str(grant["lease"]), tuple(map(str, grant["warnings"])))
            return refused_of(reply.get("denial"))
        except Unavailable as exc:
            return Refused(
                503,
                Reason.ALLOCATOR_DOWN,
                f"no GPU can be leased at the moment: {exc}",
                "try again in a moment; what needs no GPU works",
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise Unavailable("the allocator's answer can't be read") from exc

    async def _patiently(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await patiently(self._call, self._path, f"io.ds01.Allocator.{method}", self._patience_s, parameters)

    async def _in_queue(self, method: str, wait_s: float, parameters: dict[str, Any]) -> dict[str, Any]:
        """Call until the turn has come or the time is over; again, while the place is kept, after a lost connection."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        lost_at = loop.time()
        while True:
            asked_at = loop.time()
            left_s = max(until - asked_at, 0.0)
            try:
                return await self._call(
                    self._path,
                    f"io.ds01.Allocator.{method}",
                    timeout_s=left_s + MARGIN_S,
                    wait_s=left_s,
                    **parameters,
                )
            except Unavailable:
                now = loop.time()
                if now - asked_at > RETRY_S:
                    lost_at = now  # the connection stood until now
                if now - lost_at >= self._kept_s or now >= until + MARGIN_S:
                    raise
                await asyncio.sleep(RETRY_S)


class LimitsClient:
    """io.ds01.LimitsSync: the only maker of slices."""

    def __init__(self, call: Call, path: str = LIMITS_SOCKET, patience_s: float = PATIENCE_S) -> None:
        self._call = call
        self._path = path
        self._patience_s = patience_s

    async def ensure_slice(self, uid: int, user: str) -> Owner | Refused:
        """The user's slice, which exists with its limits when this returns."""
        method = "io.ds01.LimitsSync.EnsureSlice"
        try:
            reply = await patiently(self._call, self._path, method, self._patience_s, {"uid": uid})
            return Owner(uid, user, str(reply["group"]), str(reply["slice"]))
        except (Unavailable, KeyError) as exc:
            return Refused(
                503,
                Reason.LIMITS_DOWN,
                f"your slice with its limits can't be made at the moment, so nothing is started: {exc}",
                "try again in a moment; tell an administrator if it stays",
            )


async def patiently(
    call: Call, path: str, method: str, patience_s: float, parameters: dict[str, Any]
) -> dict[str, Any]:
    """Call until it answers, for `patience_s` seconds at most. What it said counts more than a silence after that."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    said: Unavailable | None = None
    while True:
        try:
            return await call(path, method, timeout_s=max(deadline - loop.time(), RETRY_S), **parameters)
        except Unavailable as exc:
            if said is None or not isinstance(exc.__cause__, TimeoutError):
                said = exc
            if loop.time() + RETRY_S >= deadline:
                raise said from None
            await asyncio.sleep(RETRY_S)
