"""Fixtures of the host tests: a shared host, fresh ones on demand, and a journal that must stay quiet.

    host            one host for the whole session; leave it as you found it
    fresh_host      a factory: fresh_host("--gpus", "full") boots one of its own for this test
    expect_warnings marker: regular expressions of the journal messages (warning or above) that this test may cause

After a failure the journals of the test's hosts are in build/journal/.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib import host as hosts
from lib.places import CHECKOUT, HostError, host_places
from lib.running import RunningHost

_JOURNALS = CHECKOUT / "build/journal"
_PREFIX = "pytest-"
_failed = pytest.StashKey[bool]()
_used = pytest.StashKey[list[RunningHost]]()
_numbers = iter(range(1, 1_000_000))

FreshHost = Callable[..., RunningHost]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expect_warnings(*patterns): journal messages that this test may cause")


def pytest_sessionstart() -> None:
    """Hosts of a session that was killed are taken away."""
    for name in hosts.names():
        owner = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and not Path(f"/proc/{owner}").exists():
            hosts.down(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
        _save_journals(item)
    return report


@pytest.fixture(scope="session")
def shared_host() -> Iterator[RunningHost]:
    """The session's host; tests use `host`, which watches its journal."""
    yield from _booted()


@pytest.fixture
def host(shared_host: RunningHost, request: pytest.FixtureRequest) -> Iterator[RunningHost]:
    """The shared host: default users and GPUs."""
    with _watched(shared_host, request):
        yield shared_host


@pytest.fixture
def fresh_host(request: pytest.FixtureRequest) -> Iterator[FreshHost]:
    """Boots hosts for this test alone; takes the options of `testhost up`."""
    with contextlib.ExitStack() as stack:

        def boot(*options: str) -> RunningHost:
            booted = stack.enter_context(contextlib.contextmanager(_booted)(*options))
            return stack.enter_context(_watched(booted, request))

        yield boot


def _booted(*options: str) -> Iterator[RunningHost]:
    booted = RunningHost.boot(f"{_PREFIX}{os.getpid()}-{next(_numbers)}", *options)
    try:
        yield booted
    finally:
        booted.end()


@contextlib.contextmanager
def _watched(running: RunningHost, request: pytest.FixtureRequest) -> Iterator[RunningHost]:
    """Fails the test for a warning in the journal that no `expect_warnings` names."""
    request.node.stash.setdefault(_used, []).append(running)
    begin = time.time()
    yield running
    if request.node.stash.get(_failed, False) or not hosts.is_alive(host_places(running.name)):
        return
    marks = request.node.iter_markers("expect_warnings")
    allowed = [re.compile(pattern) for mark in marks for pattern in mark.args]
    said = [entry.get("MESSAGE", "") for entry in running.warnings(begin)]
    unexpected = [text for text in said if not any(pattern.search(text) for pattern in allowed)]
    assert not unexpected, "unexpected in the journal:\n" + "\n".join(unexpected)


def _save_journals(item: pytest.Item) -> None:
    for running in item.stash.get(_used, []):
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", item.nodeid.removeprefix("tests/host/"))
        with contextlib.suppress(HostError):
            running.save_journal(_JOURNALS / f"{name}.log")
