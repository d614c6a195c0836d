"""Keeps users' slices: makes them with their limits, remembers them for the next boot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ds01.common.events import Event, EventLog
from ds01.common.limits import Policy
from ds01.common.slices import SlicePlan, plan_user
from ds01.common.slicestate import STATE_FILE, SliceOwner, read_owners, write_owners


class SliceMaker(Protocol):
    """systemd."""

    async def ensure_slice(self, plan: SlicePlan) -> bool: ...


class PolicySource(Protocol):
    """The compiled policy."""

    def current(self) -> Policy: ...


class Keeper:
    """The only maker of slices while the system runs."""

    def __init__(
        self,
        systemd: SliceMaker,
        policy: PolicySource,
        account: Callable[[int], tuple[str, frozenset[str]]],
        log: EventLog,
        state_file: Path = STATE_FILE,
    ) -> None:
        self._systemd = systemd
        self._policy = policy
        self._account = account
        self._log = log
        self._state_file = state_file
        self._owners = set(read_owners(state_file))
        self._one_at_a_time: dict[int, asyncio.Lock] = {}

    @property
    def count(self) -> int:
        """How many users ever had a slice."""
        return len(self._owners)

    async def ensure(self, uid: int) -> tuple[str, str]:
        """The slice of `uid` with today's limits, made if it is not there; its name and the policy group.

        The slice is remembered durably before it is made, so that whatever runs in it finds it again after a power
        cut. Raises `Ds01Error` where account, policy or systemd fail.
        """
        user, unix_groups = self._account(uid)
        policy = self._policy.current()
        group = policy.group_of(user, unix_groups)
        parent, own = plan_user(user, uid, group, policy.limits_for(user, unix_groups).aggregate)
        async with self._one_at_a_time.setdefault(uid, asyncio.Lock()):
            self._remember(SliceOwner(uid, user, group))
            await self._systemd.ensure_slice(parent)
            if await self._systemd.ensure_slice(own):
                self._log.emit(_made(own, user, uid, group))
        return own.name, group

    def _remember(self, owner: SliceOwner) -> None:
        if owner not in self._owners:
            write_owners([*self._owners, owner], self._state_file)
            self._owners.add(owner)


def _made(plan: SlicePlan, user: str, uid: int, group: str) -> Event:
    limits = ", ".join(f"{name}={value}" for name, value in plan.properties.items() if name.endswith(("Max", "High")))
    return Event(
        "slice.ensured", f"Made {plan.name} for {user}: {limits}", user=user, uid=uid, group=group, new=plan.name
    )
