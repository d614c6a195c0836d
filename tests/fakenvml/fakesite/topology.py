"""The topology as records and as the text that the library reads: one line each, a kind and key=value. Pure."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, TypeVar

from .errors import SiteError

DRIVER_VERSION = "570.124.06"
GPU_MEMORY_MIB = 40960
KEPT_XIDS = 64
NOT_OFFERED = -1
IDLE_POWER_MW = 52_000
BUSY_POWER_MW = 400_000


class State(StrEnum):
    OK = "ok"
    LOST = "lost"
    HANG = "hang"


class Kind(StrEnum):
    """Which of NVML's lists of processes one is on."""

    COMPUTE = "compute"
    GRAPHICS = "graphics"
    MPS = "mps"


@dataclass(frozen=True, slots=True)
class Gpu:
    """`links` has bit N set where NVLink leads to GPU N.

    `ecc` counts the uncorrectable errors since the driver was loaded, `recovery` is NVML_GPU_RECOVERY_ACTION_*, and
    NOT_OFFERED stands for what this GPU or driver does not know.
    """

    index: int
    uuid: str
    serial: str
    minor: int
    mig: int = 0
    state: State = State.OK
    util: int = 0
    memutil: int = 0
    mem: int = 0
    temp: int = 34
    power: int = IDLE_POWER_MW
    energy: int = 0
    at: float = 0.0
    ecc: int = 0
    rowpending: int = 0
    rowfailed: int = 0
    pagepending: int = NOT_OFFERED
    recovery: int = 0
    links: int = 0
    events: int = 1

    def energy_at(self, now_s: float) -> int:
        """Millijoules since the driver was loaded, as the library counts them."""
        return self.energy + int(max(0.0, now_s - self.at) * self.power)


@dataclass(frozen=True, slots=True)
class Instance:
    gpu: int
    gi: int
    ci: int
    uuid: str
    profile: str
    start: int
    gicap: int
    cicap: int
    mem: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """`gi` is -1 on a whole GPU, `mem` in MiB or NOT_OFFERED, `kind` as in NVML's lists."""

    gpu: int
    gi: int
    pid: int
    mem: int
    kind: Kind = Kind.COMPUTE


@dataclass(frozen=True, slots=True)
class Xid:
    seq: int
    gpu: int
    code: int


@dataclass(frozen=True, slots=True)
class Topology:
    gpus: tuple[Gpu, ...]
    instances: tuple[Instance, ...] = ()
    processes: tuple[Process, ...] = ()
    xids: tuple[Xid, ...] = ()
    mismatch: bool = False

    def gpu(self, index: int) -> Gpu:
        if not 0 <= index < len(self.gpus):
            raise SiteError(f"there is no GPU '{index}': this host has {len(self.gpus)}")
        return self.gpus[index]

    def of(self, gpu: int) -> tuple[Instance, ...]:
        """A GPU's instances in the order of their MIG indices."""
        return tuple(instance for instance in self.instances if instance.gpu == gpu)

    def with_gpu(self, gpu: Gpu) -> "Topology":
        return replace(self, gpus=tuple(gpu if old.index == gpu.index else old for old in self.gpus))


_KINDS: dict[str, type] = {"gpu": Gpu, "instance": Instance, "process": Process, "xid": Xid}
_CONVERT: dict[str, Callable[[str], object]] = {
    "uuid": str,
    "serial": str,
    "profile": str,
    "state": State,
    "kind": Kind,
    "at": float,
}
_Record = TypeVar("_Record")


def render(topology: Topology) -> str:
    """The file's text; GPUs come before what refers to them."""
    lines = [
        "# The simulated driver's state: changed by fakegpu, read by libnvidia-ml.so.1.",
        f"driver version={DRIVER_VERSION} nvml=12.{DRIVER_VERSION} cuda=12080 mismatch={int(topology.mismatch)}",
    ]
    records: list[Gpu | Instance | Process | Xid] = [*topology.gpus, *topology.instances]
    records += [*topology.processes, *topology.xids]
    lines += [_line(record) for record in records]
    return "\n".join(lines) + "\n"


def _line(record: Gpu | Instance | Process | Xid) -> str:
    words = [f"{item.name}={getattr(record, item.name)}" for item in fields(record)]
    return " ".join([type(record).__name__.lower(), *words])


def parse(text: str) -> Topology:
    """The inverse of `render`."""
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    mismatch = False
    for line in text.splitlines():
        kind, *words = line.split()
        if kind in _KINDS:
            found[kind].append(_record(_KINDS[kind], dict(word.split("=", 1) for word in words)))
        elif kind == "driver":
            mismatch = "mismatch=1" in words
    return Topology(*(tuple(found[kind]) for kind in _KINDS), mismatch=mismatch)


def _record(kind: type[_Record], words: dict[str, str]) -> _Record:
    return kind(**{key: _CONVERT.get(key, int)(value) for key, value in words.items()})


def power_for(util: int) -> int:
    """Milliwatts that a GPU draws at this use, in percent."""
    return IDLE_POWER_MW + (BUSY_POWER_MW - IDLE_POWER_MW) * util // 100
