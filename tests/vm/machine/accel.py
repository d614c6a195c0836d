"""What runs the guest's instructions: KVM where it really serves, else QEMU's translator.

That `/dev/kvm` opens proves nothing: where machines are nested it may lack instructions, or end QEMU at its first step.
So a guest is booted that says hello.
"""

from __future__ import annotations

import os
import subprocess
from enum import StrEnum
from pathlib import Path

_KVM = Path("/dev/kvm")
_HELLO_WITHIN_S = 10.0
HELLO = "vm.hello"
"""Word of the kernel's command line: the initrd says it on the console and powers off."""


class Accel(StrEnum):
    KVM = "kvm"
    TCG = "tcg,thread=multi,tb-size=1024"


def serving(kernel: Path, initrd: Path) -> Accel:
    """KVM, if a guest gets through its boot under it."""
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Accel.TCG
    argv = ["qemu-system-x86_64", "-accel", Accel.KVM, "-cpu", "max", "-m", "256", "-nodefaults", "-nographic"]
    argv += ["-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd)]
    argv += ["-append", f"console=ttyS0 quiet panic=-1 {HELLO}"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_HELLO_WITHIN_S)
    except subprocess.TimeoutExpired:
        return Accel.TCG
    return Accel.KVM if HELLO.encode() in done.stdout else Accel.TCG
