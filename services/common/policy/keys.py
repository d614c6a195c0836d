"""Every key of /etc/ds01/resource-limits.yaml: what it takes, what holds where it is absent, who makes it hold.

The one list. The reader, the reference file, the man page and docs/POLICY.md come from it or are checked against it.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from ds01.common.policy.kinds import Kind

UNLIMITED = "unlimited"
DERIVED = ""
"""The default of a key that is worked out from others where nobody says it."""


class Layer(StrEnum):
    """Where a key may stand."""

    MACHINE = "top level"
    USER = "defaults, a group, a user"
    BOTH = "top level, defaults, a group, a user"
    GROUP = "a group"


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `name` has its section before the dot, as `field`, its name in the compiled policy, has.

    `default` is YAML text; `optional` says that `unlimited` may be written; `held_by` is the service that makes it
    hold, '' while none does. `capped` values must not be above what the machine has.
    """

    name: str
    field: str
    kind: Kind
    default: str
    text: str
    held_by: str
    place: Layer = Layer.USER
    optional: bool = False
    capped: bool = False
    least: int = 0
    choices: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """`aggregate` of `aggregate.memory_max`, '' for a key of no section."""
        return self.name.rpartition(".")[0]


_SHIM, _ALLOCATOR, _SYNC = "docker_shim", "gpu_allocator", "limits_sync"


def _user(name: str, field: str, kind: Kind, default: str, held_by: str, text: str, **more: object) -> Key:
    return replace(Key(name, field, kind, default, text, held_by), **more)  # type: ignore[arg-type]


PER_USER = (
    _user("max_gpu_equivalents", "max_gpu_equivalents", Kind.GPUS, "1", _ALLOCATOR,
          "GPUs leased by one user at a time, holds included; a MIG instance counts its compute slices / 7",
          optional=True),
    _user("max_gpu_slots_per_container", "max_gpu_units_per_container", Kind.COUNT, "1", _ALLOCATOR,
          "GPU units (whole GPUs or MIG instances) of one container", optional=True),
    _user("max_mig_instances", "max_mig_instances", Kind.COUNT, UNLIMITED, _ALLOCATOR,
          "MIG instances leased by one user at a time; holds beside max_gpu_equivalents", optional=True),
    _user("allow_full_gpu", "allow_full_gpu", Kind.FLAG, "false", _ALLOCATOR,
          "whether a whole GPU may be leased"),
    _user("max_cpus", "cpus", Kind.CPUS, "25% of machine", _SHIM, "CPUs of one container", capped=True),
    _user("memory", "memory_bytes", Kind.SIZE, "12.5% of machine", _SHIM, "memory of one container",
          capped=True, least=6 * 2**20),
    _user("memory_swap", "memory_swap_bytes", Kind.SIZE, DERIVED, _SHIM,
          "memory and swap of one container together, as for 'docker run --memory-swap'; absent: as much as memory,"
          " that is no swap", least=6 * 2**20),
    _user("shm_size", "shm_bytes", Kind.SIZE, "3% of machine", _SHIM, "/dev/shm of one container",
          capped=True, least=1),
    _user("pids_limit", "pids", Kind.COUNT, "4096", _SHIM, "processes and threads of one container", least=1),
    _user("max_containers_per_user", "max_containers", Kind.COUNT, "3", _SHIM,
          "containers of one user, stopped ones included", optional=True),
    _user("idle_timeout", "idle_timeout_s", Kind.DURATION, "30m", "", "how long a container may be idle",
          optional=True, least=60),
    _user("max_runtime", "max_runtime_s", Kind.DURATION, "24h", _SHIM,
          "how long a container may run; systemd ends one start at this, the whole extension budget and 24 h more",
          optional=True, least=60),
    _user("gpu_hold_after_stop", "gpu_hold_after_stop_s", Kind.DURATION, "15m", _ALLOCATOR,
          "how long a stopped container keeps its GPU units"),
    _user("container_hold_after_stop", "container_hold_after_stop_s", Kind.DURATION, "30m", "",
          "how long a stopped container is kept", optional=True),
    _user("priority", "priority", Kind.WEIGHT, "100", _ALLOCATOR,
          "weight in the GPU queue; with twice as much, the same GPU time counts half"),
)  # fmt: skip

_SLICE = (
    ("cpu_quota", "cpu_quota_percent", Kind.QUOTA, "CPUs at most", True, 0),
    ("memory_max", "memory_max_bytes", Kind.SIZE, "memory at most; beyond it the kernel kills", True, 2**20),
    (
        "memory_high",
        "memory_high_bytes",
        Kind.SIZE,
        "memory at which the kernel slows down and takes back",
        True,
        2**20,
    ),
    ("tasks_max", "tasks_max", Kind.TASKS, "processes and threads at most", True, 1),
    ("cpu_weight", "cpu_weight", Kind.WEIGHT, "share of the CPUs when they are all wanted", False, 0),
)


