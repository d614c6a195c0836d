"""Creates and starts a container, and waits for its turn if it is told to."""

from __future__ import annotations

from typing import Any

import click

from ds01.cli import render
from ds01.cli.docker_api import TIMEOUT_S, Answer, Pending, down, request
from ds01.cli.exits import CommandError, Exit
from ds01.cli.news import News
from ds01.cli.wait_option import seconds
from ds01.cli.waiting import request_id, wait_for

REQUEST_HEADER = "X-DS01-Request"
WAIT_LABEL = "ds01.wait"


class _Broken(OSError):
    """What must answer was away for a moment, and said so."""

    def __init__(self, error: CommandError) -> None:
        super().__init__(error.message)
        self.error = error


class _Create(Pending):
    """A create that waits. A daemon that restarts is like a connection that breaks: the place in the queue is kept."""

    def answer(self) -> Answer:
        try:
            return super().answer()
        except CommandError as error:
            if error.status is Exit.DOWN:
                raise _Broken(error) from error
            raise


def deploy(full_name: str, image: str, gpus: str, wait: str | None) -> float | None:
    """Create and start the container; the seconds that it waited in the queue, None if it did not.

    Raises:
        CommandError: refused, or what must answer does not.
    """
    body = create_body(render.short_name(full_name), image, gpus, wait)
    news = News()
    if wait is None:
        created = request("POST", "/containers/create", {"name": full_name}, body)
    else:
        created = _created_in_turn(full_name, body, seconds(wait), news)
    for warning in created.get("Warnings") or []:
        click.echo(f"note: {warning}", err=True)
    waited_s = news.waited_s if news.waited else None
    try:
        request("POST", f"/containers/{created['Id']}/start")
    except (CommandError, KeyboardInterrupt):
        request("DELETE", f"/containers/{created['Id']}", {"force": "1", "v": "1"})
        raise
    return waited_s


def create_body(name: str, image: str, gpus: str, wait: str | None) -> dict[str, Any]:
    """The body of the create: GPUs as Docker's own clients ask for them, the waiting as a label."""
    host_config: dict[str, Any] = {"Init": True}
    if gpus != "0":
        host_config["DeviceRequests"] = [device_request(gpus)]
    return {
        "Image": image,
        "Hostname": name.replace("_", "-"),
        "Entrypoint": ["sleep"],
        "Cmd": ["infinity"],
        "Tty": True,
        "OpenStdin": True,
        "HostConfig": host_config,
        **({} if wait is None else {"Labels": {WAIT_LABEL: wait or "true"}}),
    }


def device_request(gpus: str) -> dict[str, Any]:
    """`docker run --gpus` knows a number, all and device=…; everything else goes the way of the last."""
    if gpus == "all" or (gpus.isascii() and gpus.isdigit() and len(gpus) < 10):
        return {"Count": -1 if gpus == "all" else int(gpus), "Capabilities": [["gpu"]]}
    return {"DeviceIDs": [gpus.removeprefix("device=")], "Capabilities": [["gpu"]]}


def _created_in_turn(full_name: str, body: dict[str, Any], wait_s: float, news: News) -> dict[str, Any]:
    """The answer to a create that may be long in coming. Ctrl-C hangs up, and so leaves the queue."""
    name = request_id()

    def send() -> _Create:
        return _Create("POST", "/containers/create", {"name": full_name}, body, {REQUEST_HEADER: name})

    try:
        return dict(wait_for(send, name, news, wait_s + TIMEOUT_S).value)
    except _Broken as exc:
        raise exc.error from exc
    except OSError as exc:
        raise down(exc) from exc
    except KeyboardInterrupt as exc:
        left = f"you left the queue; '{render.short_name(full_name)}' was not created"
        raise CommandError(Exit.INTERRUPTED, left if news.waited else "given up") from exc
    finally:
        news.end()
