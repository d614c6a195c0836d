"""A program that uses NVML: evaluates one expression a line from stdin and answers with one JSON line.

It runs in a process of its own, since the library is found by the loader and a call may hang.
"""

import json
import sys
from dataclasses import asdict

import pynvml

from ds01.common.adapters.nvml import NvmlReader
from ds01.common.errors import Unavailable

reader = NvmlReader()


def inventory() -> object:
    return asdict(reader.inventory())


def gpu(index: int) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def mig(index: int, number: int) -> object:
    return pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(index), number)


def register(event_set: object, index: int) -> None:
    pynvml.nvmlDeviceRegisterEvents(gpu(index), pynvml.nvmlEventTypeXidCriticalError, event_set)


def wait(event_set: object, timeout_ms: int) -> object:
    data = pynvml.nvmlEventSetWait_v2(event_set, timeout_ms)
    return [data.eventType, data.eventData, pynvml.nvmlDeviceGetUUID(data.device)]


def answer(expression: str) -> dict[str, object]:
    """`value`, NVML's `error` number, or why the GPUs are `unavailable`."""
    try:
        return {"value": eval(expression, {**vars(pynvml), **globals()}, kept)}
    except pynvml.NVMLError as exc:
        return {"error": exc.value}
    except Unavailable as exc:
        return {"unavailable": str(exc)}


kept: dict[str, object] = {}
for line in sys.stdin:
    print(json.dumps(answer(line.strip()), default=lambda _: None), flush=True)
