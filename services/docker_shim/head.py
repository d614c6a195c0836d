"""Reads one request head with h11 and refuses what two parsers could frame differently. Pure.

h11 forgives some things that are legal or nearly so (two equal lengths, a bare line feed, folded lines, a length next
to chunked). They are how requests are smuggled, no Docker client sends them, and so they are refused before h11 looks.
"""

from __future__ import annotations

import re

import h11

from ds01.docker_shim.model import Head, Reason, Refused

MAX_HEAD = 64 * 1024
END = b"\r\n\r\n"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
_LENGTH = re.compile(r"[0-9]{1,15}")
_SINGLE = ("host", "content-length", "transfer-encoding", "upgrade", "expect", "content-type")


def parse_head(untrusted: bytes, connection: h11.Connection) -> Head | Refused:
    """The head in `untrusted` (which ends with an empty line); `connection` is left ready for the body."""
    doubtful = _doubtful(untrusted)
    if doubtful:
        return _malformed(doubtful)
    try:
        connection.receive_data(untrusted)
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        return _malformed(f"this is not HTTP/1.1: {exc}")
    if not isinstance(event, h11.Request):
        return _malformed("this is not a request")
    return _framed(event)


def _doubtful(untrusted: bytes) -> str:
    lines = untrusted.removesuffix(END).split(b"\r\n")
    if any(char in line for line in lines for char in (b"\n", b"\r", b"\0")):
        return "the head has a bare line feed, carriage return or NUL"
    if any(line[:1] in (b" ", b"\t") for line in lines[1:]):
        return "the head has a folded line"
    fields = [line.decode("latin-1").partition(":") for line in lines[1:]]
    names = [name.lower() for name, _, _ in fields]
    twice = next((name for name in _SINGLE if names.count(name) > 1), None)
    if twice is not None:
        return f"the header '{twice}' comes twice"
    if any(name.lower() == "content-length" and not _LENGTH.fullmatch(value.strip(" \t")) for name, _, value in fields):
        return "the content-length is not one number"
    if "content-length" in names and "transfer-encoding" in names:
        return "the head has both a content-length and a transfer-encoding"
    return ""


def _framed(event: h11.Request) -> Head | Refused:
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    known = dict(headers)
    method = event.method.decode("ascii")
    version = event.http_version.decode("ascii")
    if version not in ("1.0", "1.1"):
        return _malformed(f"HTTP/{version} is not spoken here")
    if method not in _METHODS:
        return _malformed(f"the method '{method[:20]}' is not used by Docker")
    length: int | None = 0
    if "transfer-encoding" in known:
        if known["transfer-encoding"].strip().lower() != "chunked" or version != "1.1":
            return _malformed("the only transfer-encoding is 'chunked', with HTTP/1.1")
        length = None
    elif "content-length" in known:
        length = int(known["content-length"])
    return Head(
        method=method,
        target=event.target.decode("latin-1"),
        version=version,
        length=length,
        upgrade=known.get("upgrade", "").strip() if _asks_upgrade(known) else "",
        expects_continue=known.get("expect", "").strip().lower() == "100-continue",
        headers=headers,
    )


def _asks_upgrade(known: dict[str, str]) -> bool:
    tokens = {token.strip().lower() for token in known.get("connection", "").split(",")}
    return "upgrade" in known and "upgrade" in tokens


def _malformed(message: str) -> Refused:
    return Refused(400, Reason.MALFORMED, message, "send one plain HTTP/1.1 request per connection")
