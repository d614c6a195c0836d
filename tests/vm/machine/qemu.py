"""Boots a VM with QEMU: which machine it is, and what it needs of ours. Owns the command line."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lib import kernel

from machine.accel import Accel

_CPUS, _MEMORY_MIB = 2, 3072
_NOT_NEEDED = ("ssh.service", "getty@tty1.service", "serial-getty@ttyS0.service")
_APPEND = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr systemd.gpt_auto=0 systemd.show_status=error "
    "systemd.ssh_auto=0 "
) + " ".join(f"systemd.mask={unit}" for unit in _NOT_NEEDED)


@dataclass(frozen=True, slots=True)
class VmPlaces:
    """The files of one VM. `before`: its disk as the boot found it, `writes`: what was done to it since."""

    folder: Path

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def base(self) -> Path:
        return self.folder / "base.img"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def before(self) -> Path:
        return self.folder / "before.img"

    @property
    def writes(self) -> Path:
        return self.folder / "writes.log"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"


def boot(places: VmPlaces, accel: Accel, door: Path) -> subprocess.Popen[bytes]:
    """Starts a VM that ends with this process, or when its system goes down. `door`: the socket of its port."""
    door.unlink(missing_ok=True)
    places.writes.write_bytes(b"")
    with places.console.open("ab") as console:
        return subprocess.Popen(
            _command(places, accel, door),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            preexec_fn=kernel.die_with_parent,
        )


def _command(places: VmPlaces, accel: Accel, door: Path) -> list[str]:
    machine = ["-accel", accel, "-cpu", "max,-monitor", "-smp", str(_CPUS), "-m", str(_MEMORY_MIB)]
    bare = ["-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"]
    system = ["-kernel", str(places.kernel), "-initrd", str(places.initrd), "-append", _APPEND]
    way_in = ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=door,name=door"]
    port = ["-chardev", f"socket,id=door,path={door},server=on,wait=off"]
    return ["qemu-system-x86_64", *machine, *bare, *system, *_disks(places), *port, *way_in]


def _disks(places: VmPlaces) -> list[str]:
    """The base, and the VM's own disk below a log. What QEMU flushes to the files is of no account: the log decides."""

    def file(name: str, path: Path, options: str = "") -> list[str]:
        return ["-blockdev", f"driver=file,node-name={name},filename={path},cache.no-flush=on{options}"]

    log = "driver=blklogwrites,node-name=disk,file=disk-file,log=writes,log-sector-size=512"
    return [
        *file("base", places.base, ",read-only=on"),
        *file("disk-file", places.disk),
        *file("writes", places.writes),
        *("-blockdev", log),
        *("-device", "virtio-blk-pci,drive=base", "-device", "virtio-blk-pci,drive=disk"),
    ]
