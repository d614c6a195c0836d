"""Worlds by name, for tables of decisions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ds01.common.limits import Aggregate, GpuTotal, Group, Lifecycle, Limits, MachineLimits, Policies, Policy
from ds01.common.model import (
    FULL,
    ContainerFacts,
    Lease,
    LeasedUnit,
    LeaseKind,
    LeaseState,
    Unit,
    UnitKey,
    Waiter,
)
from ds01.gpu_allocator.world import Asker, asker_of

ALICE, BOB, RITA = 1001, 1002, 1004

STUDENT = Limits(
    max_gpu_equivalents=Fraction(2),
    max_gpu_units_per_container=2,
    max_mig_instances=2,
    allow_full_gpu=False,
    max_containers=3,
    cpus=16.0,
    memory_bytes=32 << 30,
    memory_swap_bytes=32 << 30,
    shm_bytes=8 << 30,
    pids=4096,
    idle_timeout_s=1800.0,
    max_runtime_s=48 * 3600.0,
    gpu_hold_after_stop_s=900.0,
    container_hold_after_stop_s=1800.0,
    priority=100,
    max_connections=64,
    max_streams=64,
    max_networks=2,
    max_volumes=20,
    max_disk_bytes=100 << 30,
    min_healthcheck_interval_s=5.0,
    aggregate=Aggregate(3200, 64 << 30, 57 << 30, 12288, 100),
    login=Aggregate(3200, 32 << 30, 28 << 30, 3276, 100),
    lifecycle=Lifecycle(5.0, 2.0, 1 << 20, 1 << 20, "stop", "unknown"),
    binds={"~": "rw"},
    wishes={"privileged": "drop", "host_network": "drop"},
)
RESEARCHER = replace(STUDENT, max_mig_instances=4, max_gpu_units_per_container=4, allow_full_gpu=True)

MACHINE = MachineLimits(
    root=Aggregate(6300, 230 << 30, 200 << 30, 26000, 80),
    engine=Aggregate(memory_max_bytes=128 << 30, tasks_max=13000, cpu_weight=200),
    jobs=Aggregate(1600, 32 << 30, 28 << 30, 1600, 50),
    has_cpus=64,
    has_memory_bytes=256 << 30,
    has_tasks=32768,
)


def policy_of(limits: Limits, gpu_total: GpuTotal = GpuTotal()) -> Policy:  # noqa: B008 (it is immutable)
    """A policy of one group, `student`, in which everybody is."""
    group = Group("student", limits, Aggregate(), frozenset(), frozenset(), {}, gpu_total=gpu_total)
    return Policy("student", {"student": group}, {}, Policies(), MACHINE)


def asker(uid: int, limits: Limits = STUDENT, gpu_total: GpuTotal = GpuTotal()) -> Asker:  # noqa: B008
    """A user with these limits, in a group of which all together may have `gpu_total`."""
    return asker_of(uid, f"user{uid}", (), policy_of(limits, gpu_total))


def instance(gpu: int, position: int, profile: str = "2g.10gb", slices: int = 2) -> Unit:
    """One MIG instance; placements of 2g.10gb are two memory slices wide."""
    key = UnitKey(f"GPU-{gpu}", f"{position * 2}+2")
    return Unit(key, f"{gpu}:{position}", profile, f"MIG-{gpu}-{position}", gpu, Fraction(slices, 7))


def whole(gpu: int) -> Unit:
    """One whole GPU."""
    return Unit(UnitKey(f"GPU-{gpu}"), str(gpu), FULL, f"GPU-{gpu}", gpu, Fraction(1))


REFERENCE_SITE = (*(instance(gpu, position) for gpu in (0, 1) for position in range(3)), whole(2), whole(3))
"""Four A100: GPUs 0 and 1 cut into 3x2g.10gb, 2 and 3 whole."""

CUT_ANEW = (whole(0), *(instance(gpu, position) for gpu in (1, 2) for position in range(3)), whole(3))
"""The same machine after GPU 0 was joined and GPU 2 was cut."""


def lease(
    uid: int,
    *units: Unit,
    state: LeaseState = LeaseState.ACTIVE,
    until: float | None = None,
    name: str = "",
    kind: LeaseKind = LeaseKind.CONTAINER,
) -> Lease:
    """A lease of `uid` on `units`; one of a container has it behind it, unless it was only granted."""
    lease_id = name or f"l{uid}-{'-'.join(unit.name for unit in units)}"
    container = "" if state is LeaseState.GRANTED or kind is not LeaseKind.CONTAINER else f"c-{lease_id}"
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
        kind=kind,
        request=str(len(units)),
    )


def waiter(uid: int, request: str = "1", since: float = 1000.0, name: str = "") -> Waiter:
    """Somebody in the queue."""
    request_id = name or f"w{uid}-{since:.0f}"
    return Waiter(request_id, uid, f"user{uid}", "student", request, "train", LeaseKind.CONTAINER, since, None)


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
