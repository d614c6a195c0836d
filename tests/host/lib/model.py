"""What command, supervisor and tests tell each other about a host: plan, state, request, answer.."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

DEFAULT_GPUS = "3x2g.10gb,3x2g.10gb,full,full"


class Phase(StrEnum):
    BOOTING = "booting"
    UP = "up"


class Request(StrEnum):
    """What a client may ask of a supervisor on its control socket; SIGTERM takes the host down."""

    WAIT = "wait"  # answered when a boot with at least the given number is up
    POWER = "power"  # pulls the plug and boots again


@dataclass(frozen=True, slots=True)
class Plan:
    """What to boot.

    users: text of a users file, empty for the image's own users. keep: where the disk goes after a clean power-off.
    """

    name: str
    tree: str
    disk: str
    gpus: str = DEFAULT_GPUS
    users: str = ""
    keep: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What is running. leader: pid of the host's PID 1 as seen here; boot counts from 1."""

    name: str
    supervisor: int
    leader: int
    boot: int
    phase: Phase
    gpus: str
    tree: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A supervisor's answer: the state, or one sentence that says what went wrong."""

    state: State | None
    error: str = ""


def dump(record: Plan | State | Answer) -> str:
    """The JSON text of a record."""
    return json.dumps(asdict(record))


def parse_state(text: str) -> State:
    """A state from its JSON text."""
    raw = json.loads(text)
    return State(**{**raw, "phase": Phase(raw["phase"])})


def parse_answer(text: str) -> Answer:
    """An answer from its JSON text."""
    raw = json.loads(text)
    state = raw["state"]
    return Answer(parse_state(json.dumps(state)) if state is not None else None, raw["error"])


def read_plan(path: Path) -> Plan:
    """The plan in a file."""
    return Plan(**json.loads(path.read_text()))


def write_whole(path: Path, text: str) -> None:
    """Writes a file by rename, so that no reader sees a part of it."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text)
    scratch.rename(path)
