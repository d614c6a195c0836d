from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ds01.common.daemon import listen_sockets, watchdog_period_s
from ds01.common.errors import Unavailable

TYPING = Path(__file__).parents[3] / "build" / "typing"
DAEMON = """
import asyncio, sys
from contextlib import AsyncExitStack
from ds01.common.daemon import run, supervise

class Said:
    def ready(self, status): print("ready", status, flush=True)
    def status(self, text): print("status", text, flush=True)
    def alive(self): print("alive", flush=True)
    def stopping(self): print("stopping", flush=True)

async def fails():
    await asyncio.sleep(0.05)
    raise ValueError("on purpose")

async def start(stack):
    stack.callback(lambda: print("closed", flush=True))
    if sys.argv[1] == "dies":
        supervise(asyncio.create_task(fails(), name="worker"))
    return "up"

run(start, Said())
"""


def daemon(how: str, **environment: str) -> subprocess.Popen[str]:
    variables = {"PYTHONPATH": str(TYPING), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", DAEMON, how], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_it_says_ready_lives_and_ends_on_sigterm() -> None:
    process = daemon("lives", WATCHDOG_USEC="200000")
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(4)] == ["ready up", "alive", "alive", "alive"]
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert out.split()[-2:] == ["stopping", "closed"]
    assert process.returncode == 0


def test_a_task_that_dies_ends_the_daemon_with_a_traceback() -> None:
    process = daemon("dies")
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "on purpose" in err


@pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_sockets_come_from_systemd_or_not_at_all(environment: dict[str, str]) -> None:
    with pytest.raises(Unavailable, match=r"ds01\.target"):
        listen_sockets(environment, os.getpid())


def test_sockets_have_the_names_of_their_units() -> None:
    script = (
        "import os, sys; from ds01.common.daemon import listen_sockets;"
        "found = listen_sockets({**os.environ, 'LISTEN_PID': '1'}, 1);"
        "print({name: len(items) for name, items in found.items()})"
    )
    one, other = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    moving = f"import os; os.dup2({one.fileno()}, 3); os.dup2({other.fileno()}, 4);"
    done = subprocess.run(
        [sys.executable, "-c", moving + script],
        env={"PYTHONPATH": str(TYPING), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "allocator:allocator"},
        pass_fds=(one.fileno(), other.fileno()),
        capture_output=True,
        text=True,
    )
    one.close()
    other.close()
    assert done.stdout.strip() == "{'allocator': 2}", done.stderr


@pytest.mark.parametrize(("usec", "period_s"), [("30000000", 15.0), ("", None)])
def test_the_watchdog_is_fed_twice_as_often_as_asked(usec: str, period_s: float | None) -> None:
    assert watchdog_period_s({"WATCHDOG_USEC": usec}) == period_s
