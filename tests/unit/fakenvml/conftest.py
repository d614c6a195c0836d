"""The simulated driver's own tests find it beside the suite's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FAKENVML = Path(__file__).parents[2] / "fakenvml"
if str(FAKENVML) not in sys.path:
    sys.path.insert(0, str(FAKENVML))

from fakehost import FakeHost, build_library  # noqa: E402


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    """Booted, in the default layout."""
    build_library()
    made = FakeHost(tmp_path / "host", "3x2g.10gb,3x2g.10gb,full,full")
    made.boot()
    yield made
    made.close()
