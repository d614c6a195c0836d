"""Everything that decisions are made on, gathered into one value: policy, accounts, GPUs, leases, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ds01.common.errors import Ds01Error, LedgerBroken, PeerRefused, Unavailable
from ds01.common.inventory import Inventory
from ds01.common.limits import Limits, Policies, Policy
from ds01.common.model import Lease, LeaseKind, LeaseState, UnitKey
from ds01.gpu_allocator.book import Book
from ds01.gpu_allocator.foreign import Foreign, occupied
from ds01.gpu_allocator.lifecycle import Timeouts
from ds01.gpu_allocator.stock import Stock
from ds01.gpu_allocator.world import Asker, World, asker_of


class PolicySource(Protocol):
    """The policy in force."""

    def current(self) -> Policy: ...


Account = Callable[[int], tuple[str, frozenset[str]]]
"""Name and Unix groups of a uid; raises `PeerRefused` where there is no such account."""


class Facts:
    """`bypassing` are containers that were started past the shim; `intruded` says which units have processes outside of
    any lease; `haunted` that a container has the nodes of a unit that was
    there before. `ledger_problem` is why the ledger can't be used, '' if it
    can."""

    def __init__(
        self, book: Book, stock: Stock, policy: PolicySource, account: Account, clock: Callable[[], float]
    ) -> None:
        self.book = book
        self.stock = stock
        self._policy = policy
        self._account = account
        self._clock = clock
        self.engine_known = False
        self.ledger_problem = ""
        self.bypassing: tuple[Foreign, ...] = ()
        self.intruded: Mapping[UnitKey, str] = {}
        self.haunted: Mapping[UnitKey, str] = {}

    def now(self) -> float:
        """Seconds of the epoch."""
        return self._clock()

    def policies(self) -> Policies:
        """The machine-wide rules in force."""
        return self._policy.current().policies

    def asker(self, uid: int) -> Asker:
        """A user with the limits that hold for him now."""
        user, unix_groups = self._account(uid)
        return asker_of(uid, user, unix_groups, self._policy.current())

    def limits(self, uid: int) -> Limits:
        """All limits of a user."""
        return self._policy.current().limits_for(*self._account(uid))

    def timeouts(self, lease: Lease) -> Timeouts:
        """How long the lease is held in which state; an account that is gone keeps what its group has."""
        try:
            limits = self.limits(lease.uid)
        except PeerRefused:
            limits = self._policy.current().limits_in(lease.group, lease.user)
        return Timeouts(limits.gpu_hold_after_stop_s, self.policies().created_container_timeout_s)

    def require_ledger(self) -> None:
        """Raises `LedgerBroken` while nobody knows who holds what."""
        if self.ledger_problem:
            raise LedgerBroken(
                f"who holds which GPU is unknown, so nothing is granted: {self.ledger_problem}; what runs goes on; "
                "an administrator repairs it with 'ds01 ledger rebuild'"
            )

    def require_engine(self) -> None:
        """Raises `LedgerBroken` or `Unavailable` while who holds what, or what runs, is unknown."""
        self.require_ledger()
        if not self.engine_known:
            raise Unavailable("the Docker engine does not answer, so no GPU is granted; try again in a moment")

    def shadows(self) -> object:
        """What keeps units from being given away beside leases, to be compared with what it was."""
        return self.bypassing, dict(self.intruded), dict(self.haunted)

    def world(self, inventory: Inventory, reserved: frozenset[UnitKey] = frozenset(), without: str = "") -> World:
        """What exists and who holds it; as if the lease `without` were not there."""
        leases = tuple(lease for lease in self.book.leases if lease.id != without)
        longest_s = {uid: self._longest_s(uid) for uid in {lease.uid for lease in leases}}
        ends = {lease.id: end for lease in leases if (end := _end(lease, longest_s[lease.uid])) is not None}
        return World(
            inventory.units,
            leases,
            inventory.withheld,
            {**self.intruded, **occupied(self.bypassing, inventory.units), **self.haunted},
            reserved,
            inventory.links,
            ends,
        )

    def _longest_s(self, uid: int) -> float | None:
        """How long a container of `uid` may run; None without a limit, or where it can't be told."""
        try:
            return self.limits(uid).max_runtime_s
        except Ds01Error:
            return None


def _end(lease: Lease, longest_s: float | None) -> float | None:
    """When a lease is expected to end at the latest: with its hold or its time, or once it has run for `longest_s`, if
    nothing is started again or extended."""
    begins = lease.state in (LeaseState.GRANTED, LeaseState.BOUND, LeaseState.ACTIVE)
    if not begins or lease.kind is LeaseKind.LOGIN:
        return lease.until
    return None if longest_s is None else lease.since + longest_s
