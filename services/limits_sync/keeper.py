"""Who has slices, and by which account and policy: makes a user's slice before anything runs in it.

A user who moved to another group works on in his old slice, with his new limits, until it has no container any more:
two slices of one user can't share one limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Protocol

from ds01.common.errors import PeerRefused, PolicyInvalid
from ds01.common.limits import Limits, Policy
from ds01.common.slices import SliceOwner, cgroup_of
from ds01.common.slicestate import STATE_FILE, read_owners, write_owners
from ds01.common.unitnames import ROOT_SLICE, group_slice, user_slice
from ds01.limits_sync.units import Units
from ds01.limits_sync.wanted import Account, wanted_units


class Kernel(Protocol):
    """The cgroup hierarchy."""

    def is_populated(self, path: str) -> bool: ...


class Keeper:
    """The only maker of slices while the system runs. `policy` is replaced by whoever reads it."""

    def __init__(
        self,
        units: Units,
        kernel: Kernel,
        account: Callable[[int], tuple[str, frozenset[str]]],
        has_containers: Callable[[int, str], Awaitable[bool]],
        stop: Callable[[str], Awaitable[None]],
        state_file: Path = STATE_FILE,
    ) -> None:
        self.policy: Policy | None = None
        self._units = units
        self._kernel = kernel
        self._account = account
        self._has_containers = has_containers
        self._stop = stop
        self._state_file = state_file
        self._owners = set(read_owners(state_file))
        self._accounts: dict[int, Account] = {}
        self._logins: set[int] = set()
        self._one_at_a_time: dict[int, asyncio.Lock] = {}

    @property
    def count(self) -> int:
        """How many users have a slice."""
        return len({owner.uid for owner in self._owners})

    def limits_of(self, uid: int) -> tuple[str, str, Limits] | None:
        """Name, group and limits of a uid by the policy of now; None where there is no such account."""
        known = self._accounts.get(uid)
        try:
            account = known or self._look_up(uid)
            policy = self._required()
        except (PeerRefused, PolicyInvalid):
            return None
        group = policy.group_of(account.user, account.unix_groups)
        return account.user, group, policy.limits_for(account.user, account.unix_groups)

    async def look_everybody_up(self, logins: Iterable[int]) -> None:
        """Ask NSS for everybody who has a slice or is logged in; it may be slow."""
        self._logins = {uid for uid in logins if uid}
        uids = {owner.uid for owner in self._owners} | self._logins
        self._accounts = await asyncio.to_thread(self._found, sorted(uids))

    def plan(self) -> None:
        """Say anew what is wanted of every unit."""
        if self.policy is not None:
            self._units.wanted = wanted_units(self.policy, self._owners, self._accounts, self._logins)
            self._units.grace_s = self.policy.policies.shrink_grace_s

    async def logged_in(self, uid: int) -> None:
        """Somebody has logged in: his session slice gets its limits. Raises `Unavailable`."""
        if self.policy is None or not uid:
            return
        self._logins.add(uid)
        self._accounts.update(await asyncio.to_thread(self._found, [uid]))
        name = f"user-{uid}.slice"
        self._units.look_anew(name)
        wanted = wanted_units(self.policy, (), self._accounts, [uid]).get(name)
        if wanted is not None:
            self._units.want(wanted)
            await self._units.refresh(name)

    async def ensure(self, uid: int) -> tuple[str, str]:
        """The slice of `uid` with today's limits, made if it is not there; its name and the group in its name.

        It is remembered durably before it is made, so that whatever runs in it finds it again after a power cut.
        Raises `Ds01Error` where account, policy, engine or systemd fail.
        """
        account = self._look_up(uid)
        async with self._one_at_a_time.setdefault(uid, asyncio.Lock()):
            self._accounts[uid] = account
            group = self._required().group_of(account.user, account.unix_groups)
            owner = await self._owner_for(SliceOwner(uid, account.user, group))
            self._remember(owner)
            mine = [owner for owner in self._owners if owner.uid == uid]
            wanted = wanted_units(self._required(), mine, self._accounts, ())
            self._units.want(*(one for one in wanted.values() if one.transient))
            await self._units.refresh(ROOT_SLICE)
            for one in mine:
                await self._units.refresh(group_slice(one.group))
                await self._units.refresh(user_slice(one.group, one.user, uid))
        return user_slice(owner.group, owner.user, uid), owner.group

    async def _owner_for(self, today: SliceOwner) -> SliceOwner:
        """In whose slice new work goes: a former group's or name's while it has a container, else today's.

        Former slices with nothing in them are given up.
        """
        for old in sorted(owner for owner in self._owners if owner.uid == today.uid and owner != today):
            slice_name = user_slice(old.group, old.user, old.uid)
            if self._kernel.is_populated(cgroup_of(slice_name)) or await self._has_containers(old.uid, old.group):
                return old
            write_owners(self._owners - {old}, self._state_file)
            self._owners.discard(old)
            self._units.forget(slice_name)
            await self._stop(slice_name)
        return today

    def _found(self, uids: Iterable[int]) -> dict[int, Account]:
        found = {}
        for uid in uids:
            try:
                found[uid] = self._look_up(uid)
            except PeerRefused:
                continue
        return found

    def _look_up(self, uid: int) -> Account:
        return Account(*self._account(uid))

    def _required(self) -> Policy:
        if self.policy is None:
            raise PolicyInvalid("there is no usable policy; see 'systemctl status ds01-limits-sync'")
        return self.policy

    def _remember(self, owner: SliceOwner) -> None:
        if owner not in self._owners:
            write_owners([*self._owners, owner], self._state_file)
            self._owners.add(owner)
