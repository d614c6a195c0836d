from __future__ import annotations

import asyncio
import threading

import pytest

from ds01.common.errors import Unavailable
from ds01.nvml.reading import OneReading


def test_callers_at_the_same_time_share_one_call() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def read() -> int:
        calls.append(1)
        gate.wait(5)
        return len(calls)

    async def scene() -> None:
        reading = OneReading(read, timeout_s=5)
        askers = [asyncio.create_task(reading.value()) for _ in range(10)]
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*askers) == [1] * 10
        assert await reading.value() == 2

    asyncio.run(scene())


def test_a_call_that_hangs_is_told_to_everybody_and_not_made_again() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def read() -> str:
        calls.append(1)
        gate.wait(20)
        return "back"

    async def scene() -> None:
        reading = OneReading(read, timeout_s=0.1)
        for _ in range(3):
            with pytest.raises(Unavailable, match="has not answered"):
                await reading.value()
        assert len(calls) == 1
        gate.set()
        assert await OneReading(read, timeout_s=5).value() == "back"

    asyncio.run(scene())


def test_what_the_reader_says_is_passed_on() -> None:
    def read() -> int:
        raise Unavailable("there is no driver")

    async def scene() -> None:
        reading = OneReading(read)
        for _ in range(2):
            with pytest.raises(Unavailable, match="no driver"):
                await reading.value()

    asyncio.run(scene())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_call_that_outlives_the_service_says_nothing() -> None:
    gate = threading.Event()

    async def scene() -> None:
        with pytest.raises(Unavailable):
            await OneReading(lambda: gate.wait(20), timeout_s=0.05).value()

    asyncio.run(scene())
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "nvml":
            thread.join(20)
