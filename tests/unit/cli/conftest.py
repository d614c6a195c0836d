from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from policy_site import Site, engine_at


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def engine(site: Site) -> Iterator[list[dict[str, Any]]]:
    with engine_at(site.docker) as containers:
        yield containers
