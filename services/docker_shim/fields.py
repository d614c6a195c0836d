"""Every field of the bodies that users may send, in tables: what it must be, and what is done with it. Pure.

pass     goes to the engine as it is, after its type was checked
ours     read, and written anew by us (bounded, or merged with ours)
ignore   harmless and without meaning here; not sent on
refuse   refused by name unless it has a value that asks for nothing

A field that is not in its table is refused by name unless it is empty. `null` is everywhere the same as absent, and
empty values are what the docker CLI and docker-py send for options that nobody gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ds01.docker_shim.model import Json, Reason, Refused
from ds01.docker_shim.strictjson import fold

INT64 = 2**63 - 1


class Use(StrEnum):
    """What is done with a field."""

    PASS = "pass"
    OURS = "ours"
    IGNORE = "ignore"
    REFUSE = "refuse"


class Shape(StrEnum):
    """What a field's value must be."""

    TEXT = "text"
    NUMBER = "number"
    TRUTH = "truth"
    TEXTS = "list of texts"
    WORDS = "text or list of texts"
    PAIRS = "object with texts"
    NAMES = "object with empty objects"
    OBJECT = "object"
    OBJECTS = "list of objects"
    SIZE = "pair of numbers"
    ANY = "anything"


@dataclass(frozen=True, slots=True)
class Field:
    """One row. `neutral` are the values that ask for nothing; `flag` is what people type for it."""

    use: Use
    shape: Shape
    flag: str = ""
    why: str = ""
    neutral: tuple[Json, ...] = ("", 0, False, [], {})


def _pass(shape: Shape) -> Field:
    return Field(Use.PASS, shape, neutral=())


def _ours(shape: Shape, *neutral: Json) -> Field:
    return Field(Use.OURS, shape, neutral=neutral)


def _ignore() -> Field:
    return Field(Use.IGNORE, Shape.ANY)


def _refuse(flag: str, why: str, *more_neutral: Json) -> Field:
    return Field(Use.REFUSE, Shape.ANY, flag, why, ("", 0, False, [], {}, *more_neutral))


_HOST = "it would give the container a part of the host"
_LATER = "it is not offered in this version"
_NET = "networks and ports are not offered in this version"
_FILES = "files of the host and volumes are not offered in this version"
_LIMITS = "limits come from the policy"
_DISK = "limits of disks are the administrator's"
_WINDOWS = "it is for Windows"

CONFIG: Mapping[str, Field] = {
    "Hostname": _pass(Shape.TEXT),
    "Domainname": _pass(Shape.TEXT),
    "User": _pass(Shape.TEXT),
    "AttachStdin": _pass(Shape.TRUTH),
    "AttachStdout": _pass(Shape.TRUTH),
    "AttachStderr": _pass(Shape.TRUTH),
    "Tty": _pass(Shape.TRUTH),
    "OpenStdin": _pass(Shape.TRUTH),
    "StdinOnce": _pass(Shape.TRUTH),
    "Cmd": _pass(Shape.WORDS),
    "Entrypoint": _pass(Shape.WORDS),
    "WorkingDir": _pass(Shape.TEXT),
    "NetworkDisabled": _pass(Shape.TRUTH),
    "StopSignal": _pass(Shape.TEXT),
    "StopTimeout": _pass(Shape.NUMBER),
    "Shell": _pass(Shape.TEXTS),
    "ExposedPorts": _pass(Shape.NAMES),
    "Env": _ours(Shape.TEXTS),
    "Labels": _ours(Shape.PAIRS),
    "Image": _ours(Shape.TEXT),
    "Healthcheck": _ours(Shape.OBJECT),
    "HostConfig": _ours(Shape.OBJECT),
    "NetworkingConfig": _ours(Shape.OBJECT),
    "ArgsEscaped": _ignore(),
    "OnBuild": _ignore(),
    "Runtime": _refuse("--runtime", "the runtime is the machine's; a GPU comes with '--gpus N'", "runc"),
    "Volumes": _refuse("-v", _FILES),
    "VolumeDriver": _refuse("--volume-driver", _FILES),
    "MacAddress": _refuse("--mac-address", _NET),
}
"""Config: the top level of a create body."""

