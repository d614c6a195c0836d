"""Worlds by name, for tables of decisions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ds01.common.limits import Aggregate, Limits
from ds01.common.model import FULL, ContainerFacts, Lease, LeasedUnit, LeaseState, Unit, UnitKey

ALICE, BOB, RITA = 1001, 1002, 1004

STUDENT = Limits(
    max_gpu_equivalents=Fraction(2),
    max_gpu_units_per_container=2,
    max_mig_instances=2,
    allow_full_gpu=False,
    max_containers=3,
    cpus=16.0,
    memory_bytes=32 << 30,
    shm_bytes=8 << 30,
    pids=4096,
    gpu_hold_after_stop_s=900.0,
    max_runtime_s=48 * 3600.0,
    max_connections=64,
    aggregate=Aggregate(3200, 64 << 30, 57 << 30, 12288, 100),
)
RESEARCHER = replace(STUDENT, max_mig_instances=4, max_gpu_units_per_container=4, allow_full_gpu=True)


def instance(gpu: int, position: int, profile: str = "2g.10gb", slices: int = 2) -> Unit:
    """One MIG instance; placements of 2g.10gb are two memory slices wide."""
    key = UnitKey(f"GPU-{gpu}", f"{position * 2}+2")
    return Unit(key, f"{gpu}:{position}", profile, f"MIG-{gpu}-{position}", gpu, Fraction(slices, 7))


def whole(gpu: int) -> Unit:
    """One whole GPU."""
    return Unit(UnitKey(f"GPU-{gpu}"), str(gpu), FULL, f"GPU-{gpu}", gpu, Fraction(1))


REFERENCE_SITE = (*(instance(gpu, position) for gpu in (0, 1) for position in range(3)), whole(2), whole(3))
"""Four A100: GPUs 0 and 1 cut into 3x2g.10gb, 2 and 3 whole."""


def lease(
    uid: int, *units: Unit, state: LeaseState = LeaseState.ACTIVE, until: float | None = None, name: str = ""
) -> Lease:
    """A lease of `uid` on `units` with a container behind it, unless it was only granted."""
    lease_id = name or f"l{uid}-{'-'.join(unit.name for unit in units)}"
    container = "" if state is LeaseState.GRANTED else f"c-{lease_id}"
    return Lease(
        id=lease_id,
        request_id=f"r-{lease_id}",
        uid=uid,
        user=f"user{uid}",
        group="student",
        container=container,
        container_name=f"train._.{uid}",
        count=len(units),
        state=state,
        since=1000.0,
        until=until,
        units=tuple(LeasedUnit(unit.key, unit.name, unit.profile, unit.size) for unit in units),
    )


def container(held: Lease, running: bool = True, restarting: bool = False) -> ContainerFacts:
    """What the engine says of the container behind a lease."""
    return ContainerFacts(
        id=held.container or f"c-{held.id}",
        name=held.container_name,
        owner_uid=held.uid,
        lease=held.id,
        running=running,
        restarting=restarting,
        ever_started=True,
        pid=1 if running else 0,
        cgroup_parent="ds01-student-alice.slice",
    )
