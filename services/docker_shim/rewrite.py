"""Builds the create body that the engine gets, from a wish, the limits and what the engine can do. Pure.

Nothing of the client's body is copied but the fields that the tables let pass. `vet` in guard.py is the counter-check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.limits import Limits, Policies
from ds01.common.model import EngineFacts
from ds01.common.quantity import sizes_apart
from ds01.common.sizes import LABEL, NANO, Asked, ContainerSizes, cpus_to_nano, sizes_for
from ds01.docker_shim.gpus import cdi_request
from ds01.docker_shim.model import GpuWish, HealthTimes, Json, Origin, Owner, Reason, Refused, Wish
from ds01.docker_shim.waitlabel import WAIT_LABEL, wait_text

GPUS_LABEL = "ds01.gpus"
"""What was asked of GPUs, in the allocator's grammar: a ledger that was lost is made anew from it."""

DS01_LABELS = (
    "ds01.uid",
    "ds01.user",
    "ds01.group",
    "ds01.lease",
    "ds01.name",
    "ds01.interface",
    "ds01.request",
    "ds01.managed",
    "ds01.unmanaged",
    "ds01.protected",
    LABEL,
    WAIT_LABEL,
    GPUS_LABEL,
)
"""The closed set of labels. All are always set, empty where they don't apply: an image's labels are inherited."""

CAP_DROP: tuple[Json, ...] = ("NET_RAW", "MKNOD")
LOG_CONFIG: Mapping[str, Json] = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
VOID = "NVIDIA_VISIBLE_DEVICES=void"
NVIDIA_PREFIX = "NVIDIA_"
MIN_CPUS_NANO = 10_000_000
"""The engine's own least."""

DAY_S = 24 * 3600
LONGEST_US = 10**18
"""About as good as for ever, and systemd can still add it to the time of day."""

PROPERTY = "org.systemd.property."
"""runc passes annotations of this prefix on to the container's scope."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The limits of one container, decided. `held` are those that change with the policy while it lives."""

    held: ContainerSizes
    memory_reservation_bytes: int
    cpu_shares: int
    shm_bytes: int
    min_health_ns: int


@dataclass(frozen=True, slots=True)
class Built:
    """A create body of ours, and what its user should know."""

    body: dict[str, Json]
    warnings: tuple[str, ...]


def bound(wish: Wish, limits: Limits, engine_cpus: int) -> Sizes | Refused:
    """The sizes of the container: what was asked for, else the limit; more than the limit is refused.

    `engine_cpus` is how many CPUs the engine sees, 0 = unknown.
    """
    held = sizes_for(wish.asked, limits, engine_cpus)
    sizes = Sizes(
        held=held,
        memory_reservation_bytes=wish.memory_reservation_bytes or 0,
        cpu_shares=wish.cpu_shares or 0,
        shm_bytes=wish.shm_bytes or limits.shm_bytes,
        min_health_ns=health_ns(limits),
    )
    return _senseless(wish) or _over_machine(wish, limits, engine_cpus) or _over_limits(wish, held, limits) or sizes


def build(
    wish: Wish,
    sizes: Sizes,
    owner: Owner,
    origin: Origin,
    lease: str,
    last_resort: Mapping[str, str],
    engine: EngineFacts,
    image: HealthTimes | None,
) -> Built:
    """The body, with `lease` "" where no GPU was asked for; `image` are its own health check's times, if it has one."""
    env, env_warnings = _environment(wish.env)
    health, health_warnings = _health(wish.health, image, sizes.min_health_ns)
    config: dict[str, Json] = {**wish.config, "Image": wish.image, "Env": [*env]}
    config["Labels"] = {**wish.labels, **labels(owner, origin, lease, wish.asked, wish.gpus)}
    if health:
        config["Healthcheck"] = health
    config["HostConfig"] = _host_config(wish, sizes, owner, lease, last_resort, engine)
    return Built(config, (*env_warnings, *health_warnings))


