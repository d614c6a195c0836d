"""NVIDIA's Xid errors: what a number means, and whether the GPU is fit for work after it. Pure.

Source of every row: NVIDIA, "XID Errors" deployment guide, chapter "Analyzing Xid Errors with the Xid Catalog"
(docs.nvidia.com/deploy/xid-errors), the column "Resolution Bucket (Immediate Action)". A number is fatal when that
says to reset the GPU or to restart the machine (RESET_GPU, RESTART_BM, RESTART_VM), or names a workflow while the
description says that "a GPU reset or node reboot is needed to clear this error" (48, 74). It is not when the program
alone is to be restarted (RESTART_APP) or nothing is (IGNORE).

The NVLink 5 errors, 144 to 150, may be harmless or not by a status that NVML's events don't carry: their drivers all
tell the recovery action of the GPU (Xid 154), which is read by itself, so that the number alone withholds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Xid:
    """One row of the catalogue."""

    name: str
    fatal: bool


_FATAL = {
    46: "the GPU stopped processing",
    48: "double-bit ECC error",
    62: "the GPU's internal micro-controller halted",
    64: "a row of memory could not be remapped, or a page not be retired",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    95: "uncontained memory error",
    109: "context switch timeout",
    110: "security fault",
    119: "timeout of the GPU's system processor",
    120: "error of the GPU's system processor",
    136: "the training of an NVLink failed",
    140: "unrecovered ECC error",
    143: "the GPU's initialisation failed",
    151: "key rotation error",
    155: "NVLink error found by software",
    156: "a resource was retired, which takes a reset",
    158: "fatal timeout of the GPU",
}

_COPY_ENGINE = (39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136))
_VIDEO_DECODER = (68, 83, 84, 88, 89, 96, 97, 98)
_JPEG_DECODER = (82, *range(99, 106))

_NOT_FATAL = {
    8: "the GPU stopped processing a program's work",
    11: "invalid or corrupted push buffer stream",
    13: "graphics engine exception",
    25: "invalid or illegal push buffer stream",
    31: "memory page fault of a program",
    32: "invalid or corrupted push buffer stream",
    37: "unknown method in the front-end firmware",
    38: "watchdog of the front-end firmware",
    43: "a program's channel was stopped",
    44: "fault during a context switch",
    45: "a program's channels were removed",
    54: "auxiliary power is not connected: the GPU runs slowly",
    60: "video processor exception",
    63: "a row of memory was remapped, or a page retired",
    66: "illegal access by a driver",
    67: "illegal access by a driver, found by verification",
    69: "graphics engine class error",
    78: "vGPU start error",
    80: "corrupted data sent to the GPU",
    86: "optical flow accelerator exception",
    92: "high rate of single-bit ECC errors",
    93: "too many erasures of the GPU's flash memory",
    94: "contained memory error",
    106: "test message of the management bus",
    107: "silent test message of the management bus",
    108: "NVLink remote translation error",
    121: "corrected error of the link to the CPU",
    137: "NVLink fault of a peer's access",
    139: "second optical flow accelerator exception",
    141: "fast path error",
    142: "third video encoder exception",
    144: "NVLink SAW error",
    145: "NVLink RLW error",
    146: "NVLink TLW error",
    147: "NVLink TREX error",
    148: "NVLink NVLPW error",
    149: "NVLink NETIR error",
    150: "NVLink MSE error",
    154: "the recovery action of the GPU has changed",
    157: "a resource could not be retired",
    159: "coherent interface error without data",
    160: "a memory channel was retired",
    161: "a memory channel could not be retired",
    **dict.fromkeys(_COPY_ENGINE, "copy engine exception"),
    **dict.fromkeys(_VIDEO_DECODER, "video decoder exception"),
    **dict.fromkeys(_JPEG_DECODER, "JPEG decoder exception"),
}

XIDS: dict[int, Xid] = {
    **{number: Xid(name, fatal=True) for number, name in _FATAL.items()},
    **{number: Xid(name, fatal=False) for number, name in _NOT_FATAL.items()},
}


def fatal(xid: int) -> str | None:
    """What to tell people when the GPU is not fit for work after this Xid; None when it is.

    A number that the table lacks is reported (`describe`) and withholds nothing: most numbers are a program's fault,
    and a GPU that is broken shows it by errors, ECC counters or the driver's recovery action as well.
    """
    known = XIDS.get(xid)
    return f"Xid {xid} ({known.name})" if known is not None and known.fatal else None


def describe(xid: int) -> str:
    """The number with its name, for the journal."""
    known = XIDS.get(xid)
    return f"Xid {xid} ({known.name if known is not None else 'not in the catalogue that is built in'})"
