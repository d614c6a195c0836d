"""Unit tests run on the source tree: build/typing maps the folders to the installed package names."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for entry in (
    ROOT / "build" / "typing",
    Path(__file__).parent,
    Path(__file__).parent / "common",
    Path(__file__).parent / "gpu_allocator",
    Path(__file__).parent / "limits_sync",
):
    if str(entry) not in sys.path:
        sys.path.insert(0, str(entry))
