"""Which units must have which limits, for a policy and the people there are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ds01.common import slices
from ds01.common.limits import Policy
from ds01.common.slices import SliceOwner, SlicePlan


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody as NSS knows him now."""

    user: str
    unix_groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A unit with the properties that it must have. `transient`: it is ours to make. `what` is for people.

    `uid`, `user` and `group` are empty where it is nobody's own.
    """

    plan: SlicePlan
    what: str
    transient: bool = False
    uid: int | None = None
    user: str = ""
    group: str = ""


def wanted_units(
    policy: Policy, owners: Iterable[SliceOwner], accounts: Mapping[int, Account], logins: Iterable[int]
) -> dict[str, Wanted]:
    """Every unit by name, parents before children: the machine's, groups', users', and login slices.

    An account that is gone keeps the limits of the group that its slice was made for. Root's login has no limits.
    """
    root, engine = slices.plan_machine(policy.machine)
    found = [Wanted(root, "all containers"), Wanted(engine, "the engine")]
    found += [Wanted(plan, f"jobs of {plan.name}") for plan in slices.plan_jobs(policy.machine)]
    ordered = sorted(owners)
    found += [_group(owner, policy) for owner in ordered]
    found += [_user(owner, policy, accounts.get(owner.uid)) for owner in ordered]
    found += [_login(uid, policy, accounts[uid]) for uid in sorted(set(logins)) if uid and uid in accounts]
    return {one.plan.name: one for one in found}


def _group(owner: SliceOwner, policy: Policy) -> Wanted:
    group = policy.groups.get(owner.group)
    total = slices.NO_TOTAL if group is None else group.total
    parent, _ = slices.plan_user(owner.user, owner.uid, owner.group, slices.NO_TOTAL, total)
    return Wanted(parent, f"group {owner.group}", transient=True, group=owner.group)


def _user(owner: SliceOwner, policy: Policy, account: Account | None) -> Wanted:
    if account is None:
        limits = policy.limits_in(owner.group, owner.user)
    else:
        limits = policy.limits_for(account.user, account.unix_groups)
    _, own = slices.plan_user(owner.user, owner.uid, owner.group, limits.aggregate)
    return Wanted(own, f"all containers of {owner.user}", True, owner.uid, owner.user, owner.group)


def _login(uid: int, policy: Policy, account: Account) -> Wanted:
    login = policy.limits_for(account.user, account.unix_groups).login
    group = policy.group_of(account.user, account.unix_groups)
    return Wanted(slices.plan_login(uid, login), f"login sessions of {account.user}", False, uid, account.user, group)
