"""A program that uses NVML, and our reader on it: evaluates one expression a line of stdin, answers with one JSON line.

It runs in a process of its own, since the library is found by the loader and a call may hang.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pynvml

from ds01.common.adapters.nvml import NvmlReader, XidEvents
from ds01.common.errors import Unavailable
from ds01.nvml.checkup import Checkup
from ds01.nvml.notes import XidNotes
from ds01.nvml.watch import XidWatch

reader = NvmlReader()
notes = XidNotes(Path(os.environ["FAKEGPU_NOTES"]))
checkup = Checkup(reader, notes)


def inventory() -> object:
    return asdict(checkup.inventory())


def processes() -> object:
    return asdict(reader.processes())


def watch() -> None:
    XidWatch(XidEvents(), notes, pause_s=0.05).start()


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
