"""What somebody asks for, in the one grammar that every door speaks. Pure.

2                 as many units, whichever
2g.10gb           one unit of this MIG profile; 2x2g.10gb two of them
10g               the smallest profile of this nominal size; 2x10g two of them
full              a whole GPU; 2xfull two of them
all               as many as the site's `gpus_all_means` says
0:1, GPU-ab12…    by name: instance `0:1`, a whole GPU by its UUID, or the beginning of one; several with commas
device=0          what Docker writes: an index, or anything of the above that is no number
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ds01.common.model import FULL, Denied, Reason

MOST = 64
"""More units than any machine has: a larger number is a slip of the finger."""

_COUNT = re.compile(r"[0-9]{1,9}")
_TIMES = re.compile(r"([0-9]{1,9})x(.+)")
_PROFILE = re.compile(r"(?:[1-9]c\.)?[1-9]g\.[1-9][0-9]{0,3}gb(?:\+[a-z]+(?:\.[a-z]+)?)?")
_SIZE = re.compile(r"([1-9][0-9]{0,3})g(?:b|ib)?", re.IGNORECASE)
_NAME = re.compile(r"[0-9]{1,3}(?::[0-9]{1,3})?|(?:GPU|MIG)-[0-9A-Za-z/-]{1,90}")
_HOW = "ask for a number of units (2), a profile (2g.10gb), a size (10g), 'full', or units by name (0:1)"


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`count` units: any, of one `profile` ("" for any), or those of these `names`. `warning` is for who asked.

    A profile is `full`, a MIG profile, or a nominal size such as `10gb`.
    """

    count: int
    profile: str = ""
    names: tuple[str, ...] = ()
    warning: str = ""

    def __str__(self) -> str:
        if self.names:
            return f"device={','.join(self.names)}"
        if self.profile:
            return self.profile if self.count == 1 else f"{self.count}x{self.profile}"
        return str(self.count)

    @property
    def words(self) -> str:
        """As part of a sentence: `2 GPU units`, `one 2g.10gb`, `GPU 0:1`."""
        if self.names:
            return f"GPU {', '.join(self.names)}"
        if self.profile:
            what = "whole GPU" if self.profile == FULL else self.profile
            many = f"{self.count} whole GPUs" if self.profile == FULL else f"{self.count}x {what}"
            return f"one {what}" if self.count == 1 else many
        return "one GPU unit" if self.count == 1 else f"{self.count} GPU units"


def parse_request(untrusted: str, gpus_all_means: int = 1) -> GpuRequest | Denied:
    """The request that a text says, or why it says none."""
    text = untrusted.strip()
    if text == "all":
        warning = f"'all' is {gpus_all_means} GPU unit(s) on this shared machine; ask for more with '--gpus N'"
        return GpuRequest(min(gpus_all_means, MOST), warning=warning)
    if text == "device=all":
        return parse_request("all", gpus_all_means)
    if text.startswith("device="):
        return _devices(text.removeprefix("device="), untrusted)
    if _COUNT.fullmatch(text):
        return _counted(int(text), "", untrusted)
    times = _TIMES.fullmatch(text)
    profile = _profile(times[2] if times else text)
    if profile:
        return _counted(int(times[1]) if times else 1, profile, untrusted)
    return _named(text, untrusted)


def _devices(text: str, untrusted: str) -> GpuRequest | Denied:
    """Docker's `device=`: a number is an index here and not a count."""
    times = _TIMES.fullmatch(text)
    profile = _profile(times[2] if times else text)
    if profile:
        return _counted(int(times[1]) if times else 1, profile, untrusted)
    return _named(text, untrusted)


def _profile(text: str) -> str:
    if text == FULL or _PROFILE.fullmatch(text):
        return text
    size = _SIZE.fullmatch(text)
    return f"{size[1]}gb" if size else ""


def _counted(count: int, profile: str, untrusted: str) -> GpuRequest | Denied:
    if not 1 <= count <= MOST:
        return _no(f"{count} is not a number of GPU units: it is 1 to {MOST}", untrusted)
    return GpuRequest(count, profile)


def _named(text: str, untrusted: str) -> GpuRequest | Denied:
    names = tuple(name.strip() for name in text.split(","))
    if not all(_NAME.fullmatch(name) for name in names) or len(names) > MOST:
        return _no(f"'{untrusted[:60]}' is no request for GPUs", untrusted)
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        return _no(f"GPU {twice} is named twice", untrusted)
    return GpuRequest(len(names), names=names)


def _no(message: str, untrusted: str) -> Denied:
    return Denied(Reason.NOT_A_REQUEST, message, "", "", untrusted[:60], _HOW)
