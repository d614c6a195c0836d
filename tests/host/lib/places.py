"""Where things lie: the checkout, the cache with the images, one folder per host. Owns no content."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
RECIPES = CHECKOUT / "tests/host/images"
TESTHOST = CHECKOUT / "tests/host/testhost"
CACHE = Path(os.environ.get("DS01_CACHE", "/var/cache/ds01"))
IMAGES = CACHE / "images"
HOSTS = CACHE / "hosts"
CGROUP = "ds01-testhost"
SYSTEMD = Path("/run/systemd/system")  # there where systemd manages the machine

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


class HostError(Exception):
    """Something that testhost could not do: one sentence with the way out."""


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """The files of one host."""

    name: str

    @property
    def folder(self) -> Path:
        return HOSTS / self.name

    @property
    def cgroup(self) -> str:
        """Name of its cgroup: another cache may have a host of the same name."""
        return f"{self.name}-{hashlib.sha256(os.fsencode(HOSTS)).hexdigest()[:8]}"

    @property
    def scope(self) -> str:
        """The unit that holds it where systemd manages the machine."""
        return f"{CGROUP}-{self.cgroup}.scope"

    @property
    def lock(self) -> Path:
        """Held by the host's supervisor as long as it lives."""
        return self.folder / "lock"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def disk_image(self) -> Path:
        return self.folder / "disk.img"

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def root(self) -> Path:
        return self.folder / "root"


def host_places(name: str) -> HostPlaces:
    """The places of the host of that name.

    Raises:
        HostError: the name can't be one of a machine and a cgroup.
    """
    if not _NAME.fullmatch(name):
        raise HostError(f"'{name}' is no name for a host: use small letters, digits and '-', at most 32")
    return HostPlaces(name)
