"""What an installation made and replaced, so that it can be taken away byte for byte: manifest.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

SCHEMA = 1


@dataclass(slots=True)
class Manifest:
    """The inventory. It is saved before the machine is changed, so that half an installation can be undone too.

    made: installed path → sha256 of what we wrote there; "" for a link or a file not yet written.
    replaced: installed path → name of the copy of what was there before, its mode, owner and group.
    """

    made: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, tuple[str, int, int, int]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    complete: bool = False


def load(path: Path) -> Manifest | None:
    """The manifest of the installation on this machine, None when there is none."""
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if raw.pop("schema") != SCHEMA:
        raise ValueError(f"'{path}' was written by another version: use that version's installer to uninstall first")
    raw["replaced"] = {name: tuple(value) for name, value in raw["replaced"].items()}
    raw["lines"] = [tuple(line) for line in raw["lines"]]
    return Manifest(**raw)


def dump(manifest: Manifest) -> str:
    """The text of manifest.json."""
    return json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1, sort_keys=True) + "\n"
