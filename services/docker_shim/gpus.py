"""What a create asks of GPUs: every spelling becomes one text in the allocator's grammar, or a refusal. Pure.

The text is bounded and has the characters of the grammar only; whether it means something is the allocator's to judge.

    --gpus 2                                       2
    --gpus all, --device nvidia.com/gpu=all        all
    --gpus device=0:1, --device nvidia.com/gpu=0:1 device=0:1
    --gpus '"device=0,1"'                          device=0,1
    --gpus device=2x2g.10gb, --gpus device=full    device=2x2g.10gb, device=full
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ds01.docker_shim.fields import DEVICE_REQUEST, judge
from ds01.docker_shim.model import Json, Reason, Refused

CDI_KIND = "ds01.io/gpu"
"""The late-bound device kind in /run/cdi/ds01.json; a device is named by its lease."""

MAX_TEXT = 400
"""Sixteen whole GPUs by UUID are longer than that; nobody has so many."""

ALL = "all"
_CDI = "cdi"
_ASKED_BY_CDI = "nvidia.com/gpu="
_DRIVERS = ("", "nvidia", _CDI)
_DEVICES = "device="
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z:/.+-]*")
_TEXT = re.compile(rf"[0-9]+|{ALL}|{_DEVICES}[0-9A-Za-z:/.+,-]+")
_CAPABILITIES = frozenset({"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"})
_USE_THE_FLAG = (
    "ask with '--gpus N' for a number of GPU units, or by name or profile: "
    "'--gpus device=0:1', '--gpus device=2g.10gb', '--gpus device=full'"
)


def parse_requests(untrusted: Json) -> str | Refused:
    """The request for GPUs in `HostConfig.DeviceRequests`; "" for none. Counts add up, and so do names."""
    if untrusted is None:
        return ""
    if not isinstance(untrusted, list):
        return _malformed("'HostConfig.DeviceRequests' must be a list of objects")
    count, names = 0, list[str]()
    for item in untrusted:
        asked = _asked(item)
        if isinstance(asked, Refused):
            return asked
        if isinstance(asked, int):
            count += asked
        else:
            names += asked
    if (count and names) or (ALL in names and len(names) > 1):
        return _malformed("a number of GPU units, 'all' and GPUs by name exclude each other in one container")
    text = _text(count, names)
    if len(text) > MAX_TEXT:
        return _malformed(f"a request for GPUs in {len(text)} characters is longer than {MAX_TEXT}")
    return text


def is_request(text: str) -> bool:
    """Whether `text` could be what `parse_requests` makes of a request for GPUs."""
    return len(text) <= MAX_TEXT and _TEXT.fullmatch(text) is not None


def cdi_request(lease: str) -> list[Json]:
    """The device request that the engine gets."""
    return [{"Driver": _CDI, "DeviceIDs": [f"{CDI_KIND}={lease}"]}]


def _text(count: int, names: list[str]) -> str:
    if names:
        return ALL if names == [ALL] else _DEVICES + ",".join(names)
    return str(count) if count else ""


def _asked(untrusted: Json) -> int | list[str] | Refused:
    """What one device request asks for: a number of units, or names."""
    if not isinstance(untrusted, dict):
        return _malformed("'HostConfig.DeviceRequests' must be a list of objects")
    request = judge(DEVICE_REQUEST, untrusted, "HostConfig.DeviceRequests.")
    if isinstance(request, Refused):
        return request
    driver, identities, count = request.get("Driver", ""), request.get("DeviceIDs") or [], request.get("Count", 0)
    assert isinstance(identities, list)
    assert isinstance(count, int)
    if driver not in _DRIVERS:
        return _refused(f"a device by driver '{str(driver)[:60]}' (--device or --gpus) is refused", str(driver))
    if not _known_capabilities(request.get("Capabilities")):
        return _refused("a device request with other capabilities than 'gpu' is refused", "")
    if identities and count:
        return _malformed("one device request has both 'Count' and 'DeviceIDs'")
    if identities:
        return _names([str(identity) for identity in identities], by_cdi=driver == _CDI)
    if count < -1:
        return _malformed(f"{count} is not a number of GPU units")
    return [ALL] if count == -1 else count


def _names(untrusted: list[str], *, by_cdi: bool) -> list[str] | Refused:
    """One identity may be several with commas, as the SDK's examples write them."""
    if by_cdi:
        other = next((identity for identity in untrusted if not identity.startswith(_ASKED_BY_CDI)), None)
        if other is not None:
            return _refused(f"the device '{other[:60]}' is refused: of CDI there is '{_ASKED_BY_CDI}NAME' only", other)
    names = [*_apart(untrusted, _ASKED_BY_CDI if by_cdi else "")]
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    return names if wrong is None else _malformed(f"'{wrong[:60]}' names no GPU")


def _apart(untrusted: list[str], prefix: str) -> Iterator[str]:
    for identity in untrusted:
        yield from identity.removeprefix(prefix).split(",")


def _known_capabilities(untrusted: Json) -> bool:
    if untrusted is None:
        return True
    return isinstance(untrusted, list) and all(
        isinstance(one_set, list) and all(isinstance(name, str) and name in _CAPABILITIES for name in one_set)
        for one_set in untrusted
    )


def _refused(message: str, requested: str) -> Refused:
    return Refused(403, Reason.FIELD, message, _USE_THE_FLAG, requested=requested[:120])


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message, _USE_THE_FLAG)
