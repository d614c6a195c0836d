"""Builds the create body that the engine gets, from a wish, the limits and what the engine can do. Pure.

Nothing of the client's body is copied but the fields that the tables let pass. `vet` in guard.py is the counter-check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.limits import Limits, Policies
from ds01.common.model import EngineFacts
from ds01.docker_shim.gpus import cdi_request
from ds01.docker_shim.model import HealthTimes, Json, Origin, Owner, Reason, Refused, Wish

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
)
"""The closed set of labels. All are always set, empty where they don't apply: an image's labels are inherited."""

CAP_DROP: tuple[Json, ...] = ("NET_RAW", "MKNOD")
LOG_CONFIG: Mapping[str, Json] = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
VOID = "NVIDIA_VISIBLE_DEVICES=void"
NVIDIA_PREFIX = "NVIDIA_"
MIN_HEALTH_NS = 5_000_000_000
MIN_CPUS_NANO = 10_000_000
"""The engine's own least."""

DAY_S = 24 * 3600
PROPERTY = "org.systemd.property."
"""runc passes annotations of this prefix on to the container's scope."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The limits of one container, decided."""

    memory_bytes: int
    memory_swap_bytes: int
    memory_reservation_bytes: int
    cpus_nano: int
    cpu_shares: int
    pids: int
    shm_bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """A create body of ours, and what its user should know."""

    body: dict[str, Json]
    warnings: tuple[str, ...]


def bound(wish: Wish, limits: Limits) -> Sizes | Refused:
    """The sizes of the container: what was asked for, else the limit; more than the limit is refused."""
    cpu_limit = cpus_to_nano(limits.cpus)
    memory = wish.memory_bytes or limits.memory_bytes
    swap = wish.memory_swap_bytes if wish.memory_swap_bytes is not None else memory
    if wish.memory_swap_bytes is not None and swap != -1 and swap < memory:
        return _malformed(
            f"'--memory-swap' ({_gib(swap)}) is memory and swap together, below the {_gib(memory)} of memory"
        )
    asked = (
        ("--memory", "of memory", memory, limits.memory_bytes, _gib),
        ("--memory-swap", "of memory and swap", swap if swap != -1 else 2**62, limits.memory_bytes, _gib),
        ("--memory-reservation", "of memory", wish.memory_reservation_bytes or 0, memory, _gib),
        ("--cpus", "", wish.cpus_nano or cpu_limit, cpu_limit, _cpus),
        ("--pids-limit", "", wish.pids or limits.pids, limits.pids, _processes),
        ("--shm-size", "of shared memory", wish.shm_bytes or limits.shm_bytes, limits.shm_bytes, _gib),
    )
    for flag, what, requested, limit, shown in asked:
        if requested > limit:
            return _over(flag, what, shown(requested), shown(limit))
        if requested < 0:
            return _malformed(f"'{flag}' is below 0")
    if wish.cpus_nano is not None and wish.cpus_nano < MIN_CPUS_NANO:
        return _malformed(f"'--cpus' is {wish.cpus_nano / 1e9:g}, and must be 0.01 or more")
    if wish.cpu_shares is not None and not 2 <= wish.cpu_shares <= 262_144:
        return _malformed(f"'--cpu-shares' is {wish.cpu_shares}, and must be between 2 and 262144")
    return Sizes(
        memory_bytes=memory,
        memory_swap_bytes=memory if swap == -1 else swap,
        memory_reservation_bytes=wish.memory_reservation_bytes or 0,
        cpus_nano=wish.cpus_nano or cpu_limit,
        cpu_shares=wish.cpu_shares or 0,
        pids=wish.pids or limits.pids,
        shm_bytes=wish.shm_bytes or limits.shm_bytes,
    )


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
    health, health_warnings = _health(wish.health, image)
    config: dict[str, Json] = {**wish.config, "Image": wish.image, "Env": [*env]}
    config["Labels"] = {**wish.labels, **labels(owner, origin, lease)}
    if health:
        config["Healthcheck"] = health
    config["HostConfig"] = _host_config(wish, sizes, owner, lease, last_resort, engine)
    return Built(config, (*wish.gpus.warnings, *env_warnings, *health_warnings))