HOST_CONFIG: Mapping[str, Field] = {
    "Memory": _ours(Shape.NUMBER, 0, -1),
    "MemorySwap": _ours(Shape.NUMBER, 0, -1),
    "MemoryReservation": _ours(Shape.NUMBER, 0),
    "NanoCpus": _ours(Shape.NUMBER, 0),
    "CpuQuota": _ours(Shape.NUMBER, 0, -1),
    "CpuPeriod": _ours(Shape.NUMBER, 0),
    "CpuShares": _ours(Shape.NUMBER, 0),
    "PidsLimit": _ours(Shape.NUMBER, 0, -1),
    "ShmSize": _ours(Shape.NUMBER, 0),
    "RestartPolicy": _ours(Shape.OBJECT, {}),
    "AutoRemove": _ours(Shape.TRUTH),
    "Init": _ours(Shape.TRUTH),
    "DeviceRequests": _ours(Shape.OBJECTS, []),
    "ConsoleSize": _ours(Shape.SIZE, []),
    "ContainerIDFile": _ignore(),
    "Binds": _refuse("-v", _FILES),
    "Mounts": _refuse("--mount", _FILES),
    "Tmpfs": _refuse("--tmpfs", _LATER),
    "VolumesFrom": _refuse("--volumes-from", _FILES),
    "VolumeDriver": _refuse("--volume-driver", _FILES),
    "NetworkMode": _refuse("--network", _NET, "default", "bridge"),
    "PortBindings": _refuse("-p", _NET),
    "PublishAllPorts": _refuse("-P", _NET),
    "Links": _refuse("--link", _NET),
    "Dns": _refuse("--dns", _NET),
    "DnsOptions": _refuse("--dns-option", _NET),
    "DnsSearch": _refuse("--dns-search", _NET),
    "ExtraHosts": _refuse("--add-host", _NET),
    "Privileged": _refuse("--privileged", _HOST),
    "CapAdd": _refuse("--cap-add", _HOST),
    "CapDrop": _refuse("--cap-drop", _LATER),
    "Capabilities": _refuse("--cap-add", _HOST),
    "SecurityOpt": _refuse("--security-opt", _HOST),
    "Devices": _refuse("--device", "a GPU comes with '--gpus N', other devices are the host's"),
    "DeviceCgroupRules": _refuse("--device-cgroup-rule", _HOST),
    "Runtime": _refuse("--runtime", "the runtime is the machine's; a GPU comes with '--gpus N'", "runc"),
    "CgroupParent": _refuse("--cgroup-parent", "your containers run in your own slice"),
    "Cgroup": _refuse("--cgroup", "your containers run in your own slice"),
    "CgroupnsMode": _refuse("--cgroupns", _HOST, "private"),
    "IpcMode": _refuse("--ipc", _HOST, "private"),
    "PidMode": _refuse("--pid", _HOST),
    "UTSMode": _refuse("--uts", _HOST),
    "UsernsMode": _refuse("--userns", _HOST),
    "GroupAdd": _refuse("--group-add", _LATER),
    "Annotations": _refuse("--annotation", "annotations set properties of the container's scope and are ours alone"),
    "LogConfig": _refuse(
        "--log-driver",
        "log drivers speak to sockets of the host as root; output is kept for 'docker logs'",
        {"Type": "", "Config": {}},
        {"Type": "", "Config": None},
        {"Type": "json-file", "Config": {}},
        {"Type": "json-file", "Config": None},
        {"Type": "json-file"},
        {"Type": ""},
    ),
    "OomScoreAdj": _refuse("--oom-score-adj", _LIMITS),
    "OomKillDisable": _refuse("--oom-kill-disable", _LIMITS),
    "Ulimits": _refuse("--ulimit", _LIMITS),
    "Sysctls": _refuse("--sysctl", _HOST),
    "StorageOpt": _refuse("--storage-opt", _DISK),
    "ReadonlyRootfs": _refuse("--read-only", _LATER),
    "MaskedPaths": Field(Use.REFUSE, Shape.ANY, "--security-opt systempaths", _HOST, ()),
    "ReadonlyPaths": Field(Use.REFUSE, Shape.ANY, "--security-opt systempaths", _HOST, ()),
    "MemorySwappiness": _refuse("--memory-swappiness", _LIMITS, -1),
    "KernelMemory": _refuse("--kernel-memory", _LIMITS),
    "KernelMemoryTCP": _refuse("--kernel-memory-tcp", _LIMITS),
    "CpusetCpus": _refuse("--cpuset-cpus", _LIMITS),
    "CpusetMems": _refuse("--cpuset-mems", _LIMITS),
    "CpuRealtimePeriod": _refuse("--cpu-rt-period", _LIMITS),
    "CpuRealtimeRuntime": _refuse("--cpu-rt-runtime", _LIMITS),
    "BlkioWeight": _refuse("--blkio-weight", _DISK),
    "BlkioWeightDevice": _refuse("--blkio-weight-device", _DISK),
    "BlkioDeviceReadBps": _refuse("--device-read-bps", _DISK),
    "BlkioDeviceWriteBps": _refuse("--device-write-bps", _DISK),
    "BlkioDeviceReadIOps": _refuse("--device-read-iops", _DISK),
    "BlkioDeviceWriteIOps": _refuse("--device-write-iops", _DISK),
    "Isolation": _refuse("--isolation", _WINDOWS, "default"),
    "CpuCount": _refuse("--cpu-count", _WINDOWS),
    "CpuPercent": _refuse("--cpu-percent", _WINDOWS),
    "IOMaximumIOps": _refuse("--io-maxiops", _WINDOWS),
    "IOMaximumBandwidth": _refuse("--io-maxbandwidth", _WINDOWS),
}
"""HostConfig: what is said here and is not `ours` would touch the host or other users."""

