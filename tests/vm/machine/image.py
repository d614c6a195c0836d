"""What a VM boots: a kernel, and an initrd that puts the test host's site and disk together as for systemd-nspawn.

kernel    Debian's cloud kernel and the modules that containers need             this file
vm-base   the site's tree with those modules and the tests' way in, as a disk    site/, init

Neither depends on the product: after a change of it a VM boots the disk that `testhost up` boots as well.
"""

from __future__ import annotations

import lzma
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lib import image, stages, talk
from lib.image import SUITE, Installed
from lib.places import CHECKOUT
from lib.stages import Stage, digest, digest_of_files

_PACKAGE = "linux-image-cloud-amd64"
_VM = CHECKOUT / "tests/vm"
_UNREAD = ("doc", "man", "info", "locale", "lintian")
_BASE_SIZE = "4G"
_EARLY = ("drivers/block/virtio_blk.ko", "fs/overlayfs/overlay.ko")
_MODULES = (
    *_EARLY, "drivers/net/veth.ko", "fs/autofs", "fs/configfs", "fs/fuse", "fs/binfmt_misc.ko", "net/802", "net/bridge",
    "net/core", "net/ipv4", "net/ipv6", "net/llc", "net/netfilter", "net/netlink", "net/packet", "net/unix", "net/xfrm",
    "lib", "crypto", "arch/x86/crypto",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bootable:
    """Files of a VM. `base` and `disk`: its two disks, of which the second is the VM's own; `key` opens its door."""

    kernel: Path
    initrd: Path
    base: Path
    disk: Path
    key: Path


def ensure() -> Bootable:
    """Builds what is missing."""
    installed = image.ensure()
    with stages.exclusive():
        kernel_stage = _kernel()
        kernel = stages.ensure(kernel_stage)
        base_stage = _base(installed, kernel)
        base = stages.ensure(base_stage)
        for stage in (kernel_stage, base_stage):
            stages.prune(stage, set())
    return Bootable(kernel / "vmlinuz", base / "initrd", base / "base.img", installed.disk, base / "key")


def _kernel() -> Stage:
    key = digest(SUITE, _PACKAGE, *_MODULES)
    return Stage("kernel", key, "Debian's cloud kernel (downloads, some seconds)", _make_kernel)


def _base(installed: Installed, kernel: Path) -> Stage:
    site = installed.tree.parent
    recipe = digest_of_files(CHECKOUT, [_VM / "site", _VM / "init", _VM / "machine/image.py"])
    make = partial(_make_base, site=installed.tree, kernel=kernel)
    return Stage("vm-base", digest(site.name, kernel.name, recipe), "the site as a VM's disk", make)


def _make_kernel(folder: Path) -> None:
    """`vmlinuz`, and `modules/VERSION` with modules that need no unpacking when they are loaded."""
    packed, unpacked = folder / "packages.tar", folder / "unpacked"
    unpacked.mkdir()
    argv = ["mmdebstrap", "--variant=extract", f"--include={_PACKAGE}", SUITE, str(packed)]
    talk.run_showing(argv, log=folder / "mmdebstrap.log", prefix="I: ", label="kernel: ")
    talk.run(["tar", "--extract", f"--file={packed}", f"--directory={unpacked}", "./boot", "./usr/lib/modules"])
    (modules,) = (unpacked / "usr/lib/modules").iterdir()
    next((unpacked / "boot").glob("vmlinuz-*")).rename(folder / "vmlinuz")
    _keep(modules, folder / "modules" / modules.name)
    packed.unlink()
    shutil.rmtree(unpacked)


def _keep(modules: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for listing in modules.glob("modules.*"):
        shutil.copy(listing, target)
    for path in sorted((modules / "kernel").rglob("*.ko.xz")):
        name = str(path.relative_to(modules / "kernel")).removesuffix(".xz")
        if any(name == kept or name.startswith(f"{kept}/") for kept in _MODULES):
            module = target / "kernel" / name
            module.parent.mkdir(parents=True, exist_ok=True)
            module.write_bytes(lzma.decompress(path.read_bytes()))


def _make_base(folder: Path, *, site: Path, kernel: Path) -> None:
    root = folder / "root"
    talk.run(["cp", "--archive", site, root])
    for name in _UNREAD:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    (modules,) = (kernel / "modules").iterdir()
    shutil.copytree(modules, root / "usr/lib/modules" / modules.name)
    talk.run(["chroot", root, "depmod", modules.name])
    shutil.copytree(_VM / "site", root, symlinks=True, dirs_exist_ok=True)
    _make_keys(folder, root)
    _make_initrd(folder, root, modules)
    disk = folder / "base.img"
    talk.run(["truncate", f"--size={_BASE_SIZE}", disk])
    talk.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", root, disk])
    shutil.rmtree(root)


def _make_keys(folder: Path, root: Path) -> None:
    """Of the door's two sides. It opens to this machine's root alone: the door is a socket in a folder of his."""
    for key in (folder / "key", root / "etc/ssh/vm_door_key"):
        talk.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vm", "-f", key])
    (folder / "key.pub").rename(root / "etc/ssh/vm_door_keys")


def _make_initrd(folder: Path, root: Path, modules: Path) -> None:
    """busybox, the modules that the disks need, and `init`."""
    content = folder / "initrd.d"
    for name in ("bin", "dev", "proc", "modules", "base", "disk", "root"):
        (content / name).mkdir(parents=True)
    busybox = content / "bin/busybox"
    shutil.copy(root / "usr/bin/busybox", busybox)
    shutil.copy(_VM / "init", content / "init")
    for number, module in enumerate(_EARLY):
        shutil.copy(modules / "kernel" / module, content / f"modules/{number}.ko")
    pack = 'cd "$1" && find . | "$2" cpio -o -H newc >"$3"'
    talk.run(["sh", "-ec", pack, "sh", content, busybox, folder / "initrd"])
    shutil.rmtree(content)
