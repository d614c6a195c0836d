"""Keeps users' slices: makes them with their limits, remembers them for the next boot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ds01.common.events import Event, EventLog
from ds01.common.limits import Aggregate, Policy
from ds01.common.slices import SlicePlan, plan_user
from ds01.common.slicestate import STATE_FILE, SliceOwner, read_owners, write_owners
from ds01.common.unitnames import user_slice


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
        cut. Slices of groups he was in before get today's limits too: containers made then still start there.
        Raises `Ds01Error` where account, policy or systemd fail.
        """
        user, unix_groups = self._account(uid)
        policy = self._policy.current()
        group = policy.group_of(user, unix_groups)
        aggregate = policy.limits_for(user, unix_groups).aggregate
        async with self._one_at_a_time.setdefault(uid, asyncio.Lock()):
            self._remember(SliceOwner(uid, user, group))
            for owner in sorted(owner for owner in self._owners if owner.uid == uid):
                await self._make(owner, aggregate)
        return user_slice(group, user, uid), group

    async def _make(self, owner: SliceOwner, aggregate: Aggregate) -> None:
        parent, own = plan_user(owner.user, owner.uid, owner.group, aggregate)
        await self._systemd.ensure_slice(parent)
        if await self._systemd.ensure_slice(own):
            self._log.emit(_made(own, owner))

    def _remember(self, owner: SliceOwner) -> None:
        if owner not in self._owners:
            write_owners([*self._owners, owner], self._state_file)
            self._owners.add(owner)


def _made(plan: SlicePlan, owner: SliceOwner) -> Event:
    limits = ", ".join(f"{name}={value}" for name, value in plan.properties.items() if name.endswith(("Max", "High")))
    return Event(
        "slice.ensured",
        f"Made {plan.name} for {owner.user}: {limits}",
        user=owner.user,
        uid=owner.uid,
        group=owner.group,
        new=plan.name,
    )