def backstop(limits: Limits, policies: Policies) -> dict[str, str]:
    """Annotations that make systemd itself end a container, whoever of us is dead: a last resort for one start."""
    longest_s = limits.max_runtime_s + policies.extension_budget_s + DAY_S
    return {
        f"{PROPERTY}RuntimeMaxUSec": f"uint64 {int(longest_s * 1_000_000)}",
        f"{PROPERTY}TimeoutStopUSec": f"uint64 {int(policies.sigterm_grace_s * 1_000_000)}",
    }


def labels(owner: Owner, origin: Origin, lease: str, unmanaged: bool = False) -> dict[str, Json]:
    """Every key of the closed set."""
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
    }
    return {key: said.get(key, "") for key in DS01_LABELS}


def cpus_to_nano(cpus: float) -> int:
    """CPUs as the engine counts them."""
    return round(cpus * 1_000_000_000)


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
        fields["NanoCpus"] = sizes.cpus_nano
    else:
        properties[f"{PROPERTY}CPUQuotaPerSecUSec"] = f"uint64 {sizes.cpus_nano // 1000}"
    if engine.cpu_shares and sizes.cpu_shares:
        fields["CpuShares"] = sizes.cpu_shares
    if engine.memory:
        fields["Memory"] = sizes.memory_bytes
        if sizes.memory_reservation_bytes:
            fields["MemoryReservation"] = sizes.memory_reservation_bytes
        if engine.swap:
            fields["MemorySwap"] = sizes.memory_swap_bytes
    else:
        properties[f"{PROPERTY}MemoryMax"] = f"uint64 {sizes.memory_bytes}"
    if engine.pids:
        fields["PidsLimit"] = sizes.pids
    else:
        properties[f"{PROPERTY}TasksMax"] = f"uint64 {sizes.pids}"
    return fields, properties


def _environment(env: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    kept = [entry for entry in env if not entry.startswith(NVIDIA_PREFIX)]
    removed = sorted({entry.split("=", 1)[0] for entry in env if entry.startswith(NVIDIA_PREFIX)})
    warnings = (f"{', '.join(removed)} was removed: a GPU comes with '--gpus N'",) if removed else ()
    return [*kept, VOID], warnings


def _health(wish: Mapping[str, Json] | None, image: HealthTimes | None) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The health check to send: intervals below five seconds, the user's or the image's own, are raised."""
    sent: dict[str, Json] = dict(wish or {})
    if wish is None and image is None:
        return {}, ()
    from_image = image or HealthTimes()
    warnings: list[str] = []
    for name, inherited in (("Interval", from_image.interval_ns), ("StartInterval", from_image.start_interval_ns)):
        asked = sent.get(name)
        effective = asked if isinstance(asked, int) and asked else inherited
        if effective and effective < MIN_HEALTH_NS:
            sent[name] = MIN_HEALTH_NS
            warnings.append(
                f"the health check's {name} was raised from {effective / 1e9:g} s to {MIN_HEALTH_NS / 1e9:g} s"
            )
    return sent, tuple(warnings)


def _over(flag: str, what: str, requested: str, limit: str) -> Refused:
    asked = f"{requested} {what}".strip()
    return Refused(
        403,
        Reason.OVER_LIMIT,
        f"'{flag}' asks for {asked} in one container, and your limit is {limit}",
        f"ask for {limit} or less",
        limit=limit,
        requested=requested,
    )


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)


def _gib(size_bytes: int) -> str:
    return "no limit" if size_bytes >= 2**62 else f"{size_bytes / 2**30:.4g} GiB"


def _cpus(nano: int) -> str:
    return f"{nano / 1e9:g} CPUs"


def _processes(count: int) -> str:
    return f"{count} processes"