def _slice(section: str, whose: str, place: Layer, defaults: tuple[str, str, str, str, str]) -> tuple[Key, ...]:
    return tuple(
        Key(
            f"{section}.{name}", f"{section}.{field}", kind, default, f"{whose}: {text}", _SYNC, place,
            optional=kind is not Kind.WEIGHT, capped=capped, least=least,
        )
        for (name, field, kind, text, capped, least), default in zip(_SLICE, defaults, strict=True)
    )  # fmt: skip


AGGREGATE = _slice(
    "aggregate", "all containers of one user together", Layer.USER, (DERIVED, DERIVED, DERIVED, DERIVED, "100")
)
LOGIN = _slice(
    "login", "a user's login sessions", Layer.BOTH,
    ("50% of machine", "25% of machine", DERIVED, "10% of machine", "100"),
)  # fmt: skip
TOTAL = (
    *_slice("total", "everybody in the group together", Layer.GROUP,
            (UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED, "100")),
    Key("total.max_gpu_equivalents", "total.max_gpu_equivalents", Kind.GPUS, UNLIMITED,
        "everybody in the group together: GPUs leased at a time, holds included", _ALLOCATOR, Layer.GROUP,
        optional=True),
    Key("total.max_mig_instances", "total.max_mig_instances", Kind.COUNT, UNLIMITED,
        "everybody in the group together: MIG instances leased at a time", _ALLOCATOR, Layer.GROUP, optional=True),
)  # fmt: skip
ENGINE = _slice(
    "engine", "dockerd and what nobody placed (docker.slice)", Layer.MACHINE,
    (UNLIMITED, "50% of machine", UNLIMITED, "40% of machine", "200"),
)  # fmt: skip
JOBS = _slice(
    "jobs", "cron, and at, each with all its jobs", Layer.MACHINE,
    ("25% of machine", "12.5% of machine", DERIVED, "5% of machine", "50"),
)  # fmt: skip

RESERVE = (
    Key("reserve.cpus", "reserve.cpus", Kind.CPUS, "2% of machine",
        "CPUs that all containers together leave to the system", _SYNC, Layer.MACHINE, capped=True),
    Key("reserve.memory", "reserve.memory_bytes", Kind.SIZE, "10% of machine",
        "memory that all containers together leave to the system", _SYNC, Layer.MACHINE, capped=True),
)  # fmt: skip

BUDGETS = (
    Key("max_connections", "max_connections", Kind.COUNT, "32", "connections to the Docker socket at a time", _SHIM,
        Layer.BOTH, least=1),
    Key("max_streams", "max_streams", Kind.COUNT, "24", "logs, attach, exec and wait streams open at a time", _SHIM,
        Layer.BOTH, least=1),
    Key("max_networks", "max_networks", Kind.COUNT, "2", "networks of one user", "", Layer.BOTH),
    Key("max_volumes", "max_volumes", Kind.COUNT, "20", "volumes of one user", "", Layer.BOTH),
    Key("max_disk", "max_disk_bytes", Kind.SIZE, "100g", "disk used by a user's containers, images and volumes", "",
        Layer.BOTH, optional=True),
    Key("min_healthcheck_interval", "min_healthcheck_interval_s", Kind.DURATION, "5s",
        "the least time between two health checks of a container; an image's own is raised to it", _SHIM, Layer.BOTH,
        least=1),
)  # fmt: skip

_REFUSE_DROP, _ALL = ("refuse", "drop"), ("refuse", "drop", "allow")


def _wish(name: str, default: str, choices: tuple[str, ...], text: str) -> Key:
    return Key(f"wishes.{name}", f"wishes.{name}", Kind.CHOICE, default, text, "", Layer.BOTH, choices=choices)


WISHES = (
    _wish("privileged", "drop", _REFUSE_DROP, "'docker run --privileged'"),
    _wish("host_network", "drop", _ALL, "'--network host'"),
    _wish("host_ipc", "drop", _REFUSE_DROP, "'--ipc host'"),
    _wish("host_pid", "refuse", _REFUSE_DROP, "'--pid host'"),
    _wish("devices", "drop", _REFUSE_DROP, "'--device' of anything but a GPU"),
    _wish("capabilities", "drop", _REFUSE_DROP, "'--cap-add' beyond the default set"),
    _wish("security_options", "drop", _REFUSE_DROP, "'--security-opt' that takes protection away"),
    _wish("other_binds", "refuse", _REFUSE_DROP, "'-v' of a host path that 'binds' does not allow"),
    _wish("published_ports", "allow", _ALL, "'-p', on the loopback address"),
)


def _policy(
    name: str, field: str, kind: Kind, default: str, held_by: str, text: str, place: Layer = Layer.MACHINE,
    **more: object,
) -> Key:  # fmt: skip
    made = Key(f"policies.{name}", f"policies.{field}", kind, default, text, held_by, place)
    return replace(made, **more)  # type: ignore[arg-type]


