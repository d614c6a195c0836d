"""Events into journald. The only importer of cysystemd."""

from __future__ import annotations

import logging

from cysystemd.journal import send

from ds01.common.events import EVENTS, Event

IDENTIFIER = "ds01"
"""What journalctl shows before the message; which of the services it was says _SYSTEMD_UNIT."""

_logger = logging.getLogger(__name__)


class JournalEventLog:
    """Writes each event as one structured journal entry, in the namespace of the calling unit."""

    def emit(self, event: Event) -> None:
        """Write `event`. A journal that can't be written costs the entry, never the caller's work."""
        kind = EVENTS[event.name]
        try:
            send(
                message=event.message,
                MESSAGE_ID=kind.message_id,
                SYSLOG_IDENTIFIER=IDENTIFIER,
                PRIORITY=str(int(kind.priority)),
                **event.journal_fields(),
            )
        except (OSError, ValueError):
            _logger.exception("the journal could not take event '%s'", event.name)
