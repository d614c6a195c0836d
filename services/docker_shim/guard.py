"""May this request pass? Pure: the same request of the same caller has the same answer.

`decide` judges the head against the table of routes. `vet` judges a finished create body, ours, as the last thing
before it is sent: whatever rewrite builds must pass it, whatever a client could smuggle through must not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ds01.common.limits import Limits
from ds01.common.sizes import LABEL, cpus_to_nano, parse_asked, sizes_for
from ds01.common.unitnames import owner_of
from ds01.docker_shim.fields import CONFIG, Use
from ds01.docker_shim.gpus import CDI_KIND, is_request
from ds01.docker_shim.model import Head, Json, Reason, Refused, Target
from ds01.docker_shim.rewrite import (
    CAP_DROP,
    DS01_LABELS,
    GPUS_LABEL,
    LOG_CONFIG,
    NVIDIA_PREFIX,
    PROPERTY,
    VOID,
    health_ns,
)
from ds01.docker_shim.routes import Action, Kind, Match, match
from ds01.docker_shim.waitlabel import WAIT_LABEL, kept_wait_s, wait_text

UPGRADABLE = frozenset({Action.TAKE_OVER, Action.EXEC_START})
"""Actions whose connection may become a raw stream."""

OFFERED = "offered are docker run, ps, start, stop, kill, rm, exec, attach, logs, wait, inspect and images"

WITH_BODY = frozenset({Action.CREATE, Action.EXEC_CREATE, Action.EXEC_START})

_SENT_HOST_CONFIG = frozenset(
    [
        "CgroupParent",
        "ShmSize",
        "OomScoreAdj",
        "CapDrop",
        "NetworkMode",
        "LogConfig",
        "AutoRemove",
        "Annotations",
        "NanoCpus",
        "CpuShares",
        "Memory",
        "MemoryReservation",
        "MemorySwap",
        "PidsLimit",
        "Init",
        "RestartPolicy",
        "ConsoleSize",
        "DeviceRequests",
    ]
)
_CPU_STEP = 1000
_IN_SCOPE = {"NanoCpus": ("CPUQuotaPerSecUSec", _CPU_STEP), "Memory": ("MemoryMax", 1), "PidsLimit": ("TasksMax", 1)}
"""Fields whose limit goes to the scope where the engine can't apply it: systemd's property, and its unit in ours."""

_BACKSTOPS = frozenset({f"{PROPERTY}RuntimeMaxUSec", f"{PROPERTY}TimeoutStopUSec"})
_SENT_ANNOTATIONS = _BACKSTOPS | {PROPERTY + name for name, _ in _IN_SCOPE.values()}
_SENT_CONFIG = frozenset(name for name, field in CONFIG.items() if field.use is Use.PASS) | {
    "Env",
    "Labels",
    "Image",
    "Healthcheck",
    "HostConfig",
}
_NUMBER = re.compile(r"uint64 [0-9]{1,19}")
_CDI_DEVICE = re.compile(re.escape(CDI_KIND) + r"=[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that may go on. `match` is None for an administrator's request of a route not in the table."""

    match: Match | None
    target: Target
    query: Mapping[str, str]

    @property
    def action(self) -> Action:
        """What is done with it."""
        return self.match.route.action if self.match is not None else Action.TAKE_OVER


def decide(head: Head, target: Target, is_admin: bool) -> Passed | Refused:
    """Whether the request may go on to its action."""
    found = match(head.method, target)
    if is_admin:
        return Passed(found, target, dict(target.query))
    if found is None:
        return Refused(
            403,
            Reason.UNKNOWN_ROUTE,
            f"'{head.method} {target.path[:120]}' is not a request that this version knows",
            OFFERED,
        )
    route = found.route
    if route.kind in (Kind.ADMIN, Kind.REFUSE):
        if route.method == "GET" and route.path.endswith(("/{id}", "/{name}", "/{name}/json")):
            # 'docker inspect X' asks for every kind of thing in turn and stops at the first answer but this one.
            return Refused(404, Reason.NOT_FOUND, f"no such object in '/{route.segments[0]}'", OFFERED)
        return Refused(
            403,
            Reason.ROUTE,
            f"'{route.method} {route.path}' is refused: {route.why}",
            OFFERED,
        )
    query = {key: value for key, value in target.query if key in route.query}
    return _framing(head, route.action) or _query(target, route.query) or Passed(found, target, query)