def backstop(limits: Limits, policies: Policies) -> dict[str, str]:
    """Annotations that make systemd itself end a container, whoever of us is dead: a last resort for one start.

    None where the runtime has no limit.
    """
    if limits.max_runtime_s is None:
        return {}
    longest_s = limits.max_runtime_s + policies.extension_budget_s + DAY_S
    return {
        f"{PROPERTY}RuntimeMaxUSec": f"uint64 {min(int(longest_s * 1_000_000), LONGEST_US)}",
        f"{PROPERTY}TimeoutStopUSec": f"uint64 {int(policies.sigterm_grace_s * 1_000_000)}",
    }


def labels(
    owner: Owner, origin: Origin, lease: str, asked: Asked | None, gpus: GpuWish, unmanaged: bool = False
) -> dict[str, Json]:
    """Every key of the closed set. `asked` is None where the sizes are not the policy's."""
    said = {
        "ds01.uid": str(owner.uid),
        "ds01.user": owner.user,
        "ds01.group": owner.group,
        "ds01.lease": lease,
        "ds01.name": origin.name,
        "ds01.interface": origin.interface,
        "ds01.request": origin.request,
        "ds01.managed": "" if unmanaged else "1",
        "ds01.unmanaged": "1" if unmanaged else "",
        LABEL: "" if asked is None else asked.label(),
        WAIT_LABEL: wait_text(gpus.wait_s),
        GPUS_LABEL: gpus.gpus,
    }
    return {key: said.get(key, "") for key in DS01_LABELS}


def health_ns(limits: Limits) -> int:
    """The least time between two health checks, as the engine counts it."""
    return round(limits.min_healthcheck_interval_s * 1_000_000_000)


def _senseless(wish: Wish) -> Refused | None:
    asked = wish.asked
    for flag, requested in (
        ("--memory", asked.memory_bytes),
        ("--memory-swap", asked.memory_swap_bytes),
        ("--memory-reservation", wish.memory_reservation_bytes),
        ("--cpus", asked.cpus_nano),
        ("--pids-limit", asked.pids),
        ("--shm-size", wish.shm_bytes),
    ):
        if requested is not None and requested < 0:
            return _malformed(f"'{flag}' is below 0")
    memory, swap = asked.memory_bytes, asked.memory_swap_bytes
    if memory is not None and swap is not None and swap < memory:
        more, less = sizes_apart(memory, swap)
        return _malformed(f"'--memory-swap' ({less}) is memory and swap together, below the {more} of memory")
    if asked.cpus_nano is not None and asked.cpus_nano < MIN_CPUS_NANO:
        return _malformed(f"'--cpus' is {asked.cpus_nano / NANO:g}, and must be 0.01 or more")
    if wish.cpu_shares is not None and not 2 <= wish.cpu_shares <= 262_144:
        return _malformed(f"'--cpu-shares' is {wish.cpu_shares}, and must be between 2 and 262144")
    return None


def _over_machine(wish: Wish, limits: Limits, engine_cpus: int) -> Refused | None:
    """The engine itself would refuse it; a limit that is less than the machine is told instead."""
    has = engine_cpus * NANO
    requested = wish.asked.cpus_nano or 0
    if not engine_cpus or requested <= has or cpus_to_nano(limits.cpus) < has:
        return None
    return _over("--cpus", _cpus(requested), "", f"this machine has {_cpus(has)}", _cpus(has))


def _over_limits(wish: Wish, held: ContainerSizes, limits: Limits) -> Refused | None:
    asked, most = wish.asked, sizes_for(Asked(), limits, 0)
    for flag, what, requested, limit, shown in (
        ("--memory", " of memory", asked.memory_bytes, most.memory_bytes, sizes_apart),
        ("--memory-swap", " of memory and swap", asked.memory_swap_bytes, most.memory_swap_bytes, sizes_apart),
        ("--memory-reservation", " of memory", wish.memory_reservation_bytes, held.memory_bytes, sizes_apart),
        ("--cpus", "", asked.cpus_nano, most.cpus_nano, _both_cpus),
        ("--pids-limit", "", asked.pids, most.pids, _both_processes),
        ("--shm-size", " of shared memory", wish.shm_bytes, limits.shm_bytes, sizes_apart),
    ):
        if requested is not None and requested > limit:
            much, most_text = shown(requested, limit)
            return _over(flag, much, what, f"your limit is {most_text}", most_text)
    return None


