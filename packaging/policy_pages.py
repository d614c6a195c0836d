"""What is made from the policy's table of keys: the reference file, the tables of two pages, the built-in policy."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.diff import read_compiled, values_in
from ds01.common.policy.keys import BUDGETS, KEYS, PER_USER, UNLIMITED, Key
from ds01.common.policy.kinds import EXAMPLES, Kind, Machine, wanted
from ds01.common.policy.values import least

SMALL = Machine(cpus=2, memory_bytes=4 * 2**30, tasks=32768)
"""The built-in policy is made for this one: it holds on machines that limits_sync has not looked at yet."""

REFERENCE = Machine(cpus=128, memory_bytes=2**40, tasks=4_194_304)
"""On this one the reference file can be loaded as it is."""

WRITTEN = {
    "memory_swap": "12.5% of machine",
    "aggregate.cpu_quota": "75% of machine",
    "aggregate.memory_max": "37.5% of machine",
    "aggregate.memory_high": "33.75% of machine",
    "aggregate.tasks_max": "12288",
    "login.memory_high": "22.5% of machine",
    "jobs.memory_high": "11.25% of machine",
}
"""How the reference file says what follows from other keys; a test compares it with what does follow."""

BEGIN, END = "made by 'make pages' from the table of keys", "end of what is made"
_WIDTH = 116

_HEAD = """\
# Every key of /etc/ds01/resource-limits.yaml. The values here are the ones that hold where nobody says anything, the
# examples at the end aside: write only what you want to be different.
#
# Made by 'make pages' from the table of keys. See also ds01-resource-limits(5) and docs/POLICY.md.
#
# What is behind a key: what it takes; where it may stand (later ones win: top level, defaults, a group, a user); the
# service that makes it hold. 'nothing holds this yet' means that the value is read and checked, and has no effect.
#
"""

_GROUP = """\

groups:
  student:
    # A user belongs to the group that lists him, in 'members' or in /etc/ds01/groups/GROUP.members; else to the first
    # one that lists a Unix group of his; else to the default group. Being in two lists is a mistake.
    members: []
    unix_groups: [student]
"""

_TAIL = """
# What single users have besides, on top of their group, whichever that is. All keys of a group but 'total', 'members'
# and 'unix_groups' may stand here.
user_overrides:
  alice:
    max_runtime: 96h

# Who is spared what, until when (a date, a date and time, or unlimited) and why.
exemptions:
  - user: alice
    from: [max_runtime]    # or idle_timeout; nothing holds this yet
    until: 2027-03-31
    why: thesis experiments
"""


def built_in_policy() -> str:
    """config/policy.json."""
    return built_in(SMALL).text


def reference() -> str:
    """config/resource-limits.reference.yaml."""
    kinds = ((kind, EXAMPLES[kind].replace("`", "")) for kind in Kind if kind is not Kind.CHOICE)
    lines = [_HEAD.rstrip("\n"), *(f"#   {kind:<14} {text}" for kind, text in kinds)]
    lines += ["", "# The group of whoever is in none.", "default_group: student", ""]
    lines += _entries(BUDGETS, "")
    lines += [
        "",
        "# Host folders that containers may mount ('~' is the user's home)",
        "# rw, ro or none. In top level, defaults, a group, a user; nothing holds this yet",
        "binds:",
    ]
    lines += [f'  "{root}": {mode}' for root, mode in keys.DEFAULT_BINDS.items()]
    for section in ("login", "wishes", "policies", "reserve", "engine", "jobs"):
        lines += _section(section, "")
    lines += [_GROUP.rstrip("\n"), "", *_entries(PER_USER, "    ")]
    for section in ("aggregate", "total"):
        lines += _section(section, "    ")
    return "\n".join(lines).rstrip() + "\n" + _TAIL


def policy_page(page: str) -> str:
    """docs/POLICY.md with its table made anew."""
    lines = ["", "| key | what it is | takes | where absent | stands in | held by |", "|---|---|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | {key.text} | {takes(key)} | {absent(key)} | {key.place} | {_held_by(key)} |" for key in KEYS
    ]
    return _between(page, f"<!-- {BEGIN} -->", f"<!-- {END} -->", [*lines, ""])


def man_page(page: str) -> str:
    """docs/man/ds01-resource-limits.5 with its list made anew."""
    lines: list[str] = []
    section = None
    for key in sorted(KEYS, key=lambda key: list(keys.SECTIONS).index(key.section) if key.section else -1):
        if key.section != section:
            section = key.section
            lines += [f".SS {section}:", roff(f"{keys.SECTIONS[section]}.")] if section else [".SS Keys of no section"]
        said = f"{_sentence(key.text)} Value: {takes(key)}. Where absent: {absent(key)}. Stands in {key.place}."
        lines += [".TP", f".B {roff(key.name.rpartition('.')[2])}", roff(f"{said} {_sentence(_held(key))}")]
    return _between(page, f'.\\" {BEGIN}', f'.\\" {END}', lines)


def takes(key: Key) -> str:
    """What may be written, in words."""
    said = wanted(key.kind, key.choices) if key.choices else str(key.kind)
    said += f", or {UNLIMITED}" if key.optional else ""
    said += f"; {least(key)} or more" if key.least and (key.kind, key.least) != (Kind.SIZE, 1) else ""
    return said + ("; no more than the machine has" if key.capped else "")


def absent(key: Key) -> str:
    """What holds where the key is not written."""
    return key.default or _FOLLOWS[key.field]


def roff(text: str) -> str:
    """A line of text, with nothing in it that troff would take for an order."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


def _follows() -> dict[str, str]:
    """What is said of values that follow from others, by field."""
    compiled = read_compiled(built_in(REFERENCE).text)
    said = {**compiled.machine, **values_in(compiled, compiled.policy.default_group)}
    return {field: one.origin for field, one in said.items()}


_FOLLOWS = _follows()


def _section(section: str, indent: str) -> list[str]:
    inside = [key for key in KEYS if key.section == section]
    return ["", *_comment(keys.SECTIONS[section], indent), f"{indent}{section}:", *_entries(inside, f"{indent}  ")]


def _entries(known: Iterable[Key], indent: str) -> list[str]:
    lines = []
    for key in known:
        follows = "" if key.default else f"; absent, it {_FOLLOWS[key.field]}"
        said = f"{takes(key)}{follows}. In {key.place}; {_held(key)}"
        value = key.default or WRITTEN[key.name]
        lines += [
            *_comment(key.text, indent),
            *_comment(said, indent),
            f"{indent}{key.name.rpartition('.')[2]}: {value}",
        ]
        lines += [""]
    return lines[:-1]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ", break_on_hyphens=False
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _held_by(key: Key) -> str:
    return f"ds01-{key.held_by.replace('_', '-')}" if key.held_by else "nothing yet"


def _held(key: Key) -> str:
    return f"held by {_held_by(key)}" if key.held_by else "nothing holds this yet"


def _between(page: str, begin: str, end: str, lines: list[str]) -> str:
    before, _, rest = page.partition(f"{begin}\n")
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no lines '{begin}' and '{end}'")
    return "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])
