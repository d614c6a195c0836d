"""Where things lie on the host, and the effects on them that are not device nodes: files replaced whole, one writer."""

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import SiteError
from .profiles import Layout, parse_host
from .topology import DRIVER_VERSION, Topology, parse, render

FIRST_MIG_MINOR = 12


@dataclass(frozen=True, slots=True)
class Site:
    """A host's file tree; every path hangs below `root`."""

    root: Path

    @property
    def topology(self) -> Path:
        return self.root / "run/fakegpu/topology"

    @property
    def config(self) -> Path:
        return self.root / "etc/fakegpu"

    @property
    def cdi(self) -> Path:
        return self.root / "etc/cdi/nvidia.yaml"

    @property
    def dev(self) -> Path:
        return self.root / "dev"

    def library_folder(self) -> Path:
        """The folder of the driver's library as the host names it, without the root."""
        found = sorted(self.root.glob(f"usr/lib/*/libnvidia-ml.so.{DRIVER_VERSION}"))
        return Path("/", found[0].parent.relative_to(self.root)) if found else Path("/usr/lib/x86_64-linux-gnu")


def write_whole(path: Path, text: str) -> None:
    """Replaces the file by rename within its folder, durably, readable for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def only_writer(site: Site) -> Iterator[None]:
    """Holds off other writers of the topology until the block ends."""
    site.topology.parent.mkdir(parents=True, exist_ok=True)
    with (site.topology.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def load(site: Site) -> Topology:
    try:
        return parse(site.topology.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise SiteError("no driver is loaded here: run 'fakegpu boot' first, with GPUs in /etc/fakegpu/site") from exc


def save(site: Site, topology: Topology) -> None:
    write_whole(site.topology, render(topology))


def configured(site: Site) -> tuple[Layout, ...]:
    """The layouts of the administrator's file: the first line that is not a comment."""
    path = site.config / "site"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as exc:
        raise SiteError(f"'{path}' is missing: write the host's GPUs there, such as '3x2g.10gb,full'") from exc
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise SiteError(f"'{path}' names no GPUs: write a layout such as '3x2g.10gb,full', or 'none'")
    return parse_host(words[0])


def seed(site: Site) -> str:
    """What makes this host's GPUs its own; drawn once."""
    path = site.config / "seed"
    if not path.exists():
        write_whole(path, secrets.token_hex(8) + "\n")
    return path.read_text(encoding="utf-8").strip()


def take_mig_minors(site: Site, count: int) -> int:
    """The first of `count` capability minors that this host has never used, across reboots too."""
    path = site.config / "next-mig-minor"
    first = int(path.read_text(encoding="utf-8")) if path.exists() else FIRST_MIG_MINOR
    write_whole(path, f"{first + count}\n")
    return first


def offer_library(site: Site, *, present: bool) -> None:
    """Makes or removes the name under which programs load the driver's library, where it is installed."""
    folder = site.root / site.library_folder().relative_to("/")
    link = folder / "libnvidia-ml.so.1"
    link.unlink(missing_ok=True)
    target = f"libnvidia-ml.so.{DRIVER_VERSION}"
    if present and (folder / target).exists():
        link.symlink_to(target)


def now_s() -> float:
    """Seconds since boot, the clock in which the library counts energy."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