NETWORKING: Mapping[str, Field] = {"EndpointsConfig": _ours(Shape.OBJECT, {})}

ENDPOINT: Mapping[str, Field] = {
    name: _refuse("--network", _NET)
    for name in (
        "IPAMConfig",
        "Links",
        "Aliases",
        "MacAddress",
        "DriverOpts",
        "GwPriority",
        "NetworkID",
        "EndpointID",
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "DNSNames",
    )
}

HEALTH: Mapping[str, Field] = {
    "Test": _pass(Shape.TEXTS),
    "Timeout": _pass(Shape.NUMBER),
    "Retries": _pass(Shape.NUMBER),
    "StartPeriod": _pass(Shape.NUMBER),
    "Interval": _ours(Shape.NUMBER),
    "StartInterval": _ours(Shape.NUMBER),
}

RESTART: Mapping[str, Field] = {"Name": _ours(Shape.TEXT), "MaximumRetryCount": _ours(Shape.NUMBER)}

DEVICE_REQUEST: Mapping[str, Field] = {
    "Driver": _ours(Shape.TEXT),
    "Count": _ours(Shape.NUMBER),
    "DeviceIDs": _ours(Shape.TEXTS),
    "Capabilities": _ours(Shape.ANY),
    "Options": _refuse("--gpus …", "options of GPU drivers are not offered"),
}

EXEC_CREATE: Mapping[str, Field] = {
    "AttachStdin": _pass(Shape.TRUTH),
    "AttachStdout": _pass(Shape.TRUTH),
    "AttachStderr": _pass(Shape.TRUTH),
    "ConsoleSize": _pass(Shape.SIZE),
    "DetachKeys": _pass(Shape.TEXT),
    "Tty": _pass(Shape.TRUTH),
    "Env": _pass(Shape.TEXTS),
    "Cmd": _pass(Shape.WORDS),
    "User": _pass(Shape.TEXT),
    "WorkingDir": _pass(Shape.TEXT),
    "Detach": _ignore(),
    "Container": _ignore(),
    "Privileged": _refuse("--privileged", _HOST),
}

