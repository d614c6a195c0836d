"""What "could not" looks like. A "no" is a return value with numbers; these are the other cases.

Ds01Error
├─ Unavailable    something that must answer does not (engine, NVML, systemd, another service)
├─ Malformed      what came from outside can't be parsed
├─ PeerRefused    who asks can't be told, or may not ask at all
├─ PolicyInvalid  the compiled policy is missing or not of a known schema
├─ LedgerBroken   the ledger can't be read or written: nothing new is granted
└─ EngineRefused  the engine answered with an error status
"""

from __future__ import annotations


class Ds01Error(Exception):
    """One sentence: what, which one, the numbers, what to do next."""


class Unavailable(Ds01Error):
    """Something that must answer does not."""


class Malformed(Ds01Error):
    """Input from outside that can't be parsed."""


class PeerRefused(Ds01Error):
    """The process at the other end of a socket can't be told, or may not ask."""


class PolicyInvalid(Ds01Error):
    """The compiled policy is missing, unreadable or of another schema."""


class LedgerBroken(Ds01Error):
    """The ledger can't be read or written."""


class EngineRefused(Ds01Error):
    """The engine answered `status` (HTTP) with `message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the engine answered {status}: {message}")
        self.status = status
        self.message = message
