"""What a create asks of GPUs: every spelling becomes a number of units, or a refusal with the flag to use. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ds01.docker_shim.fields import DEVICE_REQUEST, judge
from ds01.docker_shim.model import GpuWish, Json, Reason, Refused

CDI_KIND = "ds01.io/gpu"
"""The late-bound device kind in /run/cdi/ds01.json; a device is named by its lease."""

ALL = -1
_DRIVERS = ("", "nvidia")
_CAPABILITIES = frozenset({"gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"})
_USE_THE_FLAG = "ask with '--gpus N' for a number of GPU units; which ones is the allocator's choice"


def parse_requests(untrusted: Json, gpus_all_means: int) -> GpuWish | Refused:
    """The GPU units that `HostConfig.DeviceRequests` asks for; `--gpus all` means `gpus_all_means`."""
    if untrusted is None:
        return GpuWish()
    if not isinstance(untrusted, list):
        return _malformed("'HostConfig.DeviceRequests' must be a list of objects")
    units, warnings = 0, []
    for item in untrusted:
        asked = _units(item)
        if isinstance(asked, Refused):
            return asked
        if asked == ALL:
            units += gpus_all_means
            warnings.append(
                f"'--gpus all' gives {gpus_all_means} GPU unit(s) on this shared machine; ask for more with '--gpus N'"
            )
        else:
            units += asked
    return GpuWish(units, tuple(warnings))


def cdi_request(lease: str) -> list[Json]:
    """The device request that the engine gets."""
    return [{"Driver": "cdi", "DeviceIDs": [f"{CDI_KIND}={lease}"]}]


def grant_warnings(profiles: Sequence[str]) -> tuple[str, ...]:
    """What the user of a lease should know about units with these profiles ("full" is a whole GPU)."""
    if len(profiles) > 1 and any(profile != "full" for profile in profiles):
        return (f"this container has {len(profiles)} GPU units, and one CUDA process can use one MIG instance only",)
    return ()


def _units(untrusted: Json) -> int | Refused:
    if not isinstance(untrusted, dict):
        return _malformed("'HostConfig.DeviceRequests' must be a list of objects")
    request = judge(DEVICE_REQUEST, untrusted, "HostConfig.DeviceRequests.")
    if isinstance(request, Refused):
        return request
    driver, identities = request.get("Driver", ""), request.get("DeviceIDs", [])
    if driver not in _DRIVERS:
        return _refused(f"a device by driver '{str(driver)[:60]}' (--device or --gpus) is refused", str(driver))
    if identities:
        return _refused(f"GPUs by name {str(identities)[:100]} are refused", str(identities))
    if not _known_capabilities(request.get("Capabilities")):
        return _refused("a device request with other capabilities than 'gpu' is refused", "")
    count = request.get("Count", 0)
    assert isinstance(count, int)
    if count < ALL:
        return _malformed(f"{count} is not a number of GPU units")
    return count


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
