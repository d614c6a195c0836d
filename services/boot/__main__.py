"""Wires the boot pass: `python -m ds01.boot`, run once by ds01-boot.service before docker.service."""

from __future__ import annotations

import asyncio
import sys

from ds01.boot.restore import Restored, owners, plan_slices, restore_devices, restore_policy
from ds01.common.adapters.journal import JournalEventLog
from ds01.common.adapters.systemd import Systemd
from ds01.common.cdifiles import CdiFiles
from ds01.common.errors import Ds01Error, LedgerBroken
from ds01.common.inventory import read_inventory
from ds01.common.ledger import LEDGER_FILE, Ledger
from ds01.common.model import Lease
from ds01.common.peer import account
from ds01.common.policyfile import LAST_GOOD, POLICY_FILE
from ds01.common.slices import plan_machine
from ds01.common.slicestate import read_owners


async def restore() -> Restored:
    """The whole pass.

    Raises:
        Ds01Error: limits can't be put in place, so Docker must not start.
    """
    leases, unknown = _leases()
    policy = restore_policy(LAST_GOOD, POLICY_FILE)
    systemd = Systemd()
    for plan in plan_machine(policy.machine):
        await systemd.set_properties(plan.name, plan.properties)
    plans = plan_slices(owners(read_owners(), leases), policy, account)
    for plan in plans:
        await systemd.ensure_slice(plan)
    await systemd.close()
    problems = unknown + await restore_devices(leases, read_inventory, CdiFiles())
    return Restored(tuple(plan.name for plan in plans), tuple(problems))


def _leases() -> tuple[tuple[Lease, ...], list[str]]:
    """The leases, and what is wrong with the ledger: then no container gets a GPU, and everything else starts."""
    if not LEDGER_FILE.exists():
        return (), []
    try:
        ledger = Ledger.open_to_read()
        try:
            return ledger.holding(), []
        finally:
            ledger.close()
    except LedgerBroken as exc:
        return (), [f"{exc}; repair it with 'ds01 ledger rebuild'"]


def main() -> int:
    """0, or 1 where Docker must not start."""
    try:
        JournalEventLog().emit(asyncio.run(restore()).event())
    except Ds01Error as exc:
        sys.stderr.write(f"limits could not be put in place, so Docker is not started: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
