"""Turns an untrusted create body into a `Wish`, or says which field stands in the way. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ds01.common.sizes import NANO, Asked
from ds01.docker_shim.fields import CONFIG, ENDPOINT, HEALTH, HOST_CONFIG, NETWORKING, RESTART, Use, judge
from ds01.docker_shim.gpus import parse_requests
from ds01.docker_shim.model import GpuWish, Json, Reason, Refused, Wish
from ds01.docker_shim.waitlabel import WAIT_LABEL, parse_wait

LABEL_PREFIX = "ds01."
DEFAULT_PERIOD_US = 100_000

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:[:/@][A-Za-z0-9][A-Za-z0-9._-]*)*")
"""Wider than Docker's grammar, and without an empty or dot segment: it goes into a path of ours."""

_NAME = re.compile(r"/?([a-zA-Z0-9][a-zA-Z0-9_.-]{1,127})")
_LIKE_AN_ID = re.compile(r"[0-9a-f]{12,64}")
_RESTARTS = ("", "no", "always", "on-failure", "unless-stopped")
_DEFAULT_NETWORKS = ("default", "bridge")


def parse_wish(untrusted: Mapping[str, Json]) -> Wish | Refused:
    """What the create body asks for."""
    config = judge(CONFIG, untrusted, "")
    if isinstance(config, Refused):
        return config
    host = judge(HOST_CONFIG, _object(config.get("HostConfig")), "HostConfig.")
    if isinstance(host, Refused):
        return host
    refused = _networks(_object(config.get("NetworkingConfig"))) or _labels(_object(config.get("Labels")))
    if refused is not None:
        return refused
    gpus = parse_gpus(host.get("DeviceRequests"), _object(config.get("Labels")))
    if isinstance(gpus, Refused):
        return gpus
    wish = _wish(config, host)
    return wish if isinstance(wish, Refused) else wish.with_gpus(gpus)


def parse_gpus(device_requests: Json, labels: Mapping[str, Json]) -> GpuWish | Refused:
    """What is asked of GPUs; the label `ds01.wait` is judged wherever it stands, and means nothing without GPUs."""
    gpus = parse_requests(device_requests)
    if isinstance(gpus, Refused):
        return gpus
    wait_s = parse_wait(labels.get(WAIT_LABEL))
    if isinstance(wait_s, Refused):
        return wait_s
    return GpuWish(gpus, wait_s if gpus else 0.0)


def valid_image(reference: str) -> bool:
    """Whether an image reference may go into a path of ours."""
    return len(reference) <= 512 and _IMAGE.fullmatch(reference) is not None


def parse_name(untrusted: str) -> str | Refused:
    """The name for a new container; "" for none."""
    if not untrusted:
        return ""
    found = _NAME.fullmatch(untrusted)
    if found is None:
        return _malformed(
            f"Invalid container name ({untrusted[:80]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 2 to 128 of them"
        )
    if _LIKE_AN_ID.fullmatch(found[1]):
        return Refused(
            403,
            Reason.FIELD,
            f"the name '{found[1]}' looks like a container's id, and would stand before it",
            "choose a name with another letter in it",
        )
    return found[1]