POLICIES = (
    _policy("gpu_idle_threshold", "gpu_idle_threshold_percent", Kind.PERCENT, "5%", "",
            "GPU use below which a container is idle", Layer.BOTH),
    _policy("cpu_idle_threshold", "cpu_idle_threshold_percent", Kind.PERCENT, "2%", "",
            "CPU use, of one CPU, below which a container is idle", Layer.BOTH),
    _policy("network_idle_threshold", "network_idle_threshold_bytes", Kind.SIZE, "1MiB", "",
            "network traffic in five minutes below which a container is idle", Layer.BOTH),
    _policy("disk_idle_threshold", "disk_idle_threshold_bytes", Kind.SIZE, "1MiB", "",
            "disk traffic in five minutes below which a container is idle", Layer.BOTH),
    _policy("idle_action", "idle_action", Kind.CHOICE, "stop", "",
            "what becomes of an idle container: park keeps it and its files", Layer.BOTH, choices=("park", "stop")),
    _policy("idle_without_gpu_signal", "idle_without_gpu_signal", Kind.CHOICE, "unknown", "",
            "how a GPU that tells no use is judged: as unknown, or by CPU alone", Layer.BOTH,
            choices=("unknown", "cpu")),
    _policy("sigterm_grace", "sigterm_grace_s", Kind.DURATION, "60s", _SHIM,
            "between SIGTERM and SIGKILL when a container is stopped"),
    _policy("idle_warnings", "idle_warnings", Kind.WARNINGS, "[50%, 80%, 95%]", "",
            "parts of idle_timeout at which the owner is warned"),
    _policy("runtime_warnings", "runtime_warnings", Kind.WARNINGS, "[75%, 90%]", "",
            "parts of max_runtime at which the owner is warned"),
    _policy("final_warning_lead", "final_warning_lead_s", Kind.DURATION, "10m", "",
            "the least time between the last warning and a stop"),
    _policy("notice_grace", "notice_grace_s", Kind.DURATION, "1h", "",
            "how long a warning that could not be delivered is posted before it counts"),
    _policy("unknown_alert", "unknown_alert_s", Kind.DURATION, "2h", "",
            "how long a container's use may be unknown before an administrator is told"),
    _policy("runtime_window", "runtime_window_s", Kind.DURATION, "7d", "",
            "the time over which starts of one container are added up"),
    _policy("extension_budget", "extension_budget_s", Kind.DURATION, "72h", _SHIM,
            "how much a user may extend the runtime of containers in a month"),
    _policy("keepalive_max_duration", "keepalive_max_duration_s", Kind.DURATION, "24h", "",
            "how long 'container keep' holds off the idle timeout"),
    _policy("created_container_timeout", "created_container_timeout_s", Kind.DURATION, "30m", _ALLOCATOR,
            "how long a container that was never started keeps its GPU"),
    _policy("granted_timeout", "granted_timeout_s", Kind.DURATION, "60s", _ALLOCATOR,
            "how long a lease waits for its container", least=1),
    _policy("gpus_all_means", "gpus_all_means", Kind.COUNT, "1", _ALLOCATOR,
            "how many units '--gpus all' asks for", least=1),
    _policy("high_demand_threshold", "high_demand_threshold_percent", Kind.PERCENT, "80%", "",
            "part of the units in use from which idle timeouts shrink"),
    _policy("high_demand_idle_reduction", "high_demand_idle_reduction_percent", Kind.PERCENT, "50%", "",
            "what is left of an idle timeout then"),
    _policy("fair_share_half_life", "fair_share_half_life_s", Kind.DURATION, "7d", _ALLOCATOR,
            "after what time used GPU time counts half in the queue", least=1),
    _policy("shrink_grace", "shrink_grace_s", Kind.DURATION, "30m", _SYNC,
            "how long memory in use beyond a lowered limit is left alone before the limit holds all the same"),
)  # fmt: skip

KEYS = (
    *PER_USER, *AGGREGATE, *LOGIN, *BUDGETS, *WISHES, *TOTAL, *POLICIES, *RESERVE, *ENGINE, *JOBS,
)  # fmt: skip
BY_NAME = {key.name: key for key in KEYS}
BY_FIELD = {key.field: key for key in KEYS}

BIND_MODES = ("ro", "rw", "none")
DEFAULT_BINDS = {"~": "rw"}
STRUCTURE = ("default_group", "defaults", "groups", "user_overrides", "exemptions", "binds")
EXEMPT_FROM = ("idle_timeout", "max_runtime")

SECTIONS = {
    "aggregate": "Limits of everything one user runs in containers; absent ones follow from the container's limits and"
    " max_containers_per_user",
    "login": "Limits of a user's login sessions",
    "jobs": "Limits of cron and at, where everybody's jobs run",
    "total": "Limits of a whole group",
    "engine": "Limits of docker.slice: the engine, and containers that nobody placed",
    "reserve": "What all containers together leave to the system (ds01.slice has the rest)",
    "wishes": "What happens to options that ask for too much: refuse, drop with a warning, or allow",
    "policies": "Rules of time, idleness and the queue",
}


def allowed(layer: str) -> dict[str, Key]:
    """The keys that may stand in a layer (`machine`, `group` or `user`), by name."""
    places = {
        "machine": (Layer.MACHINE, Layer.BOTH),
        "group": (Layer.USER, Layer.BOTH, Layer.GROUP),
        "user": (Layer.USER, Layer.BOTH),
    }[layer]
    return {key.name: key for key in KEYS if key.place in places}
