"""The installer runs from packaging/ without being installed itself."""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGING = str(Path(__file__).parents[3] / "packaging")
if PACKAGING not in sys.path:
    sys.path.insert(0, PACKAGING)
