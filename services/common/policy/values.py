"""Reads the value of one key, or says in a clause what is wrong with it and what to write. Pure."""

from __future__ import annotations

from ds01.common import quantity
from ds01.common.policy.keys import UNLIMITED, Key
from ds01.common.policy.kinds import Kind, Value, parse, wanted
from ds01.common.policy.tree import Node, Scalar, Seq, kind_of, shown

_NULLS = ("null", "~", "Null", "NULL")
_MEANT_UNLIMITED = {"-1", "none", "inf", ".inf", "infinite", "infinity", "max", "no limit", "nolimit", "unlimited"}
"""How other programs, and people, say it."""


def read_value(key: Key, node: Node) -> Value | None:
    """The value as written, None for no limit.

    Raises:
        ValueError: a clause.
    """
    if key.kind is Kind.WARNINGS:
        return _warnings(key, node)
    if not isinstance(node, Scalar):
        raise ValueError(f"is {kind_of(node)}: write {_wanted(key)}")
    if node.is_empty:
        raise ValueError(f"has no value: write {_wanted(key)}, or remove the line")
    text = node.text
    is_null = node.plain and text in _NULLS
    if (is_null or text == UNLIMITED) and not key.optional:
        raise ValueError(f"can't be unlimited: write {_wanted(key)}, or remove the line")
    if text == UNLIMITED or (is_null and text == "null"):
        return None
    if is_null or (key.optional and text.lower() in _MEANT_UNLIMITED):
        raise ValueError(f"'{text}' may mean anything: write {UNLIMITED}, or remove the line to inherit")
    value = parse(key.kind, text, key.choices)
    if isinstance(value, int | float) and value < key.least:
        raise ValueError(f"'{shown(text)}' is too little: write {least(key)} or more{_or_unlimited(key)}")
    return value


def least(key: Key) -> str:
    """The least that may be written."""
    match key.kind:
        case Kind.SIZE:
            return quantity.size_text(key.least).replace(" ", "")
        case Kind.DURATION:
            return quantity.duration_text(key.least)
        case _:
            return str(key.least)


def _wanted(key: Key) -> str:
    return wanted(key.kind, key.choices) + _or_unlimited(key)


def _or_unlimited(key: Key) -> str:
    return f", or {UNLIMITED}" if key.optional else ""


def _warnings(key: Key, node: Node) -> tuple[float, ...]:
    if not isinstance(node, Seq) or not node.items:
        raise ValueError(f"is {'an empty list' if isinstance(node, Seq) else kind_of(node)}: write {_wanted(key)}")
    found = []
    for item in node.items:
        if not isinstance(item, Scalar):
            raise ValueError(f"has {kind_of(item)} in it: write {_wanted(key)}")
        found.append(parse(Kind.PERCENT, item.text))
    parts = tuple(part for part in found if isinstance(part, float))
    if list(parts) != sorted(set(parts)) or parts[-1] >= 100 or parts[0] <= 0:
        raise ValueError(f"must rise from above 0% to below 100%: write {_wanted(key)}")
    return parts