def _wish(config: Mapping[str, Json], host: Mapping[str, Json]) -> Wish | Refused:
    image = _text(config.get("Image"))
    if not valid_image(image):
        return _malformed(f"invalid reference format: '{image[:80]}' is not an image")
    cpus_nano = _cpus(host)
    restart = _restart(_object(host.get("RestartPolicy")))
    health = judge(HEALTH, _object(config.get("Healthcheck")), "Healthcheck.")
    for part in (cpus_nano, restart, health):
        if isinstance(part, Refused):
            return part
    negative = next((name for name, value in host.items() if isinstance(value, int) and value < -1), None)
    if negative is not None:
        return _malformed(f"'HostConfig.{negative}' is below 0")
    assert not isinstance(cpus_nano, Refused)
    assert not isinstance(restart, Refused)
    assert not isinstance(health, Refused)
    return Wish(
        image=image,
        config={name: value for name, value in config.items() if CONFIG[name].use is Use.PASS},
        labels={key: _text(value) for key, value in _object(config.get("Labels")).items()},
        env=tuple(_texts(config.get("Env"))),
        health=health if "Healthcheck" in config else None,
        restart=restart,
        console_size=_size(host.get("ConsoleSize")),
        auto_remove=bool(host.get("AutoRemove", False)),
        init=True if host.get("Init") else None,
        asked=Asked(
            cpus_nano=cpus_nano,
            memory_bytes=_number(host.get("Memory")),
            memory_swap_bytes=_number(host.get("MemorySwap")),
            pids=_number(host.get("PidsLimit")),
        ),
        memory_reservation_bytes=_number(host.get("MemoryReservation")),
        cpu_shares=_number(host.get("CpuShares")),
        shm_bytes=_number(host.get("ShmSize")),
    )


def _networks(untrusted: Mapping[str, Json]) -> Refused | None:
    networking = judge(NETWORKING, untrusted, "NetworkingConfig.")
    if isinstance(networking, Refused):
        return networking
    for network, endpoint in _object(networking.get("EndpointsConfig")).items():
        where = f"NetworkingConfig.EndpointsConfig.{network[:40]}"
        if network not in _DEFAULT_NETWORKS:
            return Refused(
                403,
                Reason.FIELD,
                f"'{where}' (--network) is refused: containers share the default network in this version",
                "leave out '--network'",
            )
        if endpoint is not None and not isinstance(endpoint, dict):
            return _malformed(f"'{where}' must be an object")
        judged = judge(ENDPOINT, endpoint or {}, where + ".")
        if isinstance(judged, Refused):
            return judged
    return None


def _labels(labels: Mapping[str, Json]) -> Refused | None:
    ours = next((key for key in labels if key.casefold().startswith(LABEL_PREFIX) and key != WAIT_LABEL), None)
    if ours is None:
        return None
    return Refused(
        403,
        Reason.FIELD,
        f"the label '{ours[:80]}' is refused: labels that begin with 'ds01.' say who owns a container",
        f"choose another name for the label; '{WAIT_LABEL}' alone is yours to set",
    )


def _cpus(host: Mapping[str, Json]) -> int | Refused | None:
    nano, quota = _number(host.get("NanoCpus")), _number(host.get("CpuQuota"))
    period = _number(host.get("CpuPeriod")) or DEFAULT_PERIOD_US
    if nano is not None and quota is not None:
        return _malformed("'HostConfig.NanoCpus' (--cpus) and 'HostConfig.CpuQuota' (--cpu-quota) exclude each other")
    if not 1000 <= period <= 1_000_000:
        return _malformed(f"'HostConfig.CpuPeriod' is {period}, and must be between 1000 and 1000000")
    return nano if quota is None else quota * NANO // period


def _restart(untrusted: Mapping[str, Json]) -> dict[str, Json] | Refused | None:
    policy = judge(RESTART, untrusted, "HostConfig.RestartPolicy.")
    if isinstance(policy, Refused):
        return policy
    name, retries = _text(policy.get("Name")), _number(policy.get("MaximumRetryCount")) or 0
    if name not in _RESTARTS or retries < 0:
        return _malformed(f"'HostConfig.RestartPolicy' ({name[:40]}, {retries}) is none of {', '.join(_RESTARTS[1:])}")
    return {"Name": name, "MaximumRetryCount": retries} if name not in ("", "no") else None


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Json) -> list[str]:
    return [_text(item) for item in value] if isinstance(value, list) else []


def _number(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _size(value: Json) -> tuple[int, int] | None:
    if not isinstance(value, list):
        return None
    height, width = (_number(item) or 0 for item in value)
    return (height, width)


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
