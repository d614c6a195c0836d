"""Merges what the file says into the compiled policy, made absolute for this machine; or tells what can't hold. Pure.

Layers, later ones win key by key: built in, top level, defaults, group, user. Each value keeps the place of the layer
that said it. A user's layer lies on his group's, whichever that is, so it stays apart in the compiled policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ds01.common.limits import SCHEMA
from ds01.common.policy import keys
from ds01.common.policy.keys import DEFAULT_BINDS, KEYS, UNLIMITED, Key, Layer
from ds01.common.policy.kinds import JsonValue, Kind, Machine, above, absolute, parse, show
from ds01.common.policy.read import Draft, GroupDraft, Name, Setting, Settings
from ds01.common.policy.tree import Place, Problem

BUILT_IN = "built in"
FALLBACK_GROUP = "default"
"""The group of everybody where the file has no group at all."""
USUAL_DEFAULT = "student"
"""Whoever is in no group is in this one, where the file does not say."""


@dataclass(frozen=True, slots=True)
class Told:
    """A value in base units and the origin it is told with; `place` is where it is corrected."""

    value: Any
    origin: str
    place: Place | None = None


Layered = dict[str, Told]
"""By key name."""


def compile_policy(
    draft: Draft, members: Mapping[str, list[Name]], machine: Machine, file: str
) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The compiled policy as JSON values, None where there are problems. `members` are those of `.members` files."""
    compiler = _Compiler(draft, members, machine, file)
    compiled = compiler.run()
    return (None if compiler.problems else compiled), sorted(set(compiler.problems))


