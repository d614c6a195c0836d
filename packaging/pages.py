#!/usr/bin/env python3
"""Prints what is made from tables: `pages.py NAME`; the names are at the end. `make pages` puts each where it goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import policy_pages

from ds01.common.events import catalog
from ds01.docker_shim import fields
from ds01.docker_shim.fields import Field, Use
from ds01.docker_shim.routes import BY_HAND, ROUTES

HEAD = """# What the Docker socket lets through

Made from the tables in `services/docker_shim/routes.py` and `fields.py` by `make pages`; a test compares it.

Every request is judged by a row here. What has no row is refused by name. Administrators (`ds01-admin`) may use every
route; what they create still gets a slice, labels and leases.

* **open**: everybody · **own**: on objects of one's own, looked up by name, id or prefix, and named to the engine by
  their full id · **rewrite**: the body or query is written anew by us · **admin**: administrators only ·
  **refuse**: nobody but administrators, and never by this version for users
"""

BODIES: Mapping[str, Mapping[str, Field]] = {
    "Config (create)": fields.CONFIG,
    "HostConfig (create)": fields.HOST_CONFIG,
    "NetworkingConfig endpoints (create)": fields.ENDPOINT,
    "Exec create": fields.EXEC_CREATE,
    "Exec start": fields.EXEC_START,
}


def shim() -> str:
    """docs/SHIM.md."""
    lines = [HEAD, "## Routes", "", "| | route | class | why |", "|---|---|---|---|"]
    for route in sorted((*ROUTES, *BY_HAND), key=lambda row: (row.path, row.method)):
        lines.append(f"| {route.method} | `{route.path}` | {route.kind} | {route.why} |")
    for title, table in BODIES.items():
        lines += ["", f"## {title}", ""]
        for use, says in (
            (Use.PASS, "goes to the engine as it is"),
            (Use.OURS, "is read, bounded or merged, and written anew"),
            (Use.IGNORE, "has no meaning here and is not sent on"),
        ):
            names = ", ".join(f"`{name}`" for name, field in sorted(table.items()) if field.use is use)
            if names:
                lines += [f"**{use}** ({says}): {names}", ""]
        refused = [(name, field) for name, field in sorted(table.items()) if field.use is Use.REFUSE]
        if refused:
            lines += ["**refuse**, unless empty:", "", "| field | typed as | why |", "|---|---|---|"]
            lines += [f"| `{name}` | {field.flag and f'`{field.flag}`'} | {field.why} |" for name, field in refused]
    return "\n".join(lines).rstrip() + "\n"


def _anew(path: str, make: Callable[[str], str]) -> Callable[[], str]:
    """A page that people write, with the part of it that is made."""
    return lambda: make((DOCS / path).read_text())


DOCS = Path(__file__).parents[1] / "docs"
PAGES: Mapping[str, Callable[[], str]] = {
    "shim": shim,
    "catalog": catalog,
    "built-in": policy_pages.built_in_policy,
    "reference": policy_pages.reference,
    "policy": _anew("POLICY.md", policy_pages.policy_page),
    "man": _anew("man/ds01-resource-limits.5", policy_pages.man_page),
}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
