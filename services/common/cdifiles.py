"""CDI files on disk: reads the vendor's, writes ours."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ds01.common.cdi import NO_VENDOR, VendorSpec, node_paths, parse_vendor

VENDOR_FILES = (Path("/etc/cdi/nvidia.yaml"), Path("/var/run/cdi/nvidia.yaml"))
"""Where nvidia-ctk and nvidia-cdi-refresh.service put their specification."""

SPEC_DIR = Path("/run/cdi")
SPEC_NAME = "ds01.json"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class CdiFiles:
    """The vendor's specification, re-read when it or a node changes; ours, replaced by rename."""

    def __init__(self, vendor_files: tuple[Path, ...] = VENDOR_FILES, spec_dir: Path = SPEC_DIR) -> None:
        self._vendor_files = vendor_files
        self._spec_dir = spec_dir
        self._stamp: tuple[str, int, int] | None = None
        self._parsed = NO_VENDOR
        self._written: str | None = None

    def vendor(self, wanted: Container[str] | None = None) -> VendorSpec:
        """The vendor's specification with the devices whose nodes exist now, of those `wanted` (by name; None: of all);
        an empty one if there is none."""
        parsed = self._parse()
        present = {
            name: edits
            for name, edits in parsed.devices.items()
            if (wanted is None or name in wanted) and all(map(os.path.exists, node_paths(edits)))
        }
        return replace(parsed, devices=present)

    def write(self, spec: Mapping[str, Any]) -> None:
        """Put our specification in place, if it differs from what was written last.

        The temporary file lies in the same folder: the engine's cache ignores files that are created elsewhere and
        moved in, and would go on with the old devices.
        """
        text = _text(spec)
        if text == self._written:
            return
        if self._written is None:
            self._spec_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._remove_what_a_kill_left()
        temporary = self._spec_dir / f".{SPEC_NAME}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", opener=_world_readable) as file:
            file.write(text)
        os.replace(temporary, self._spec_dir / SPEC_NAME)
        self._written = text

    def _remove_what_a_kill_left(self) -> None:
        for stale in self._spec_dir.glob(f".{SPEC_NAME}.*"):
            stale.unlink(missing_ok=True)

    def _parse(self) -> VendorSpec:
        for path in self._vendor_files:
            try:
                found = path.stat()
                stamp = (str(path), found.st_ino, found.st_mtime_ns)
                if stamp != self._stamp:
                    self._parsed = parse_vendor(yaml.load(path.read_bytes(), Loader=_Loader))
                    self._stamp = stamp
            except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
                continue
            return self._parsed
        return NO_VENDOR


def _text(spec: Mapping[str, Any]) -> str:
    """JSON with a line for each device: quick to write, and still to be read."""
    rest = json.dumps({key: value for key, value in spec.items() if key != "devices"}, sort_keys=True)
    devices = ",\n".join(json.dumps(device, sort_keys=True) for device in spec["devices"])
    return f'{{"devices": [\n{devices}\n], {rest[1:]}\n' if len(rest) > 2 else f'{{"devices": [{devices}]}}\n'


def _world_readable(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_TRUNC, 0o644)
