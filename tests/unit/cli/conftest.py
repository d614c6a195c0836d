from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Shell
from fake_allocator import FakeAllocator, allocator_at
from fake_docker import FakeDocker, docker_at
from policy_site import Site, engine_at


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def engine(site: Site) -> Iterator[list[dict[str, Any]]]:
    with engine_at(site.docker) as containers:
        yield containers


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.close()


@pytest.fixture
def allocator(shell: Shell) -> Iterator[FakeAllocator]:
    with allocator_at(shell.allocator) as fake:
        yield fake


@pytest.fixture
def docker(shell: Shell) -> Iterator[FakeDocker]:
    with docker_at(shell.docker) as fake:
        yield fake
