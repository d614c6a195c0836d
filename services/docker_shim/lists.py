"""Narrows `docker ps` to one's own, in the request. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ds01.docker_shim.model import Json, Reason, Refused
from ds01.docker_shim.strictjson import parse_object

FILTERS = frozenset(
    [
        "ancestor",
        "before",
        "exited",
        "expose",
        "health",
        "id",
        "is-task",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    ]
)
REFERENCES = ("before", "since")
"""Filters whose value is another container."""


def narrow(untrusted_filters: str, uid: int) -> dict[str, list[str]] | Refused:
    """The caller's own filters with ours added; the engine demands that every label of the filter matches."""
    parsed = parse_object(untrusted_filters.encode())
    if isinstance(parsed, Refused):
        return parsed
    found: dict[str, list[str]] = {}
    for key, value in parsed.items():
        values = _values(value)
        if key not in FILTERS:
            return _malformed(f"invalid filter '{key[:40]}'")
        if values is None:
            return _malformed(f"the filter '{key}' must be a list of texts")
        if values:
            found[key] = values
    found["label"] = [*found.get("label", []), owner_label(uid)]
    return found


def owner_label(uid: int) -> str:
    """The label filter that matches containers of `uid`."""
    return f"ds01.uid={uid}"


def _values(untrusted: Json) -> list[str] | None:
    """Clients write {"name": ["x"]} or, as the docker CLI does, {"name": {"x": true}}."""
    if isinstance(untrusted, Mapping):
        untrusted = [key for key, chosen in untrusted.items() if chosen is True]
    if not isinstance(untrusted, list):
        return None
    texts = [item for item in untrusted if isinstance(item, str)]
    return texts if len(texts) == len(untrusted) else None


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
