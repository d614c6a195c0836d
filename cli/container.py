"""`container`: deploy, retire and list one's own containers, by the same Docker socket as everybody."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any

import click

from ds01.cli import deploying, notices, render
from ds01.cli.allocator_api import call
from ds01.cli.docker_api import request
from ds01.cli.exits import CommandError, Commands, Exit
from ds01.cli.wait_option import Waits, gpus_option, wait_option

DEFAULT_IMAGE = "debian"
STOP_TIMEOUT_S = 10
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Containers of your own, with limits and GPUs that nobody else holds.

    \b
    Examples:
      container deploy my-project
      container list
      container retire my-project
    """


@main.command(cls=Waits)
@click.argument("name")
@click.option("--image", default=DEFAULT_IMAGE, show_default=True, help="Image to start from.")
@gpus_option("1")
@wait_option
@click.option("-d", "--background", is_flag=True, help="Start in the background, open no shell.")
def deploy(name: str, image: str, gpus: str, wait: str | None, background: bool) -> None:
    """Create and start container NAME, and open a shell in it.

    \b
    Examples:
      container deploy my-project
      container deploy train --image pytorch --gpus 2x2g.10gb -d
      container deploy train --wait=2h
    """
    full_name = _full_name(name)
    waited = deploying.deploy(full_name, image, gpus, wait)
    _tell_deployed(name, full_name, waited)
    if not background and sys.stdin.isatty() and sys.stdout.isatty():
        shell = "command -v bash >/dev/null && exec bash; exec sh"
        os.execvp("docker", ["docker", "exec", "-it", full_name, "sh", "-c", shell])


@main.command()
@click.argument("name")
@click.option("-f", "--force", is_flag=True, help="Kill it at once instead of stopping it in order.")
def retire(name: str, force: bool) -> None:
    """Stop and remove container NAME and free its GPU at once. Files in the container are gone.

    \b
    Examples:
      container retire my-project
      container retire train --force
    """
    found = _find(name)
    held = _units_of(found["Name"].removeprefix("/"))
    if found["State"]["Running"] and not force:
        request("POST", f"/containers/{found['Id']}/stop", {"t": str(STOP_TIMEOUT_S)})
    request("DELETE", f"/containers/{found['Id']}", {"force": "1", "v": "1"})
    freed = f"; GPU {', '.join(held)} {'is' if len(held) == 1 else 'are'} free again" if held else ""
    click.echo(f"'{name}' is retired{freed}")


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output with stable keys.")
def list_(as_json: bool) -> None:
    """List your containers, in any state, with their GPUs.

    \b
    Examples:
      container list
      container list --json
    """
    notices.tell(os.getuid(), time.time())
    held = _held()
    rows = [_row(item, held) for item in request("GET", "/containers/json", {"all": "1"})]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("You have no containers. Start one with: container deploy NAME")
    else:
        cells = [[row["name"], row["status"], ", ".join(row["gpus"]) or "-", row["image"]] for row in rows]
        click.echo(render.table(["NAME", "STATUS", "GPU", "IMAGE"], cells))


def _tell_deployed(name: str, full_name: str, waited_s: float | None) -> None:
    units = _units_of(full_name)
    where = f"on GPU {', '.join(units)}" if units else "without a GPU"
    if units and waited_s is not None:
        click.echo(f"GPU {', '.join(units)} came free after {render.duration(waited_s)}")
    click.echo(f"'{name}' runs {where}")
    click.echo(f"  enter it:  docker exec -it {full_name} sh")
    click.echo(f"  end it:    container retire {name}")


def _full_name(name: str) -> str:
    """`train._.1001`: names are everybody's own because the uid is part of them."""
    if not NAME.fullmatch(name):
        raise CommandError(
            Exit.USAGE,
            f"'{name}' can't be a container's name",
            "use up to 63 letters, digits, '-' and '_', beginning with a letter or digit",
        )
    return f"{name}._.{os.getuid()}"


def _find(name: str) -> dict[str, Any]:
    """The caller's container of this name, by its short or its full name."""
    for candidate in (f"{name}._.{os.getuid()}", name):
        try:
            return dict(request("GET", f"/containers/{candidate}/json"))
        except CommandError as error:
            if error.status is not Exit.NO_SUCH:
                raise
    raise CommandError(Exit.NO_SUCH, f"you have no container '{name}'", "'container list' shows what you have")


def _held() -> dict[str, list[str]]:
    """GPU units by full container name, as `0:1 (2g.10gb)`. Told to be unknown where the allocator is down."""
    held: dict[str, list[str]] = {}
    try:
        units = call("List")["units"]
    except CommandError as error:
        click.echo(f"note: which GPUs are held is unknown: {error.message}", err=True)
        return held
    for unit in units:
        if unit["container"] and unit.get("kind", "container") == "container":
            held.setdefault(unit["container"], []).append(render.unit_text(unit))
    return held


def _units_of(full_name: str) -> list[str]:
    return _held().get(full_name, [])


def _row(item: dict[str, Any], held: dict[str, list[str]]) -> dict[str, Any]:
    full_name = item["Names"][0].removeprefix("/")
    return {
        "name": render.short_name(full_name),
        "full_name": full_name,
        "id": item["Id"],
        "state": item["State"],
        "status": item["Status"],
        "image": item["Image"],
        "gpus": held.get(full_name, []),
    }
