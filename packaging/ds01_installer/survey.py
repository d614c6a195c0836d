"""The containers that go out of sight when the engine's user namespace is turned on or off, and how to keep them."""

from __future__ import annotations

from ds01_installer import machine
from ds01_installer.talk import Refused, Talk


def clear_containers(talk: Talk, why: str, *, may_stop: bool) -> None:
    """Names every container there is and stops the running ones, if that was allowed.

    Raises:
        Refused: some run and may not be stopped.
    """
    found = machine.containers()
    if found is None:
        talk.note("the engine does not answer: containers that it has, if any, will not be visible afterwards")
        return
    running, stopped = found
    if not running and not stopped:
        return
    talk.note(f"{why}; images and containers of now stay on disk but out of sight:")
    for name in (*running, *stopped):
        talk.note(f"  {name}")
    talk.note("to keep one: `docker commit NAME IMAGE && docker save -o FILE IMAGE` now, `docker load -i FILE` later")
    if running and not may_stop:
        raise Refused(
            f"{len(running)} containers are running: stop them, or say --stop-containers and they are stopped", 75
        )
    machine.stop_containers()
