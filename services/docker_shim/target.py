"""Takes a request target apart, strictly. Pure.

The engine's router and ours must never read one path in two ways, so whatever could be read in two ways is refused
here, and the engine gets a path that we build from what is left.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes, urlencode

from ds01.common.model import API_VERSION
from ds01.docker_shim.model import Reason, Refused, Target

MAX_TARGET = 16 * 1024
OLDEST_API = (1, 24)
NEWEST_API = (int(API_VERSION.split(".")[0]), int(API_VERSION.split(".")[1]))

_VERSION = re.compile(r"v([0-9]{1,3})\.([0-9]{1,3})")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPED_OK = re.compile(r"[A-Za-z0-9_~:@+=,!$&'()*-]")
"""What may be written as %XX in a path: never a dot, slash, percent sign, NUL or anything outside ASCII."""


def parse_target(untrusted: str) -> Target | Refused:
    """The parts of a request target in origin form."""
    if len(untrusted) > MAX_TARGET:
        return _malformed(f"a request target of {len(untrusted)} bytes is too long (at most {MAX_TARGET})")
    if not _VISIBLE.fullmatch(untrusted) or not untrusted.startswith("/") or "#" in untrusted or "\\" in untrusted:
        return _malformed("the request target is not a path in plain ASCII")
    raw_path, _, raw_query = untrusted.partition("?")
    segments = _segments(raw_path)
    if isinstance(segments, Refused):
        return segments
    query = _query(raw_query)
    if isinstance(query, Refused):
        return query
    found = _VERSION.fullmatch(segments[0])
    if found is None:
        return Target(segments, None, query)
    version = (int(found[1]), int(found[2]))
    wrong = _version_refused(version)
    if wrong is not None:
        return wrong
    if len(segments) == 1:
        return _malformed("the request target names no route")
    return Target(segments[1:], version, query)


def engine_target(segments: tuple[str, ...], query: tuple[tuple[str, str], ...] = ()) -> str:
    """The target that the engine gets: always its newest API version, always encoded by us."""
    path = "/".join(quote(segment, safe=":@") for segment in (f"v{API_VERSION}", *segments))
    return f"/{path}?{urlencode(query)}" if query else f"/{path}"


def _segments(raw_path: str) -> tuple[str, ...] | Refused:
    if _BROKEN_ESCAPE.search(raw_path):
        return _malformed("the path has a broken percent-encoding")
    for escape in _ESCAPE.findall(raw_path):
        if not _ESCAPED_OK.fullmatch(unquote_to_bytes(escape).decode("latin-1")):
            return _malformed(f"the path has the encoded character '{escape}'")
    segments = tuple(unquote_to_bytes(part).decode("ascii") for part in raw_path[1:].split("/"))
    if any(segment in ("", ".", "..") for segment in segments):
        return _malformed("the path has an empty or a dot segment")
    return segments


def _query(raw_query: str) -> tuple[tuple[str, str], ...] | Refused:
    pairs: list[tuple[str, str]] = []
    if ";" in raw_query or _BROKEN_ESCAPE.search(raw_query):
        return _malformed("the query has a ';' or a broken percent-encoding")
    for part in filter(None, raw_query.split("&")):
        key, _, value = part.partition("=")
        try:
            pair = _decoded(key), _decoded(value)
        except UnicodeDecodeError:
            return _malformed("the query is not UTF-8")
        if any(ord(char) < 0x20 or char == "\x7f" for text in pair for char in text):
            return _malformed("the query has a control character")
        pairs.append(pair)
    return tuple(pairs)


def _decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode()


def _version_refused(version: tuple[int, int]) -> Refused | None:
    asked = f"{version[0]}.{version[1]}"
    if version > NEWEST_API:
        return _malformed(f"client version {asked} is too new. Maximum supported API version is {API_VERSION}")
    if version < OLDEST_API:
        oldest = f"{OLDEST_API[0]}.{OLDEST_API[1]}"
        return _malformed(f"client version {asked} is too old. Minimum supported API version is {oldest}")
    return None


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message)
