"""Every event DS01 writes to the journal: its name, MESSAGE_ID and the catalogue text that `journalctl -x` shows.

The table is the only list: the message catalogue is printed from it, docs/EVENTS.md is checked against it.
Names are `noun.past-participle`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Protocol


class Priority(IntEnum):
    """syslog(3) priorities that events use."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


@dataclass(frozen=True, slots=True)
class EventKind:
    """One row of the table. `subject` and `advice` make the catalogue entry.

    They name fields and don't quote them: journalctl fills in @FIELD@ only for names without digits.
    """

    message_id: str
    priority: Priority
    subject: str
    advice: str


EVENTS: dict[str, EventKind] = {
    "gpu.granted": EventKind(
        "f7112b81fc984e72b870cbee8c5522bd",
        Priority.INFO,
        "GPU units were leased",
        "The message names the lease, the user and the container. Nobody else gets these units until the lease ends;\n"
        "'ds01 status' shows who holds what.",
    ),
    "gpu.denied": EventKind(
        "bb0b1db5ba8147ed8afa596d578f39ec",
        Priority.INFO,
        "A user was refused a GPU",
        "DS01_REASON says why; DS01_REQUESTED, DS01_USED and DS01_LIMIT are the numbers. Limits come from the policy;\n"
        "'ds01 explain gpu' says what would be granted now.",
    ),
    "gpu.bound": EventKind(
        "e9e020573a064124be636a15d32aaa9b",
        Priority.INFO,
        "A lease now belongs to a container that exists",
        "The container was created and has not started yet.",
    ),
    "gpu.activated": EventKind(
        "c891b97d8b874da78901f3b886ba1fd3",
        Priority.INFO,
        "The container or program of a lease runs",
        "Its GPU units are in use.",
    ),
    "gpu.held": EventKind(
        "c6ed128ac6844bb592145c664eb5be36",
        Priority.INFO,
        "GPU units are held for a stopped container",
        "A start before the hold ends finds the same units; removing the container frees them at once.",
    ),
    "gpu.renewed": EventKind(
        "9fb7a462821440ad875a3dc433d78675",
        Priority.INFO,
        "A lease has units again",
        "Its container is being started after the hold had ended; the units may be others than before.",
    ),
    "gpu.draining": EventKind(
        "a2f9d0b342a9494398a7b30b8ae11d5c",
        Priority.INFO,
        "GPU units are being taken back",
        "The device entry of the lease is gone; the units are free once nothing of it runs: its container was\n"
        "twice seen not to, or its scope is gone and NVML lists no process of its user there.",
    ),
    "gpu.released": EventKind(
        "bad300718e1a43858b08ae02310ca0b8",
        Priority.INFO,
        "GPU units are free again",
        "The lease ended; DS01_REASON says why.",
    ),
    "gpu.waiting": EventKind(
        "3c0897c6178147069d3176c579528f11",
        Priority.NOTICE,
        "A lease waits for its GPU units",
        "They do not exist at the moment, so no device entry is written and the container can't start. Make the MIG\n"
        "instances again with the site's MIG service, or let 'docker start' lease other units.",
    ),
    "gpu.returned": EventKind(
        "6bac400dfdfb4df28b997ebad3f29790",
        Priority.INFO,
        "The GPU units of a lease exist again",
        "Its container can start.",
    ),
    "gpu.lost": EventKind(
        "2e530ac39b424f06b251beb91301011b",
        Priority.WARNING,
        "GPU units vanished under a running lease",
        "The MIG layout was changed, or the GPU is gone. What runs there can't use it any more; its owner is told by\n"
        "'ds01 status'. The lease ends with its container.",
    ),
    "gpu.withheld": EventKind(
        "8e1b304e3fa94ee5ab864aaebefaea16",
        Priority.WARNING,
        "A GPU is given to nobody",
        "DS01_REASON says why. What runs on it goes on; the GPU comes back by itself when it is well. See\n"
        "'nvidia-smi' and the kernel's journal.",
    ),
    "gpu.restored": EventKind(
        "9e613adf649e4c04bba0b58e97ce5c75",
        Priority.NOTICE,
        "A GPU can be leased again",
        "DS01_OLD says what was wrong with it.",
    ),
    "gpu.bypassed": EventKind(
        "507087774d834fa8bafd4f287470c1c7",
        Priority.WARNING,
        "A container has GPUs without a lease",
        "It was started at the engine's own socket, past DS01. Its units are given to nobody until it ends: create it\n"
        "anew through /run/docker.sock.",
    ),
    "gpu.mismatched": EventKind(
        "272cd6d5e5c04ee6ae8da2bf053720ba",
        Priority.ERROR,
        "A container has other GPU nodes than its lease",
        "DS01_REASON names the nodes that are too many or missing. Stop the container and look at /run/cdi/ds01.json.",
    ),
    "gpu.intruded": EventKind(
        "4ab65157131942f5803bd2cbd17e3a82",
        Priority.WARNING,
        "A process computes on a GPU that it has no lease for",
        "DS01_REASON names the process. It is left alone; nobody else is given the unit while it is there. It may\n"
        "have escaped from its scope, or kept a device open beyond the end of its lease.",
    ),
    "queue.joined": EventKind(
        "2ed463ea8eb846d889270be18716b304",
        Priority.INFO,
        "A user waits for GPUs",
        "'ds01 queue' shows everybody who waits, and why.",
    ),
    "queue.left": EventKind(
        "c88c78beeaba460986037bb0232f0814",
        Priority.INFO,
        "A user waits no more",
        "DS01_REASON says why.",
    ),
    "login.closed": EventKind(
        "76f15203434e473391054f2bf4fe64c8",
        Priority.INFO,
        "GPUs were closed to login sessions",
        "The time of a grant is over. Programs that had opened the GPU keep it until they end, and so does the lease.",
    ),
    "login.close-failed": EventKind(
        "5cb8c480504e45959fae483aa2d21bb5",
        Priority.WARNING,
        "GPUs could not be closed to login sessions",
        "systemd did not answer. Its own timer ds01-LEASE.timer does the same; see 'systemctl list-timers'.",
    ),
    "ledger.broken": EventKind(
        "9ee91b5c1fd649b1810af603c9306004",
        Priority.ERROR,
        "The ledger can't be used",
        "Nothing new is granted or released, what runs goes on. DS01_REASON says why: a full disk, a file system that\n"
        "is read-only, or a damaged file, which 'ds01 ledger rebuild' makes anew.",
    ),
    "ledger.mended": EventKind(
        "bba372209e4940698475ec95f53f834a",
        Priority.NOTICE,
        "The ledger is written again",
        "GPUs are granted and released again.",
    ),
    "ledger.rebuilt": EventKind(
        "618fd9f057914e7faafe586bf2682d18",
        Priority.NOTICE,
        "The ledger was made anew from what runs",
        "An administrator ran 'ds01 ledger rebuild'. The message says what was found; the old file is kept beside it.",
    ),
    "container.restarted": EventKind(
        "68b8be8c8e6e4dd494d16b675c9537f7",
        Priority.NOTICE,
        "A container was started again",
        "Its restart policy asked for it and the engine had given up, since its GPU was not there at that moment.",
    ),
    "container.restart-failed": EventKind(
        "4a70687ea5d1429fa3f66e3a8f241830",
        Priority.NOTICE,
        "A container could not be started again",
        "DS01_REASON is what the engine says. Its GPU is held until the hold is over; 'docker start' tries again.",
    ),
    "access.refused": EventKind(
        "1bcbc70a55734c28843ff4cce9face02",
        Priority.INFO,
        "A request to the Docker socket was refused",
        "It was not carried out. DS01_REASON says why; SHIM.md below /usr/share/doc/ds01 lists what users may ask for.",
    ),
    "slice.ensured": EventKind(
        "e74518ee1617451aa87af94c13ee8c60",
        Priority.INFO,
        "The slice of a user was made with its limits",
        "See 'systemctl status' of the slice and 'systemd-cgls' for what runs in it.",
    ),
    "limits.applied": EventKind(
        "e95cbefdea2c42e09407d3dce68656c6",
        Priority.INFO,
        "Limits changed on something that runs",
        "DS01_OLD and DS01_NEW are the limits before and after; the policy of now asks for the new ones.\n"
        "'ds01 policy explain' tells where a limit comes from.",
    ),
    "limits.restored": EventKind(
        "bf88372159c542828d8ac184f55bccaf",
        Priority.NOTICE,
        "Limits that were changed by hand hold again",
        "Limits come from /etc/ds01/resource-limits.yaml alone: edit it, and it holds at once. DS01_REASON names the\n"
        "drop-ins that say otherwise; 'systemctl revert UNIT' removes them.",
    ),
    "limits.rejected": EventKind(
        "63d728f279a64c6e884a597e0789ce8e",
        Priority.NOTICE,
        "The policy's files can't be used and nothing was changed",
        "The last good policy goes on holding. 'ds01 policy check' tells every problem with its line, and what to\n"
        "write instead.",
    ),
    "limits.postponed": EventKind(
        "a2f48920c3d245c4a177fd23a3e4ff19",
        Priority.NOTICE,
        "A lowered memory limit waits, since more is in use",
        "CPU, processes and memory_high follow at once; memory_max when the use has gone down, or after\n"
        "policies.shrink_grace all the same. DS01_USED is in use, DS01_LIMIT the limit to come.",
    ),
    "limits.failed": EventKind(
        "bfcbfcd0a36c4bb0be974aceb5cfc007",
        Priority.NOTICE,
        "A limit could not be set",
        "DS01_REASON says why. It is tried again; until then the former limit holds.",
    ),
    "policy.published": EventKind(
        "743e7212d5dd47e8aed176899cf3ffae",
        Priority.INFO,
        "A new policy holds",
        "It was read from /etc/ds01 and compiled to /run/ds01/policy.json. 'ds01 policy show' tells what holds for\n"
        "whom.",
    ),
    "container.oom-killed": EventKind(
        "3fd5896d54184010a7db67bd79f0ce2d",
        Priority.NOTICE,
        "A container was out of memory",
        "The kernel killed a process in it, at the container's own limit or at that of all its owner's containers\n"
        "together. "
        "DS01_LIMIT tells both; more memory is asked for with 'docker run --memory', up to the limit.",
    ),
    "engine.lost": EventKind(
        "8d42cdbda9bd43bdb00514a76a229ead",
        Priority.NOTICE,
        "The Docker engine does not answer",
        "Until it does nothing is granted or released; what runs goes on. See 'systemctl status docker'.",
    ),
    "engine.found": EventKind(
        "5e7b91b912dd4581bc6978395db3439e",
        Priority.INFO,
        "The Docker engine answers",
        "The ledger has been compared with its containers.",
    ),
    "nvml.lost": EventKind(
        "4061126bab804ee999fc6b11af841330",
        Priority.NOTICE,
        "The state of the GPUs is unknown",
        "NVML does not answer or there is no driver. Nothing is granted until it does.\n"
        "See 'systemctl status ds01-nvml'.",
    ),
    "nvml.found": EventKind(
        "ff9c40ccff3241f1b2cacdf12afdc305",
        Priority.INFO,
        "The GPUs of this machine were read",
        "DS01_NEW lists the units that can be leased.",
    ),
    "boot.restored": EventKind(
        "dc919fed99514c348eb8d28322c68839",
        Priority.INFO,
        "Slices and device entries were restored before Docker started",
        "Containers with a restart policy find their limits and GPUs in place. DS01_NEW lists the slices.",
    ),
    "boot.degraded": EventKind(
        "7d206f545b37495cbe06159c4ab843f8",
        Priority.WARNING,
        "Not everything could be restored before Docker started",
        "DS01_REASON says what. Containers whose GPU is missing stay stopped; 'ds01 status' lists the units.",
    ),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Empty fields are left out of the journal entry; `request` runs from client to engine."""

    name: str
    message: str
    user: str = ""
    uid: int | None = None
    group: str = ""
    lease: str = ""
    gpu: str = ""
    container: str = ""
    container_name: str = ""
    reason: str = ""
    limit: str = ""
    used: str = ""
    requested: str = ""
    request: str = ""
    old: str = ""
    new: str = ""
    count: int | None = None

    def journal_fields(self) -> dict[str, str]:
        """The fields of the journal entry: DS01_EVENT, DS01_USER, … for what is set."""
        found = {"DS01_EVENT": self.name}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("name", "message") and value not in ("", None):
                found[f"DS01_{item.name.upper()}"] = str(value)
        return found


class EventLog(Protocol):
    """Where events go."""

    def emit(self, event: Event) -> None:
        """Write `event`; never raises."""


def catalog() -> str:
    """The message catalogue (see journald's catalogue format), one entry per event."""
    head = "# Message catalogue of DS01. Made from the table of events.\n"
    page = "file:/usr/share/doc/ds01/EVENTS.md"
    entries = [
        f"\n-- {kind.message_id}\nSubject: {kind.subject}\nDefined-By: DS01\nSupport: {page}\n\n{kind.advice}\n"
        for kind in EVENTS.values()
    ]
    return head + "".join(entries)
