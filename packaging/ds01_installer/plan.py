"""What an installation consists of: which file goes where, what daemon.json says, which ids the engine may use. Pure.

Knows nothing of the machine at hand: what is there is an argument, what is to be done a return value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

SYSTEM_UNITS = "/usr/lib/systemd/system"
VENV = "/usr/lib/ds01/venv"
DAEMON_JSON = "/etc/docker/daemon.json"
ENGINE_SOCKET = "/run/ds01-engine/engine.sock"
LINKS = {f"/usr/local/bin/{name}": f"{VENV}/bin/{name}" for name in ("ds01", "container")}
SOCKETS = tuple(f"ds01-{name}.socket" for name in ("nvml", "limits-sync", "gpu-allocator", "docker-shim"))
DAEMONS = tuple(socket.replace(".socket", ".service") for socket in SOCKETS)
ENABLED = ("ds01.target", "ds01-boot.service", *SOCKETS)
REMAP_USER = "dockremap"
ID_RANGE = 65536
FIRST_ID = 100000
LAST_ID = 600_100_000
"""Where useradd stops handing out subordinate ids (SUB_UID_MAX in login.defs)."""

_UNIT_KINDS = frozenset({".service", ".socket", ".slice", ".target", ".timer"})
_FOLDERS = {
    "tmpfiles.d": "/usr/lib/tmpfiles.d",
    "sysusers.d": "/usr/lib/sysusers.d",
    "udev": "/usr/lib/udev/rules.d",
    "dbus": "/usr/share/dbus-1/system.d",
    "timers": SYSTEM_UNITS,
    "journald.conf.d": "/usr/lib/systemd/journald.conf.d",
}
_SINGLE = {
    "config/policy.json": "/usr/share/ds01/policy.json",
    "config/resource-limits.yaml": "/usr/share/ds01/resource-limits.yaml",
    "config/resource-limits.reference.yaml": "/usr/share/doc/ds01/resource-limits.reference.yaml",
    "packaging/ds01.catalog": "/usr/lib/systemd/catalog/ds01.catalog",
    "units/journald@ds01.conf": "/usr/lib/systemd/journald@ds01.conf",
}


class PlanError(Exception):
    """The installation can't be planned: one sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One file of the checkout and where it goes; every one of them is 0644 root:root."""

    source: str
    target: str


def layout(sources: Iterable[str]) -> tuple[Placed, ...]:
    """Where each of the checkout's files goes, those that stay behind left out.

    Raises:
        PlanError: a file below units/ has no place, so that none is ever forgotten.
    """
    found = ((source, target_of(source)) for source in sorted(sources))
    return tuple(Placed(source, target) for source, target in found if target is not None)


def target_of(source: str) -> str | None:
    """The installed path of one file of the checkout, None when it is not installed."""
    path = PurePosixPath(source)
    match path.parts:
        case _ if source in _SINGLE:
            return _SINGLE[source]
        case ("units", name) if path.suffix in _UNIT_KINDS:
            return f"{SYSTEM_UNITS}/{name}"
        case ("units", folder, name) if folder in _FOLDERS:
            return f"{_FOLDERS[folder]}/{name}"
        case ("units", folder, name) if PurePosixPath(folder.removesuffix(".d")).suffix in _UNIT_KINDS:
            return f"{SYSTEM_UNITS}/{folder}/{name}"
        case ("units", *_):
            raise PlanError(f"'{source}' has no place in the installation: give it one in plan.py")
        case ("docs", "man", name):
            return f"/usr/share/man/man{path.suffix[1:]}/{name}"
        case ("docs", *rest) if path.suffix == ".md":
            return "/usr/share/doc/ds01/" + "/".join(rest)
    return None


# --- versions -----------------------------------------------------------------------------------------------------

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Minimum:
    """The oldest version we run on, and why; `optional` programs may be absent."""

    name: str
    version: Version
    why: str
    optional: bool = False


MINIMUMS = (
    Minimum("kernel", (6, 5), "SO_PEERPIDFD says which process is asking"),
    Minimum("systemd", (255,), "restarts come in steps and journal namespaces are complete"),
    Minimum("docker", (26,), "volumes have a subpath and CDI devices work"),
    Minimum("runc", (1, 1, 12), "CVE-2024-21626 lets a container out"),
    Minimum("python", (3, 11), "the services are written for it"),
    Minimum("nvidia-container-toolkit", (1, 17, 8), "CVE-2025-23266 lets a container out", optional=True),
)


def parse_version(untrusted_text: str) -> Version | None:
    """The first dotted number in a program's version line, None when there is none."""
    found = re.search(r"\d+(?:\.\d+)*", untrusted_text)
    return tuple(int(part) for part in found.group().split(".")) if found else None


def shortfalls(found: Mapping[str, Version | None]) -> tuple[str, ...]:
    """One sentence for each minimum that the machine does not meet."""
    return tuple(_sentence(minimum, found.get(minimum.name)) for minimum in MINIMUMS if not _met(minimum, found))


