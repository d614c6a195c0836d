"""Word to systemd about ourselves. The only importer of sdnotify."""

from __future__ import annotations

import time

from sdnotify import SystemdNotifier


class Notifier:
    """READY=1, STATUS= and the watchdog; silent where systemd did not start us."""

    def __init__(self) -> None:
        self._notifier = SystemdNotifier()

    def ready(self, status: str) -> None:
        """Start-up is complete."""
        self._notifier.notify(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; systemd waits for its end (Type=notify-reload wants the time, sd_notify(3))."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """A reload has ended."""
        self._notifier.notify("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._notifier.notify(f"STATUS={text}")

    def alive(self) -> None:
        """The main loop turns."""
        self._notifier.notify("WATCHDOG=1")

    def stopping(self) -> None:
        """Shutdown has begun."""
        self._notifier.notify("STOPPING=1")
