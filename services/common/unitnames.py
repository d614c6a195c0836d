"""Names of slices. Pure; the escaping is systemd's own (systemd.unit(5), "String escaping"), which is injective."""

from __future__ import annotations

import re
import string

MAX_UNIT_NAME = 200
"""systemd refuses unit names over 255 characters; 200 leaves room for what runtimes append."""

ROOT_SLICE = "ds01.slice"

_PLAIN = frozenset(string.ascii_letters + string.digits + ":_.")
_BY_UID = re.compile(r"u[0-9]+")


def escape(text: str) -> str:
    """`text` as one component of a unit name: the same as `systemd-escape TEXT`."""
    escaped = []
    for index, byte in enumerate(text.encode()):
        char = chr(byte)
        if char == "/":
            escaped.append("-")
        elif char in _PLAIN and not (index == 0 and char == "."):
            escaped.append(char)
        else:
            escaped.append(f"\\x{byte:02x}")
    return "".join(escaped)


def unescape(text: str) -> str:
    """The inverse of `escape`.

    Raises:
        ValueError: the bytes are not UTF-8.
    """
    plain = text.replace("-", "/")
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), plain.encode())
    return raw.decode()


def group_slice(group: str) -> str:
    """The slice of policy group `group`."""
    return f"ds01-{escape(group)}.slice"


def user_slice(group: str, user: str, uid: int) -> str:
    """The slice that carries the limits of `user`; by uid where the name would be too long or look like one."""
    name = f"ds01-{escape(group)}-{escape(user)}.slice"
    if len(name) > MAX_UNIT_NAME or _BY_UID.fullmatch(user):
        return f"ds01-{escape(group)}-u{uid}.slice"
    return name


def owner_of(slice_name: str) -> int | str | None:
    """Who owns a user slice: a user name, or a uid where the slice is named by uid; None for any other unit."""
    parts = slice_name.removesuffix(".slice").split("-")
    if not slice_name.endswith(".slice") or len(parts) != 3 or parts[0] != "ds01":
        return None
    if _BY_UID.fullmatch(parts[2]):
        return int(parts[2][1:])
    try:
        return unescape(parts[2])
    except ValueError:
        return None