def _host_config(
    wish: Wish, sizes: Sizes, owner: Owner, lease: str, last_resort: Mapping[str, str], engine: EngineFacts
) -> dict[str, Json]:
    can, properties = _applied(sizes, engine)
    found: dict[str, Json] = {
        "CgroupParent": owner.slice,
        "ShmSize": sizes.shm_bytes,
        "OomScoreAdj": 0,
        "CapDrop": [*CAP_DROP],
        "NetworkMode": "default",
        "LogConfig": {**LOG_CONFIG},
        "AutoRemove": wish.auto_remove,
        "Annotations": {**last_resort, **properties},
        **can,
    }
    if wish.init is not None:
        found["Init"] = wish.init
    if wish.restart is not None:
        found["RestartPolicy"] = {**wish.restart}
    if wish.console_size is not None:
        found["ConsoleSize"] = [*wish.console_size]
    if lease:
        found["DeviceRequests"] = cdi_request(lease)
    return found


def _applied(sizes: Sizes, engine: EngineFacts) -> tuple[dict[str, Json], dict[str, str]]:
    """The limits the engine applies, and those that go to the container's scope as systemd's properties."""
    fields: dict[str, Json] = {}
    properties: dict[str, str] = {}
    if engine.cpu_quota:
        fields["NanoCpus"] = sizes.held.cpus_nano
    else:
        properties[f"{PROPERTY}CPUQuotaPerSecUSec"] = f"uint64 {sizes.held.cpus_nano // 1000}"
    if engine.cpu_shares and sizes.cpu_shares:
        fields["CpuShares"] = sizes.cpu_shares
    if engine.memory:
        fields["Memory"] = sizes.held.memory_bytes
        if sizes.memory_reservation_bytes:
            fields["MemoryReservation"] = sizes.memory_reservation_bytes
        if engine.swap:
            fields["MemorySwap"] = sizes.held.memory_swap_bytes
    else:
        properties[f"{PROPERTY}MemoryMax"] = f"uint64 {sizes.held.memory_bytes}"
    if engine.pids:
        fields["PidsLimit"] = sizes.held.pids
    else:
        properties[f"{PROPERTY}TasksMax"] = f"uint64 {sizes.held.pids}"
    return fields, properties


def _environment(env: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    kept = [entry for entry in env if not entry.startswith(NVIDIA_PREFIX)]
    removed = sorted({entry.split("=", 1)[0] for entry in env if entry.startswith(NVIDIA_PREFIX)})
    warnings = (f"{', '.join(removed)} was removed: a GPU comes with '--gpus N'",) if removed else ()
    return [*kept, VOID], warnings


def _health(
    wish: Mapping[str, Json] | None, image: HealthTimes | None, min_ns: int
) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The health check to send: intervals below `min_ns`, the user's or the image's own, are raised."""
    sent: dict[str, Json] = dict(wish or {})
    if wish is None and image is None:
        return {}, ()
    from_image = image or HealthTimes()
    warnings: list[str] = []
    for name, inherited in (("Interval", from_image.interval_ns), ("StartInterval", from_image.start_interval_ns)):
        asked = sent.get(name)
        effective = asked if isinstance(asked, int) and asked else inherited
        if effective and effective < min_ns:
            sent[name] = min_ns
            warnings.append(f"the health check's {name} was raised from {effective / 1e9:g} s to {min_ns / 1e9:g} s")
    return sent, tuple(warnings)


def _over(flag: str, requested: str, what: str, but: str, limit: str) -> Refused:
    return Refused(
        403,
        Reason.OVER_LIMIT,
        f"'{flag}' asks for {requested}{what} in one container, and {but}",
        f"ask for {limit} or less",
        limit=limit,
        requested=requested,
    )


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)


def _cpus(nano: int) -> str:
    return f"{nano / NANO:g} CPU{'' if nano == NANO else 's'}"


def _both_cpus(requested: int, limit: int) -> tuple[str, str]:
    return _cpus(requested), _cpus(limit)


def _both_processes(requested: int, limit: int) -> tuple[str, str]:
    return f"{requested} processes", f"{limit} processes"
