"""Merges what the file says into the compiled policy, made absolute for this machine; or tells what can't hold. Pure.

Layers, later ones win key by key: built in, top level, defaults, group, user. Each value keeps the place of the layer
that said it. A user's layer lies on his group's, whichever that is, so it stays apart in the compiled policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ds01.common.limits import SCHEMA, Aggregate, MachineLimits, derived
from ds01.common.policy import keys
from ds01.common.policy.keys import DEFAULT_BINDS, KEYS, UNLIMITED, Key, Layer
from ds01.common.policy.kinds import Kind, Machine, above, absolute, parse, show
from ds01.common.policy.read import Draft, GroupDraft, Misread, Name, Setting, Settings
from ds01.common.policy.tree import Place, Problem
from ds01.common.policy.values import least
from ds01.common.quantity import Share, sizes_apart

BUILT_IN = "built in"
FALLBACK_GROUP = "default"
"""The group of everybody where the file has no group at all."""
_MOST_NAMES = 20
"""Named in one sentence."""
USUAL_DEFAULT = "student"
"""Whoever is in no group is in this one, where the file does not say."""


@dataclass(frozen=True, slots=True)
class Told:
    """A value in base units and the origin it is told with; `place` and `path` are where it is corrected.

    `rank` counts the layers, the built-in one being 0: of two values that contradict each other, the later is wrong.
    """

    value: Any
    origin: str
    rank: int = 0
    path: str = ""
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
        self.groups = draft.groups or {self._only_group(): GroupDraft(Place(file))}
        self.group_of: dict[str, str] = {}
        self.machine = machine
        self.file = file
        self.members = members
        self.problems: list[Problem] = []

    def run(self) -> dict[str, Any]:
        draft = self.draft
        default_group = self._default_group()
        self._check_members()
        base = {**_built_in(self.machine), **self._told(draft.machine, 1, "")}
        base.update(self._told(draft.defaults, 2, "defaults"))
        groups = {name: self._group(name, group, base) for name, group in self.groups.items()}
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

    def _only_group(self) -> str:
        return self.draft.default_group.text if self.draft.default_group else FALLBACK_GROUP

    def _default_group(self) -> str:
        said, name = self.draft.default_group, self._default_group_name()
        if name and name not in self.groups:
            names = sorted(self.groups)
            one_of = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
            place = said.place if said else self.groups[names[0]].place
            text = f"'{name}' is no group here" if said else f"is absent, and there is no group '{name}'"
            self._problem(place, "default_group", f"{text}: write one of {one_of}")
        return name

    def _default_group_name(self) -> str:
        said = self.draft.default_group
        return said.text if said else USUAL_DEFAULT if len(self.groups) > 1 else next(iter(self.groups))

    def _check_members(self) -> None:
        for group, names in self.members.items():
            if group not in self.groups:
                beside = str(PurePosixPath(self.file).parent / "groups" / f"{group}.members")
                text = (
                    f"there is no group '{group}': add it below 'groups:', or rename the file so that it does not"
                    " end in '.members'"
                )
                self._problem(Place(names[0].place.file if names else beside), "", text)
        seen: dict[str, Place] = {}
        for group in self.groups:
            for name in self._listed(group):
                first = self.group_of.setdefault(name.text, group)
                place = seen.setdefault(name.text, name.place)
                if first != group:
                    text = f"'{name.text}' is in '{first}' too ({place}): keep one"
                    self._problem(name.place, f"groups.{group}.members", text)

    def _listed(self, group: str) -> tuple[Name, ...]:
        return (*self.groups[group].members, *self.members.get(group, ()))

    def _group(self, name: str, draft: GroupDraft, base: Layered) -> Layered:
        layered = {**base, **self._told(draft.settings, 3, f"groups.{name}")}
        self._cross_check(layered)
        return layered

    def _user(self, user: str, settings: Settings, groups: Mapping[str, Layered]) -> dict[str, Any]:
        own = self._told(settings, 4, f"user_overrides.{user}")
        for group in self._possible_groups(user):
            if group in groups:
                self._cross_check({**groups[group], **own})
        return _json(own)

    def _possible_groups(self, user: str) -> list[str]:
        """Where the user can be: where a list has him, else wherever Unix groups decide."""
        if user in self.group_of:
            return [self.group_of[user]]
        by_unix = [group for group, draft in self.groups.items() if draft.unix_groups]
        return [*by_unix, self._default_group_name()]

    def _machine(self, base: Layered) -> dict[str, Any]:
        told = {name: one for name, one in base.items() if _is_machine(name)}
        for section in ("engine", "jobs"):
            self._high_below_max(told, section)
        values = _json(told)
        values["has"] = {
            "cpus": self.machine.cpus, "memory_bytes": self.machine.memory_bytes, "tasks": self.machine.tasks
        }  # fmt: skip
        return values

    def _group_json(self, name: str, layered: Layered) -> dict[str, Any]:
        return {
            "members": sorted({one.text for one in self._listed(name)}),
            "unix_groups": [one.text for one in self.groups[name].unix_groups],
            **_json({key: told for key, told in layered.items() if not _is_machine(key)}),
        }

    def _told(self, settings: Settings, rank: int, path: str) -> Layered:
        found: Layered = {}
        for name, setting in settings.items():
            where = f"{path}.{name}" if path else name
            key = keys.BY_NAME.get(name)  # None for a bind
            value = setting.value if key is None else self._absolute(key, setting, where)
            origin = f"{path or 'top level'} ({setting.place})"
            found[name] = Told(value, origin, rank, where, setting.place)
        return found

    def _absolute(self, key: Key, setting: Setting, path: str) -> Any:
        said = setting.value
        if said is None or isinstance(said, Misread):
            return said
        value = absolute(key.kind, said, self.machine)
        if isinstance(said, Share) and isinstance(value, int) and value < key.least:
            text = f"'{said}' is {show(key.kind, value)} here, too little: write {least(key)} or more"
            self._problem(setting.place, path, text)
        too_much = above(key.kind, value, self.machine) if key.capped else ""
        if too_much:
            self._problem(setting.place, path, f"{too_much}: write that or less, or a part like '50% of machine'")
        return value

    def _cross_check(self, layered: Layered) -> None:
        for section in ("aggregate", "login", "total"):
            self._high_below_max(layered, section)
        memory, together = layered["memory"], layered.get("memory_swap")
        if together is not None and _is_above(memory, together):
            memory_text, together_text = sizes_apart(memory.value, together.value)
            text = (
                f"memory_swap ({together_text}, {together.origin}) is memory and swap together, and less than memory"
                f" alone ({memory_text}, {memory.origin}): write as much or more, or leave it out"
            )
            self._contradiction(memory, together, text)

    def _high_below_max(self, layered: Layered, section: str) -> None:
        high = layered.get(f"{section}.memory_high")
        if high is None:
            return
        most = layered.get(f"{section}.memory_max") or self._derived_max(layered, section)
        if most is not None and _is_above(high, most):
            high_text, most_text = sizes_apart(high.value, most.value)
            text = (
                f"memory_high ({high_text}, {high.origin}) is above memory_max ({most_text}, {most.origin}):"
                " write less, such as 90% of it, or leave it out"
            )
            self._contradiction(high, most, text)

    def _derived_max(self, layered: Layered, section: str) -> Told | None:
        """What memory_max follows from where nobody says it; None where that is misread."""
        if any(isinstance(told.value, Misread) for told in layered.values()):
            return None
        nobody = Aggregate()
        has = MachineLimits(
            nobody, nobody, nobody, self.machine.cpus, self.machine.memory_bytes, self.machine.tasks
        )  # fmt: skip
        values = {keys.BY_NAME[name].field: told.value for name, told in layered.items() if name in keys.BY_NAME}
        found = derived(values, has).get(f"{section}.memory_max_bytes")
        sources = (layered["memory"], layered["max_containers_per_user"])
        later = max(sources, key=lambda told: told.rank)
        return Told(found, "follows from memory and max_containers_per_user", later.rank, later.path, later.place)

    def _contradiction(self, one: Told, other: Told, text: str) -> None:
        """Told where the later of the two layers says it; where one layer says both, at `one`."""
        wrong = max(one, other, key=lambda told: told.rank)
        self._problem(wrong.place or Place(self.file), wrong.path, text)

    def _problem(self, place: Place, path: str, text: str) -> None:
        self.problems.append(Problem(place, path, text))


def _is_above(one: Told, other: Told) -> bool:
    """Whether one size is larger; not where one of them is unlimited or misread."""
    return isinstance(one.value, int) and isinstance(other.value, int) and one.value > other.value


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
