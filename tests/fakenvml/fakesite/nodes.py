"""Device nodes as the driver makes them, with their /dev/char links. The majors belong to no driver of this kernel."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from .errors import SiteError
from .topology import Topology

GPU_MAJOR = 195
CONTROL_MINOR = 255
UVM_MAJOR = 420
CAPS_MAJOR = 421
PRETENDED_DEVICES = Path("/run/proc-devices")
"""Where the test host lists our majors as a loaded driver would; they were checked before."""
MODE = 0o666


@dataclass(frozen=True, slots=True)
class Node:
    """A character device; the path is relative to /dev."""

    path: str
    major: int
    minor: int

    @property
    def link(self) -> str:
        return f"char/{self.major}:{self.minor}"


def wanted(topology: Topology) -> tuple[Node, ...]:
    """Every node that the driver shows in this state."""
    nodes = [
        Node("nvidiactl", GPU_MAJOR, CONTROL_MINOR),
        Node("nvidia-uvm", UVM_MAJOR, 0),
        Node("nvidia-uvm-tools", UVM_MAJOR, 1),
    ]
    nodes += [Node(f"nvidia{gpu.minor}", GPU_MAJOR, gpu.minor) for gpu in topology.gpus]
    minors = [1, 2] if any(gpu.mig for gpu in topology.gpus) else []
    minors += [minor for instance in topology.instances for minor in (instance.gicap, instance.cicap)]
    nodes += [Node(f"nvidia-caps/nvidia-cap{minor}", CAPS_MAJOR, minor) for minor in minors]
    return tuple(nodes)


def make(dev: Path, topology: Topology | None) -> None:
    """Makes what is missing and removes what is gone; None is a host without a driver."""
    nodes = wanted(topology) if topology is not None else ()
    if not PRETENDED_DEVICES.exists():
        check_majors(Path("/proc/devices").read_text(encoding="ascii"))
    _remove_others(dev, {node.path for node in nodes}, {node.link for node in nodes})
    for node in nodes:
        _make(dev, node)


def check_majors(proc_devices: str) -> None:
    """Refuses when a driver of this kernel owns one of our numbers: the nodes would open real hardware."""
    characters = proc_devices.split("Block devices:")[0]
    pairs = [line.split() for line in characters.splitlines()]
    for major in (GPU_MAJOR, UVM_MAJOR, CAPS_MAJOR):
        for owner in (pair[1] for pair in pairs if len(pair) == 2 and pair[0] == str(major)):
            raise SiteError(f"device major {major} belongs to the driver '{owner}' of this kernel")


def _remove_others(dev: Path, paths: set[str], links: set[str]) -> None:
    ours = [*dev.glob("nvidia*"), *dev.glob("nvidia-caps/nvidia-cap*")]
    for path in ours:
        if not path.is_dir() and str(path.relative_to(dev)) not in paths:
            path.unlink()
    for major in (GPU_MAJOR, UVM_MAJOR, CAPS_MAJOR):
        for link in dev.glob(f"char/{major}:*"):
            if str(link.relative_to(dev)) not in links:
                link.unlink()


def _make(dev: Path, node: Node) -> None:
    path, link = dev / node.path, dev / node.link
    for folder in (path.parent, link.parent):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    device = os.makedev(node.major, node.minor)
    if not _is_device(path, device):
        path.unlink(missing_ok=True)
        try:
            os.mknod(path, MODE | stat.S_IFCHR, device)
        except PermissionError as exc:
            raise SiteError(f"may not make the device node '{path}': it takes root with CAP_MKNOD") from exc
        path.chmod(MODE)
    if not link.is_symlink():
        link.symlink_to(f"../{node.path}")


def _is_device(path: Path, device: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == device