EXEC_START: Mapping[str, Field] = {
    "Detach": _pass(Shape.TRUTH),
    "Tty": _pass(Shape.TRUTH),
    "ConsoleSize": _pass(Shape.SIZE),
}


def judge(table: Mapping[str, Field], untrusted: Mapping[str, Json], where: str) -> dict[str, Json] | Refused:
    """The fields of `untrusted` that say something, by their proper names; or why one of them is refused."""
    names = {fold(name): name for name in table}
    found: dict[str, Json] = {}
    seen: set[str] = set()
    for key, value in untrusted.items():
        folded = fold(key)
        if folded in seen:
            return _malformed(f"the field '{where}{key[:80]}' comes in two spellings")
        seen.add(folded)
        name = names.get(folded)
        refused = _unknown(f"{where}{key[:80]}", value) if name is None else _judged(table[name], where + name, value)
        if refused is not None:
            return refused
        if name is not None and table[name].use in (Use.PASS, Use.OURS) and not _neutral(value, table[name]):
            found[name] = value
    return found


def normalised(table: Mapping[str, Field], untrusted: Mapping[str, Json]) -> dict[str, Json] | Refused:
    """Every field under its proper name, unjudged: for administrators, to whom nothing is refused."""
    names = {fold(name): name for name in table}
    found: dict[str, Json] = {}
    for key, value in untrusted.items():
        name = names.get(fold(key), key)
        if name in found:
            return _malformed(f"the field '{key[:80]}' comes in two spellings")
        found[name] = value
    return found


def _judged(field: Field, path: str, value: Json) -> Refused | None:
    if _neutral(value, field) or field.use is Use.IGNORE:
        return None
    if field.use is Use.REFUSE:
        return Refused(
            403,
            Reason.FIELD,
            f"'{path}' ({field.flag}) is refused: {field.why}",
            f"leave out '{field.flag}'",
            requested=_shown(value),
        )
    if not _has_shape(value, field.shape):
        return _malformed(f"'{path}' must be a {field.shape.value}, not {_shown(value)}")
    return None


def _unknown(path: str, value: Json) -> Refused | None:
    if _neutral(value, Field(Use.REFUSE, Shape.ANY)):
        return None
    return Refused(
        403, Reason.UNKNOWN_FIELD, f"'{path}' is refused: this version does not know the field", "leave it out"
    )


def _neutral(value: Json, field: Field) -> bool:
    if value is None:
        return True
    return any(type(value) is type(empty) and value == empty for empty in field.neutral)


def _has_shape(value: Json, shape: Shape) -> bool:
    match shape:
        case Shape.TEXT:
            return _is_text(value)
        case Shape.NUMBER:
            return _is_number(value)
        case Shape.TRUTH:
            return isinstance(value, bool)
        case Shape.TEXTS:
            return isinstance(value, list) and all(map(_is_text, value))
        case Shape.WORDS:
            return _is_text(value) or (isinstance(value, list) and all(map(_is_text, value)))
        case Shape.PAIRS:
            return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))
        case Shape.NAMES:
            return isinstance(value, dict) and all(item in (None, {}) for item in value.values())
        case Shape.OBJECT:
            return isinstance(value, dict)
        case Shape.OBJECTS:
            return isinstance(value, list) and all(isinstance(item, dict) for item in value)
        case Shape.SIZE:
            return isinstance(value, list) and len(value) == 2 and all(map(_is_size, value))
        case Shape.ANY:
            return True


def _is_text(value: Json) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_number(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value <= INT64


def _is_size(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF


def _shown(value: Json) -> str:
    return repr(value)[:120]


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