def vet(body: Mapping[str, Json], owner_uid: int, limits: Limits, engine_cpus: int) -> str:
    """What is wrong with a finished create body; "" if nothing is. `engine_cpus`: 0 = unknown."""
    host = body.get("HostConfig")
    labels = body.get("Labels")
    if not isinstance(host, dict) or not isinstance(labels, dict):
        return "HostConfig or Labels is missing"
    unknown = (set(body) - _SENT_CONFIG) | (set(host) - _SENT_HOST_CONFIG)
    if unknown:
        return f"fields that are never sent: {sorted(unknown)}"
    return (
        _vet_labels(labels, owner_uid)
        or _vet_environment(body.get("Env"))
        or _vet_health(body.get("Healthcheck"), health_ns(limits))
        or _vet_host(host, limits)
        or _vet_sizes(host, limits)
        or _vet_asked(host, labels, limits, engine_cpus)
    )


def _framing(head: Head, action: Action) -> Refused | None:
    if head.upgrade and action not in UPGRADABLE:
        return _malformed(f"'{head.method} {head.target[:80]}' can't be upgraded to '{head.upgrade[:40]}'")
    if head.upgrade and head.upgrade.lower() != "tcp":
        return _malformed(f"the only upgrade here is 'tcp', not '{head.upgrade[:40]}'")
    return None


def _query(target: Target, allowed: frozenset[str]) -> Refused | None:
    seen: set[str] = set()
    for key, _ in target.query:
        if key in seen:
            return _malformed(f"the query parameter '{key[:40]}' comes twice")
        seen.add(key)
    unknown = next(
        (key for key, value in target.query if key not in allowed and value.lower() not in ("", "0", "false")), None
    )
    if unknown is None:
        return None
    return Refused(
        403, Reason.UNKNOWN_FIELD, f"the query parameter '{unknown[:40]}' is not offered here", "leave it out"
    )


def _vet_labels(labels: Mapping[str, Json], owner_uid: int) -> str:
    if not all(isinstance(value, str) for value in labels.values()):
        return "a label is not a text"
    if {key for key in labels if key.casefold().startswith("ds01.")} != set(DS01_LABELS):
        return "the set of ds01 labels is not ours"
    if labels["ds01.uid"] != str(owner_uid):
        return "ds01.uid is not the owner"
    return _vet_gpus(str(labels["ds01.lease"]), str(labels[GPUS_LABEL]), str(labels[WAIT_LABEL]))


def _vet_gpus(lease: str, gpus: str, wait: str) -> str:
    if bool(lease) != bool(gpus) or (gpus and not is_request(gpus)):
        return f"{GPUS_LABEL} is not what the lease was asked for"
    if wait != wait_text(kept_wait_s(wait)) or (wait and not gpus):
        return f"{WAIT_LABEL} is not as we keep it"
    return ""


def _vet_environment(env: Json) -> str:
    if not isinstance(env, list) or not all(isinstance(entry, str) for entry in env):
        return "Env is not a list of texts"
    nvidia = [entry for entry in env if isinstance(entry, str) and entry.startswith(NVIDIA_PREFIX)]
    return "" if nvidia == [VOID] else "the NVIDIA variables are not ours"


def _vet_health(health: Json, least_ns: int) -> str:
    if health is None:
        return ""
    if not isinstance(health, dict):
        return "Healthcheck is not an object"
    short = [name for name in ("Interval", "StartInterval") if not _at_least(health.get(name, 0), least_ns)]
    return f"Healthcheck.{short[0]} is too short" if short else ""


