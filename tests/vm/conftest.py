"""Fixtures of the kernel tests: one VM for the whole session, and a journal that must stay quiet.

    vm              the VM; a test leaves no container and the shipped policy behind
    expect_warnings marker: regular expressions of the journal messages (warning or above) that this test may cause

Files run in the order of their names: what boots the VM again comes last. After a failure its console and journal are
in build/journal/.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from lib.people import ENGINE, POLICY, SHIPPED_POLICY
from lib.places import CHECKOUT
from machine.vm import VMS, RunningVm

_JOURNALS = CHECKOUT / "build/journal"
_PREFIX = "pytest-"
_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "expect_warnings(*patterns): journal messages that this test may cause")


def pytest_sessionstart() -> None:
    """Files of a session that was killed are taken away; its VM ended with it."""
    for folder in VMS.glob(f"{_PREFIX}*"):
        if not Path(f"/proc/{folder.name.removeprefix(_PREFIX)}").exists():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = getattr(item, "funcargs", {}).get("shared_vm")
    if report.failed:
        item.stash[_failed] = True
        if running is not None:
            running.save_logs(_JOURNALS, re.sub(r"[^A-Za-z0-9._-]+", "_", item.nodeid.removeprefix("tests/")))
    return report


@pytest.fixture(scope="session")
def shared_vm() -> Iterator[RunningVm]:
    """The session's VM; tests use `vm`, which watches its journal."""
    running = RunningVm.boot(f"{_PREFIX}{os.getpid()}")
    try:
        yield running
    finally:
        running.end()


@pytest.fixture
def vm(shared_vm: RunningVm, request: pytest.FixtureRequest) -> Iterator[RunningVm]:
    """The VM with its default users and GPUs."""
    with _watched(shared_vm, request):
        yield shared_vm
        _clear(shared_vm)


def _clear(running: RunningVm) -> None:
    running.root(f"docker -H {ENGINE} ps -aq | xargs -r docker -H {ENGINE} rm -fv")
    running.root(f"cp {SHIPPED_POLICY} {POLICY} && systemctl reload ds01-limits-sync.service")


@contextlib.contextmanager
def _watched(running: RunningVm, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test for a warning in the journal that no `expect_warnings` names."""
    begin = running.now_s()
    yield
    if request.node.stash.get(_failed, False):
        return
    marks = request.node.iter_markers("expect_warnings")
    allowed = [re.compile(pattern) for mark in marks for pattern in mark.args]
    said = [entry.get("MESSAGE", "") for entry in running.warnings(begin)]
    unexpected = [text for text in said if not any(pattern.search(text) for pattern in allowed)]
    assert not unexpected, "unexpected in the journal:\n" + "\n".join(unexpected)