def _met(minimum: Minimum, found: Mapping[str, Version | None]) -> bool:
    version = found.get(minimum.name)
    return minimum.optional if version is None else version >= minimum.version


def _sentence(minimum: Minimum, version: Version | None) -> str:
    have = "was not found" if version is None else f"is {dotted(version)}"
    return f"{minimum.name} {have}, at least {dotted(minimum.version)} is needed: {minimum.why}"


def dotted(version: Version) -> str:
    """A version as people write it."""
    return ".".join(str(part) for part in version)


# --- the engine's configuration -----------------------------------------------------------------------------------

_ENGINE: Mapping[str, object] = {
    "builder": {"Entitlements": {"network-host": False, "security-insecure": False}},
    "cdi-spec-dirs": ["/etc/cdi", "/run/cdi"],
    "cgroup-parent": "docker-unmanaged.slice",
    "default-runtime": "runc",
    "exec-opts": ["native.cgroupdriver=systemd"],
    "features": {"cdi": True},
    "icc": False,
    "live-restore": True,
    "log-driver": "json-file",
    "log-opts": {"max-file": "3", "max-size": "20m"},
    "no-new-privileges": True,
    "userns-remap": "default",
}
# What a site may have had before and keeps: where data lies and how the engine reaches the network.
_SITES_OWN = frozenset(
    {
        "bip", "data-root", "debug", "default-address-pools", "default-ulimits", "dns", "dns-opts", "dns-search",
        "fixed-cidr", "insecure-registries", "ip", "ipv6", "fixed-cidr-v6", "log-level", "max-concurrent-downloads",
        "max-concurrent-uploads", "max-download-attempts", "metrics-addr", "mtu", "proxies", "registry-mirrors",
        "storage-driver", "storage-opts",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The whole daemon.json, and the keys of the former one that it does not carry on."""

    text: str
    dropped: tuple[str, ...]
    hides_old_containers: bool


def engine_config(former_text: str | None) -> EngineConfig:
    """daemon.json, written whole: our keys, and of the former file only what is the site's to say.

    Raises:
        PlanError: the former file is not a JSON object, so nobody knows what it meant.
    """
    try:
        former = json.loads(former_text or "{}")
    except ValueError as exc:
        raise PlanError(f"'{DAEMON_JSON}' is not JSON ({exc}): correct it or move it away, then try again") from exc
    if not isinstance(former, dict):
        raise PlanError(f"'{DAEMON_JSON}' is not a JSON object: correct it or move it away, then try again")
    kept = {key: value for key, value in former.items() if key in _SITES_OWN}
    dropped = tuple(sorted(key for key in former if key not in kept and former[key] != _ENGINE.get(key)))
    text = json.dumps({**kept, **_ENGINE}, indent=2, sort_keys=True) + "\n"
    return EngineConfig(text, dropped, former.get("userns-remap") != _ENGINE["userns-remap"])


# --- subordinate ids ----------------------------------------------------------------------------------------------


def subid_line(user: str, first: int) -> str:
    """A line of /etc/subuid or /etc/subgid."""
    return f"{user}:{first}:{ID_RANGE}"


def has_subids(text: str, user: str) -> bool:
    """Whether `user` has a range in the text of /etc/subuid or /etc/subgid."""
    return any(line.split(":")[0] == user for line in text.splitlines())


def choose_range(subid_texts: Iterable[str], used_ids: Iterable[int]) -> int:
    """The first id of a free range of 65536: no other range and no existing user or group lies in it.

    Raises:
        PlanError: none is free among the ids that useradd hands out.
    """
    taken = [*_ranges(subid_texts), *((one, one) for one in used_ids)]
    for first in sorted({FIRST_ID, *(end + 1 for _, end in taken if end >= FIRST_ID)}):
        last = first + ID_RANGE - 1
        if last <= LAST_ID and all(end < first or start > last for start, end in taken):
            return first
    raise PlanError(f"no free range of {ID_RANGE} ids between {FIRST_ID} and {LAST_ID}: see /etc/subuid, /etc/subgid")


def _ranges(texts: Iterable[str]) -> Iterable[tuple[int, int]]:
    for line in (line for text in texts for line in text.splitlines()):
        match line.split(":"):
            case [_, first, count] if first.isdigit() and count.strip().isdigit():
                yield int(first), int(first) + int(count) - 1


def with_line(text: str, line: str) -> str:
    """`text` with `line` at its end, once."""
    if line in text.splitlines():
        return text
    return text + ("" if not text or text.endswith("\n") else "\n") + line + "\n"


def without_line(text: str, line: str) -> str:
    """`text` without `line`, every other byte kept."""
    return "".join(kept for kept in text.splitlines(keepends=True) if kept.rstrip("\n") != line)