def _at_least(value: Json, least: int) -> bool:
    """Zero is "not set"."""
    return isinstance(value, int) and (value == 0 or value >= least)


def _vet_host(host: Mapping[str, Json], limits: Limits) -> str:
    parent = host.get("CgroupParent")
    annotations = host.get("Annotations")
    if not isinstance(parent, str) or owner_of(parent) is None:
        return "CgroupParent is not a user's slice"
    if host.get("CapDrop") != [*CAP_DROP] or host.get("NetworkMode") != "default" or host.get("OomScoreAdj") != 0:
        return "capabilities, network or OomScoreAdj are not ours"
    if host.get("LogConfig") != LOG_CONFIG:
        return "LogConfig is not ours"
    if not isinstance(annotations, dict) or not set(annotations) <= _SENT_ANNOTATIONS:
        return "Annotations are not ours"
    if not all(isinstance(value, str) and _NUMBER.fullmatch(value) for value in annotations.values()):
        return "an annotation is not a number"
    if {name for name in _BACKSTOPS if name in annotations} != (set() if limits.max_runtime_s is None else _BACKSTOPS):
        return "the backstop is missing, or there is one without a limit"
    return _vet_devices(host.get("DeviceRequests"))


def _vet_devices(requests: Json) -> str:
    if requests is None:
        return ""
    if not isinstance(requests, list) or len(requests) != 1 or not isinstance(requests[0], dict):
        return "DeviceRequests is not one request"
    devices = requests[0].get("DeviceIDs")
    if set(requests[0]) != {"Driver", "DeviceIDs"} or requests[0]["Driver"] != "cdi" or not isinstance(devices, list):
        return "DeviceRequests is not a CDI request"
    if len(devices) != 1 or not isinstance(devices[0], str) or not _CDI_DEVICE.fullmatch(devices[0]):
        return "DeviceRequests names another device than a lease"
    return ""


def _vet_sizes(host: Mapping[str, Json], limits: Limits) -> str:
    swap = max(limits.memory_bytes, limits.memory_swap_bytes)
    for field, value, most in (
        ("NanoCpus", _size(host, "NanoCpus"), cpus_to_nano(limits.cpus)),
        ("Memory", _size(host, "Memory"), limits.memory_bytes),
        ("PidsLimit", _size(host, "PidsLimit"), limits.pids),
        ("ShmSize", host.get("ShmSize"), limits.shm_bytes),
        ("MemorySwap", host.get("MemorySwap", 1), swap),
    ):
        if not isinstance(value, int) or not 0 < value <= most:
            return f"{field} is not within the limit"
    return ""


def _vet_asked(host: Mapping[str, Json], labels: Mapping[str, Json], limits: Limits, engine_cpus: int) -> str:
    """Whoever works the sizes out again from the label must come to those that are sent."""
    asked = parse_asked(str(labels[LABEL]))
    if asked is None:
        return f"{LABEL} can't be read"
    sizes = sizes_for(asked, limits, engine_cpus)
    sent = (_size(host, "NanoCpus"), _size(host, "Memory"), host.get("MemorySwap", sizes.memory_swap_bytes))
    cpus = sizes.cpus_nano if "NanoCpus" in host else sizes.cpus_nano // _CPU_STEP * _CPU_STEP
    wanted = (cpus, sizes.memory_bytes, sizes.memory_swap_bytes)
    return "" if (*sent, _size(host, "PidsLimit")) == (*wanted, sizes.pids) else f"{LABEL} says other sizes"


def _size(host: Mapping[str, Json], field: str) -> Json:
    """A size where the engine applies it, or where it went to the container's scope, in the engine's own unit."""
    name, step = _IN_SCOPE[field]
    annotations = host["Annotations"]
    assert isinstance(annotations, dict)
    if field in host or PROPERTY + name not in annotations:
        return host.get(field)
    return int(str(annotations[PROPERTY + name]).split()[-1]) * step


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
