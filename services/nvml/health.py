"""Whether a GPU is fit for work, and whether one that had a fatal Xid is well again. Pure.

Well again, by cause:

* NVML answered with an error, the GPU was lost, its MIG mode was about to change: it answers without that.
* ECC errors, rows and pages: the counters and flags say so. A reset or a reload of the driver puts them back; a
  remapping that failed stays until the board is replaced.
* The driver's recovery action: it is "none".
* A fatal Xid: NVML has no list of past Xids and no time of the last reset. Any of these proves a reset, or that the
  driver was loaded anew, since:

  - the GPU was lost, not listed, or no driver was loaded in between;
  - the total energy has fallen, which NVML's reference counts "since the driver was last reloaded". That a reset
    alone puts it back is not promised. Volatile ECC errors would do as well, but 'nvidia-smi -p 0' clears them too;
  - the driver asked for a recovery action and asks no more (NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, from R565; the
    older NVML_FI_DEV_RESET_STATUS is deprecated in its favour).

  Without a proof the GPU stays withheld until a reboot, or until its note (notes.py) is removed by hand. A restart of
  this service proves nothing. A reset takes that no program has the GPU open, this service included:
  'systemctl stop ds01-nvml.socket ds01-nvml.service' before 'nvidia-smi --gpu-reset'.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ds01.common.gpus import Gpu, Sight, Vitals
from ds01.common.xids import fatal

_ACTIONS = {
    1: "a reset of the GPU",
    2: "a reboot",
    3: "an end to all traffic between GPUs, then perhaps a reset",
    4: "an end to all traffic between GPUs and a reset",
    5: "a recovery of the IMEX domain",
    6: "a reset of the GPU's bus",
    7: "a restart of the system",
}
"""NVML_GPU_RECOVERY_ACTION_*, nvml.h."""


@dataclass(frozen=True, slots=True)
class XidNote:
    """A fatal Xid that a GPU had, and what was last seen of it since: `gone` when that is nothing."""

    xid: int
    gone: bool = False
    energy_mj: int | None = None
    recovery_action: int | None = None


def is_well_again(note: XidNote, vitals: Vitals) -> bool:
    """Whether the GPU was reset, or the driver loaded anew, between what the note says and what is seen now."""
    asked = note.recovery_action is not None and note.recovery_action != 0
    return note.gone or _has_fallen(note.energy_mj, vitals.energy_mj) or (asked and vitals.recovery_action == 0)


def _has_fallen(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def follow(note: XidNote, sight: Sight) -> XidNote | None:
    """The note after this sight; None when the GPU is well again. An error other than "lost" changes nothing."""
    if sight.lost:
        return replace(note, gone=True)
    if sight.vitals is None:
        return note
    if is_well_again(note, sight.vitals):
        return None
    return replace(note, energy_mj=sight.vitals.energy_mj, recovery_action=sight.vitals.recovery_action)


def judge(sight: Sight, note: XidNote | None) -> Gpu:
    """The GPU with the verdict: every reason against it in one sentence."""
    gpu = sight.gpu
    against = [gpu.reason] if gpu.reason else []
    if note is not None:
        against.append(f"it had {fatal(note.xid) or f'Xid {note.xid}'}; reset GPU {gpu.index} or reboot")
    against += _ailments(gpu.index, sight.vitals or Vitals())
    return replace(gpu, usable=not against, reason="; ".join(against))


def _ailments(index: int, vitals: Vitals) -> list[str]:
    found = []
    if vitals.recovery_action:
        action = _ACTIONS.get(vitals.recovery_action, f"recovery action {vitals.recovery_action}")
        found.append(f"the driver asks for {action}")
    if vitals.uncorrected_errors:
        errors = "error" if vitals.uncorrected_errors == 1 else "errors"
        since = "since the driver was loaded"
        found.append(f"it had {vitals.uncorrected_errors} uncorrectable ECC {errors} {since}; reset GPU {index}")
    if vitals.rows_failed:
        found.append("a row of its memory could not be remapped; have the board replaced")
    if vitals.rows_pending:
        found.append(f"a row of its memory is remapped at the next reset; reset GPU {index}")
    if vitals.pages_pending:
        found.append(f"a page of its memory is retired at the next reset; reset GPU {index}")
    return found