class _Compiler:
    def __init__(self, draft: Draft, members: Mapping[str, list[Name]], machine: Machine, file: str) -> None:
        self.draft = draft
        self.machine = machine
        self.file = file
        self.members = members
        self.problems: list[Problem] = []

    def run(self) -> dict[str, Any]:
        draft = self.draft
        if not draft.groups:
            draft.groups[draft.default_group.text if draft.default_group else FALLBACK_GROUP] = GroupDraft(
                Place(self.file)
            )
        default_group = self._default_group()
        self._check_members()
        base = {**_built_in(self.machine), **self._told(draft.machine, "top level", "")}
        base.update(self._told(draft.defaults, "defaults", "defaults"))
        groups = {name: self._group(name, group, base) for name, group in draft.groups.items()}
        users = {name: self._user(name, settings, groups) for name, (_, settings) in draft.users.items()}
        return {
            "schema": SCHEMA,
            "default_group": default_group,
            "machine": self._machine(base),
            "groups": {name: self._group_json(name, layered) for name, layered in groups.items()},
            "users": users,
            "exemptions": [
                {"user": one.user, "of": list(one.of), "until": one.until, "origin": str(one.place)}
                for one in draft.exemptions
            ],
        }

    def _default_group(self) -> str:
        said, groups = self.draft.default_group, self.draft.groups
        name = self._default_group_name()
        if name not in groups:
            place, names = said.place if said else Place(self.file), ", ".join(sorted(groups))
            self._problem(place, "default_group", f"'{name}' is not a group here: write one of {names}")
        return name

    def _default_group_name(self) -> str:
        said, groups = self.draft.default_group, self.draft.groups
        return said.text if said else USUAL_DEFAULT if len(groups) > 1 else next(iter(groups))

    def _check_members(self) -> None:
        seen: dict[str, tuple[str, Place]] = {}
        for group, names in self.members.items():
            if group not in self.draft.groups:
                place = Place(names[0].place.file) if names else Place(f"groups/{group}.members")
                text = (
                    f"there is no group '{group}': add it below 'groups:', or rename the file so that it does not"
                    " end in '.members'"
                )
                self._problem(place, "", text)
        for group, draft in self.draft.groups.items():
            for name in (*draft.members, *self.members.get(group, ())):
                other = seen.setdefault(name.text, (group, name.place))
                if other[0] != group:
                    text = f"'{name.text}' is in '{other[0]}' too ({other[1]}): keep one"
                    self._problem(name.place, f"groups.{group}.members", text)

    def _group(self, name: str, draft: GroupDraft, base: Layered) -> Layered:
        path = f"groups.{name}"
        layered = {**base, **self._told(draft.settings, path, path)}
        self._cross_check(layered, path, draft.place)
        return layered

    def _user(self, user: str, settings: Settings, groups: Mapping[str, Layered]) -> dict[str, Any]:
        path = f"user_overrides.{user}"
        own = self._told(settings, path, path)
        for group in self._possible_groups(user):
            if group in groups:
                self._cross_check({**groups[group], **own}, path, self.draft.users[user][0])
        return _json(own)

    def _possible_groups(self, user: str) -> list[str]:
        """Where the user can be: where a list has him, else wherever Unix groups decide."""
        for group, draft in self.draft.groups.items():
            if any(name.text == user for name in (*draft.members, *self.members.get(group, ()))):
                return [group]
        by_unix = [group for group, draft in self.draft.groups.items() if draft.unix_groups]
        return [*by_unix, self._default_group_name()]

    def _machine(self, base: Layered) -> dict[str, Any]:
        told = {name: one for name, one in base.items() if _is_machine(name)}
        for section in ("engine", "jobs"):
            self._high_below_max(told, section, section)
        values = _json(told)
        values["has"] = {
            "cpus": self.machine.cpus, "memory_bytes": self.machine.memory_bytes, "tasks": self.machine.tasks
        }  # fmt: skip
        return values

    def _group_json(self, name: str, layered: Layered) -> dict[str, Any]:
        draft = self.draft.groups[name]
        listed = (*draft.members, *self.members.get(name, ()))
        return {
            "members": sorted({one.text for one in listed}),
            "unix_groups": [one.text for one in draft.unix_groups],
            **_json({key: told for key, told in layered.items() if not _is_machine(key)}),
        }

    def _told(self, settings: Settings, said_by: str, path: str) -> Layered:
        found: Layered = {}
        for name, setting in settings.items():
            origin = f"{said_by} ({setting.place})"
            key = keys.BY_NAME.get(name)
            if key is None:  # a bind
                found[name] = Told(setting.value, origin, setting.place)
                continue
            found[name] = Told(self._absolute(key, setting, f"{path}.{name}" if path else name), origin, setting.place)
        return found

    def _absolute(self, key: Key, setting: Setting, path: str) -> JsonValue | list[float]:
        if setting.value is None:
            return None
        value = absolute(key.kind, setting.value, self.machine)
        if key.kind is Kind.COUNT and isinstance(setting.value, Fraction):
            value = int(setting.value)
        has = above(key.kind, value, self.machine) if key.capped else ""
        if has:
            text = (
                f"{show(key.kind, value)} is more than the machine has, {has}: write that or less, or a part like"
                " '50% of machine'"
            )
            self._problem(setting.place, path, text)
        return value

    def _cross_check(self, layered: Layered, path: str, place: Place) -> None:
        for section in ("aggregate", "login", "total"):
            self._high_below_max(layered, section, path)
        swap, memory = layered.get("memory_swap"), layered["memory"]
        if swap is not None and swap.value < memory.value:
            text = (
                f"memory and swap together ({show(Kind.SIZE, swap.value)}) are less than memory alone"
                f" ({show(Kind.SIZE, memory.value)}, {memory.origin}): write at least as much"
            )
            self._problem(swap.place or place, f"{path}.memory_swap", text)

    def _high_below_max(self, layered: Layered, section: str, path: str) -> None:
        high, most = layered.get(f"{section}.memory_high"), layered.get(f"{section}.memory_max")
        if high is None or most is None or high.value is None or most.value is None or high.value <= most.value:
            return
        text = (
            f"memory_high ({show(Kind.SIZE, high.value)}, {high.origin}) is above memory_max"
            f" ({show(Kind.SIZE, most.value)}, {most.origin}): write less, such as 90% of it, or leave it out"
        )
        where = f"{path}.memory_high" if path == section else f"{path}.{section}.memory_high"
        self._problem(high.place or most.place or Place(self.file), where, text)

    def _problem(self, place: Place, path: str, text: str) -> None:
        self.problems.append(Problem(place, path, text))


def _is_machine(name: str) -> bool:
    key = keys.BY_NAME.get(name)
    return key is not None and key.place is Layer.MACHINE


def _json(layered: Layered) -> dict[str, Any]:
    limits, origins = {}, {}
    for name, told in layered.items():
        field = keys.BY_NAME[name].field if name in keys.BY_NAME else name
        limits[field], origins[field] = told.value, told.origin
    return {"limits": limits, "origins": origins}


def _built_in(machine: Machine) -> Layered:
    """What holds where nobody says anything."""
    found = {key.name: Told(_default(key, machine), BUILT_IN) for key in KEYS if key.default}
    found.update({f"binds.{root}": Told(mode, BUILT_IN) for root, mode in DEFAULT_BINDS.items()})
    return found


def _default(key: Key, machine: Machine) -> Any:
    if key.default == UNLIMITED:
        return None
    if key.kind is Kind.WARNINGS:
        return [float(part.strip(" %")) for part in key.default.strip("[]").split(",")]
    value = absolute(key.kind, parse(key.kind, key.default, key.choices), machine)
    return _at_least(value, key.least)


def _at_least(value: Any, least: int) -> Any:
    return max(value, least) if least and isinstance(value, int | float) else value
