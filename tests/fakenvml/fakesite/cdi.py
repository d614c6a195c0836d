"""The vendor's CDI specification in the form that `nvidia-ctk cdi generate` writes. Pure: topology in, text out."""

from pathlib import Path

from .topology import DRIVER_VERSION, Topology

HOOK = "/usr/bin/nvidia-cdi-hook"
RUN_FOLDER = "/run/fakegpu"


def render(topology: Topology, library_folder: Path) -> str | None:
    """The file's text; None when no GPU offers anything, since CDI forbids a specification without devices."""
    devices = _devices(topology)
    if not devices:
        return None
    every_path = tuple(sorted({path for _, paths in devices for path in paths}))
    lines = ["---", "cdiVersion: 0.5.0", *_common_edits(library_folder), "devices:"]
    for name, paths in (*devices, ("all", every_path)):
        lines += _device(name, paths)
    lines.append("kind: nvidia.com/gpu")
    return "\n".join(lines) + "\n"


def _devices(topology: Topology) -> list[tuple[str, tuple[str, ...]]]:
    """Names and nodes: by index first, then by UUID; a GPU in MIG mode offers only its instances."""
    by_index: list[tuple[str, tuple[str, ...]]] = []
    by_uuid: list[tuple[str, tuple[str, ...]]] = []
    for gpu in topology.gpus:
        node = f"/dev/nvidia{gpu.minor}"
        if not gpu.mig:
            by_index.append((str(gpu.index), (node,)))
            by_uuid.append((gpu.uuid, (node,)))
        for number, instance in enumerate(topology.of(gpu.index)):
            caps = tuple(f"/dev/nvidia-caps/nvidia-cap{minor}" for minor in (instance.gicap, instance.cicap))
            by_index.append((f"{gpu.index}:{number}", (node, *caps)))
            by_uuid.append((instance.uuid, (node, *caps)))
    return by_index + by_uuid


def _device(name: str, paths: tuple[str, ...]) -> list[str]:
    quoted = f'"{name}"' if name[0].isdigit() else name
    nodes = [f"    - path: {path}" for path in paths]
    return ["- containerEdits:", "    deviceNodes:", *nodes, f"  name: {quoted}"]


def _common_edits(library_folder: Path) -> list[str]:
    library = f"{library_folder}/libnvidia-ml.so.{DRIVER_VERSION}"
    soname = f"{library_folder}/libnvidia-ml.so.1"
    return [
        "containerEdits:",
        "  deviceNodes:",
        *(f"  - path: /dev/{name}" for name in ("nvidia-uvm", "nvidia-uvm-tools", "nvidiactl")),
        "  env:",
        "  - NVIDIA_VISIBLE_DEVICES=void",
        "  hooks:",
        *_hook("create-symlinks", "--link", f"libnvidia-ml.so.1::{library_folder}/libnvidia-ml.so"),
        *_hook("enable-cuda-compat", f"--host-driver-version={DRIVER_VERSION}"),
        *_hook("update-ldcache", "--folder", str(library_folder)),
        "  mounts:",
        *_mount(library),
        *_mount(soname),
        *_mount(RUN_FOLDER),
    ]


def _hook(name: str, *arguments: str) -> list[str]:
    words = ("nvidia-cdi-hook", name, *arguments)
    return ["  - args:", *(f"    - {word}" for word in words), "    hookName: createContainer", f"    path: {HOOK}"]


def _mount(path: str) -> list[str]:
    options = ("ro", "nosuid", "nodev", "rbind", "rprivate")
    return [f"  - containerPath: {path}", f"    hostPath: {path}", "    options:", *(f"    - {o}" for o in options)]
