"""What each command makes of a topology. Pure: UUIDs, minors and clocks are arguments."""

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

from .errors import SiteError
from .profiles import Layout, place
from .topology import (
    BUSY_POWER_MW,
    GPU_MEMORY_MIB,
    KEPT_XIDS,
    NOT_OFFERED,
    Gpu,
    Instance,
    Kind,
    Process,
    State,
    Topology,
    Xid,
    power_for,
)

MEMORY_ERRORS = ("ecc", "rowpending", "rowfailed", "pagepending")
RECOVERY = {"not-offered": NOT_OFFERED, "none": 0, "reset": 1, "reboot": 2, "drain-p2p": 3, "drain-and-reset": 4}
LIMITS = {"util": 100, "memutil": 100, "mem": GPU_MEMORY_MIB, "temp": 110, "power": BUSY_POWER_MW // 1000}


def booted(layouts: tuple[Layout, ...], seed: str, now_s: float) -> Topology:
    """The state after a reboot: MIG mode is kept by the GPUs, instances are not."""
    return Topology(tuple(_gpu(index, layout, seed, now_s) for index, layout in enumerate(layouts)))


def _gpu(index: int, layout: Layout, seed: str, now_s: float) -> Gpu:
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    name = uuid.UUID(bytes=digest[:16], version=4)
    serial = f"13{int.from_bytes(digest[16:20]) % 10**11:011d}"
    links = sum(1 << other for other in layout.links)
    return Gpu(index, f"GPU-{name}", serial, minor=index, mig=int(layout.mig), at=round(now_s, 3), links=links)


def instances_in(layouts: tuple[Layout, ...]) -> int:
    return sum(len(layout.profiles) for layout in layouts)


def rebuilt(topology: Topology, layouts: dict[int, Layout], first_minor: int, new_uuid: Callable[[], str]) -> Topology:
    """The named GPUs in their layouts, with instances that nobody has seen before; the others untouched."""
    minors = iter(range(first_minor, first_minor + 2 * instances_in(tuple(layouts.values()))))
    made = {index: tuple(_instances(index, layout, minors, new_uuid)) for index, layout in sorted(layouts.items())}
    kept = (made[gpu.index] if gpu.index in made else topology.of(gpu.index) for gpu in topology.gpus)
    gpus = (replace(g, mig=int(layouts[g.index].mig)) if g.index in layouts else g for g in topology.gpus)
    return replace(topology, gpus=tuple(gpus), instances=tuple(i for instances in kept for i in instances))


def _instances(gpu: int, layout: Layout, minors: Iterator[int], new_uuid: Callable[[], str]) -> Iterator[Instance]:
    for placed in place(layout.profiles):
        yield Instance(
            gpu, placed.gpu_instance, 0, f"MIG-{new_uuid()}", placed.profile, placed.start, next(minors), next(minors)
        )


def parse_target(topology: Topology, text: str) -> tuple[Gpu, Instance | None]:
    """A GPU as `0` or an instance as `0:1`, by indices."""
    gpu_text, colon, number_text = text.partition(":")
    if not gpu_text.isdecimal() or (colon and not number_text.isdecimal()):
        raise SiteError(f"'{text}' names no GPU: write 0, or 0:1 for an instance")
    gpu = topology.gpu(int(gpu_text))
    if not colon:
        return gpu, None
    instances = topology.of(gpu.index)
    if int(number_text) >= len(instances):
        raise SiteError(f"there is no instance '{text}': GPU {gpu.index} has {len(instances)}")
    return gpu, instances[int(number_text)]


def gauges_set(topology: Topology, target: str, settings: dict[str, int], now_s: float) -> Topology:
    """New readings for a GPU (util, memutil, mem in MiB, temp, power in W), or the memory in use of an instance."""
    gpu, instance = parse_target(topology, target)
    known = ", ".join(f"{key} ≤ {most}" for key, most in LIMITS.items())
    for key, value in settings.items():
        if not 0 <= value <= LIMITS.get(key, -1):
            raise SiteError(f"can't set '{key}={value}': known are {known}")
    if instance is None:
        return topology.with_gpu(_gauged(gpu, settings, now_s))
    if settings.keys() != {"mem"}:
        raise SiteError(f"an instance such as '{target}' has no reading but its memory: set mem=")
    changed = replace(instance, mem=settings["mem"])
    return replace(topology, instances=tuple(changed if i == instance else i for i in topology.instances))


def _gauged(gpu: Gpu, settings: dict[str, int], now_s: float) -> Gpu:
    """Power follows use unless it is given; the energy drawn so far is kept, so that the counter never falls."""
    util = settings.get("util", gpu.util)
    power = power_for(util) if "util" in settings else gpu.power
    if "power" in settings:
        power = settings["power"] * 1000
    return replace(
        gpu,
        util=util,
        memutil=settings.get("memutil", gpu.memutil),
        mem=settings.get("mem", gpu.mem),
        temp=settings.get("temp", 34 + util * 2 // 5 if "util" in settings else gpu.temp),
        power=power,
        energy=gpu.energy_at(now_s),
        at=round(now_s, 3),
    )


def health_set(topology: Topology, gpu: int, state: State) -> Topology:
    return topology.with_gpu(replace(topology.gpu(gpu), state=state))


def was_reset(topology: Topology, gpu: int, now_s: float) -> Topology:
    """After `nvidia-smi --gpu-reset`: counters begin anew, the GPU answers, its instances are gone.

    Rows that could not be remapped stay so.
    """
    old = topology.gpu(gpu)
    fresh = replace(
        Gpu(old.index, old.uuid, old.serial, old.minor, mig=old.mig, at=round(now_s, 3)),
        rowfailed=old.rowfailed,
        pagepending=min(old.pagepending, 0),
        recovery=min(old.recovery, 0),
        links=old.links,
        events=old.events,
    )
    others = tuple(instance for instance in topology.instances if instance.gpu != gpu)
    gone = tuple(process for process in topology.processes if process.gpu != gpu)
    return replace(topology.with_gpu(fresh), instances=others, processes=gone)


def memory_errors_set(topology: Topology, gpu: int, settings: dict[str, int]) -> Topology:
    """What NVML says of the GPU's memory: `ecc`, `rowpending`, `rowfailed`, `pagepending`."""
    for key in settings:
        if key not in MEMORY_ERRORS:
            raise SiteError(f"can't set '{key}': known are {', '.join(MEMORY_ERRORS)}")
    return topology.with_gpu(replace(topology.gpu(gpu), **settings))


def recovery_set(topology: Topology, gpu: int, action: str) -> Topology:
    """What the driver says must be done with the GPU; `not-offered` is a driver before R565."""
    if action not in RECOVERY:
        raise SiteError(f"'{action}' is no recovery action: write one of {', '.join(RECOVERY)}")
    return topology.with_gpu(replace(topology.gpu(gpu), recovery=RECOVERY[action]))


def xid_added(topology: Topology, gpu: int, code: int) -> Topology:
    """One more Xid error; only the newest are kept, as in a ring."""
    seq = topology.xids[-1].seq + 1 if topology.xids else 1
    xids = (*topology.xids, Xid(seq, topology.gpu(gpu).index, code))
    return replace(topology, xids=xids[-KEPT_XIDS:])


def process_added(topology: Topology, target: str, pid: int, mem_mib: int, kind: Kind = Kind.COMPUTE) -> Topology:
    """A process on a whole GPU or on an instance; the same pid there is replaced, unless on another list."""
    gpu, instance = parse_target(topology, target)
    if gpu.mig and instance is None:
        raise SiteError(f"GPU {gpu.index} is in MIG mode: a process runs on an instance, such as '{gpu.index}:0'")
    process = Process(gpu.index, instance.gi if instance is not None else -1, pid, mem_mib, kind)
    others = (p for p in topology.processes if replace(p, mem=mem_mib) != process)
    return replace(topology, processes=(*others, process))


def processes_cleared(topology: Topology) -> Topology:
    return replace(topology, processes=())
