"""Parses a JSON body so that the engine can't read it differently. Pure.

Go's decoder ignores the case of keys, takes the last of two equal keys and repairs bad UTF-8. Here each of these is
refused; keys are compared case-folded against a table elsewhere, and only what we serialise ourselves goes on.
"""

from __future__ import annotations

import json
from typing import NoReturn

from ds01.docker_shim.model import Json, Reason, Refused

MAX_BODY = 1024 * 1024
MAX_DEPTH = 16
MAX_BRACKETS = 20_000


class _Doubtful(ValueError):
    """One reason not to parse on."""


def parse_object(untrusted: bytes) -> dict[str, Json] | Refused:
    """The JSON object in `untrusted`; an empty body and `null` are an empty object."""
    if len(untrusted) > MAX_BODY:
        return _malformed(f"the body has {len(untrusted)} bytes, at most {MAX_BODY} are read")
    if untrusted.count(b"{") + untrusted.count(b"[") > MAX_BRACKETS:
        return _malformed(f"the body has more than {MAX_BRACKETS} brackets")
    if not untrusted.strip():
        return {}
    try:
        value = json.loads(
            untrusted.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except _Doubtful as exc:
        return _malformed(str(exc))
    except UnicodeError:
        return _malformed("the body is not UTF-8, or has half of a surrogate pair")
    except (ValueError, RecursionError) as exc:
        return _malformed(f"the body is not JSON: {str(exc)[:200]}")
    if value is None:
        return {}
    if not isinstance(value, dict):
        return _malformed("the body is not a JSON object")
    if _depth(value) > MAX_DEPTH:
        return _malformed(f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


def dump(value: Json) -> bytes:
    """`value` as the engine gets it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def fold(key: str) -> str:
    """The form in which Go compares keys of JSON objects with names of fields."""
    return key.casefold()


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in pairs:
        if key in found:
            raise _Doubtful(f"the key '{key[:80]}' comes twice")
        found[key] = value
    return found


def _constant(name: str) -> NoReturn:
    raise _Doubtful(f"'{name}' is not JSON")


def _float(text: str) -> NoReturn:
    raise _Doubtful(f"the number '{text[:40]}' is not a whole one, and the Docker API has no others")


def _depth(value: Json) -> int:
    deepest = 0
    waiting: list[tuple[Json, int]] = [(value, 1)]
    while waiting:
        item, level = waiting.pop()
        deepest = max(deepest, level)
        children = list(item.values()) if isinstance(item, dict) else item if isinstance(item, list) else []
        waiting.extend((child, level + 1) for child in children if isinstance(child, dict | list))
    return deepest


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
