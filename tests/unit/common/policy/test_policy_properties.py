"""What holds of every policy: layers merge in order, values keep their place, and no file does anything by accident."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policy_world import FILE, GIB, REFERENCE, built

from ds01.common.limits import parse_policy
from ds01.common.policy import keys
from ds01.common.policy.build import built_in
from ds01.common.policy.keys import BY_FIELD, BY_NAME, UNLIMITED, Key
from ds01.common.policy.kinds import Kind

CONFIG = Path(__file__).parents[4] / "config"
USERS, GROUPS = ("alice", "j.doe@example.org", "12345"), ("student", "researcher", "staff-2")

Wanted = int | float | str | bool | list[float] | None


# --- an independent model ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A value as text, and what it must become."""

    text: str
    value: Wanted


@dataclass
class Layer:
    """What one layer says, by key name, and in which line."""

    path: str
    said: dict[str, Written] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def sizes(least_gib: int, most_gib: int) -> st.SearchStrategy[Written]:
    whole = st.integers(least_gib, most_gib)
    return st.one_of(
        whole.map(lambda n: Written(f"{n}g", n * GIB)),
        whole.map(lambda n: Written(f'"{n}GiB"', n * GIB)),
        whole.map(lambda n: Written(f"{n * 1024}m", n * GIB)),
        whole.map(lambda n: Written(f"{n}.5 GiB", n * GIB + GIB // 2)),
    )


PARTS = st.integers(1, 1000).map(lambda n: Fraction(n, 10))
OF_KIND: Mapping[Kind, st.SearchStrategy[Written]] = {
    Kind.SIZE: sizes(1, 500)
    | PARTS.map(lambda p: Written(f"{float(p)}% of machine", int(1024 * GIB * p / 100) // 4096 * 4096)),
    Kind.DURATION: st.one_of(
        st.integers(1, 500).map(lambda n: Written(f"{n}h", n * 3600.0)),
        st.integers(1, 500).map(lambda n: Written(f"{n}.5m", n * 60.0 + 30)),
        st.integers(1, 20).map(lambda n: Written(f"{n}d{n}h", n * 90000.0)),
    ),
    Kind.CPUS: st.integers(1, 256).map(lambda n: Written(f"{n / 2}", n / 2))
    | st.integers(1, 100).map(lambda n: Written(f"{n}% of machine", round(1.28 * n, 2))),
    Kind.QUOTA: st.integers(1, 128).map(lambda n: Written(f"{n}", n * 100))
    | st.integers(1, 12_800).map(lambda n: Written(f"{n}%", n)),
    Kind.TASKS: st.integers(1, 4_000_000).map(lambda n: Written(f"{n}", n))
    | st.integers(1, 100).map(lambda n: Written(f"{n}% of machine", 4_194_304 * n // 100)),
    Kind.COUNT: st.integers(1, 10_000).map(lambda n: Written(f"{n}", n)),
    Kind.WEIGHT: st.integers(1, 10_000).map(lambda n: Written(f"{n}", n)),
    Kind.PERCENT: st.integers(0, 200).map(lambda n: Written(f"{n / 2}%", n / 2)),
    Kind.GPUS: st.integers(0, 60).map(lambda n: Written(f"{n}/7", str(Fraction(n, 7))))
    | st.integers(0, 8).map(lambda n: Written(f"{n}.5", f"{2 * n + 1}/2")),
    Kind.FLAG: st.booleans().map(lambda flag: Written(str(flag).lower(), flag)),
    Kind.WARNINGS: st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(
        lambda parts: Written(f"[{', '.join(f'{part}%' for part in sorted(parts))}]", [float(p) for p in sorted(parts)])
    ),
}

RELATED = {"memory": sizes(8, 15), "memory_swap": sizes(200, 500)}
"""Sizes that may not contradict each other, whatever the layers are; so for memory_high and memory_max below."""


def values(key: Key) -> st.SearchStrategy[Written]:
    if key.name in RELATED:
        return RELATED[key.name]
    if key.name.endswith("memory_high"):
        return sizes(1, 6)
    if key.name.endswith("memory_max"):
        return sizes(16, 500)
    if key.kind is Kind.CHOICE:
        return st.sampled_from([Written(word, word) for word in key.choices])
    none = st.sampled_from([Written(text, None) for text in (UNLIMITED, "null", f'"{UNLIMITED}"')])
    return OF_KIND[key.kind] | none if key.optional else OF_KIND[key.kind]


@st.composite
def said(draw: st.DrawFn, layer: str) -> dict[str, Written]:
    """Some keys of a layer with values, in any order, those of a section together."""
    chosen = draw(st.lists(st.sampled_from(list(keys.allowed(layer).values())), unique=True, max_size=10))
    return {key.name: draw(values(key)) for key in chosen}


class Writer:
    """Writes a file and remembers in which line each key of each layer stands."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def layer(self, layer: Layer, indent: str) -> None:
        sections: dict[str, list[str]] = {}
        for name in layer.said:
            sections.setdefault(name.rpartition(".")[0], []).append(name)
        for section, names in sections.items():
            if section:
                self.line(f"{indent}{section}:")
            for name in names:
                inner = f"{indent}  " if section else indent
                self.line(f"{inner}{name.rpartition('.')[2]}: {layer.said[name].text}  # of '{layer.path}'")
                layer.lines[name] = len(self.lines)


@dataclass
class World:
    """A file, and what each layer of it says."""

    text: str
    top: Layer
    defaults: Layer
    groups: dict[str, Layer]
    users: dict[str, Layer]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    top, defaults = Layer("top level", draw(said("machine"))), Layer("defaults", draw(said("user")))
    some_groups = draw(st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))
    groups = {name: Layer(f"groups.{name}", draw(said("group"))) for name in some_groups}
    some_users = draw(st.lists(st.sampled_from(USERS), unique=True))
    users = {name: Layer(f"user_overrides.{name}", draw(said("user"))) for name in some_users}
    writer = Writer()
    writer.line(f"default_group: {some_groups[0]}")
    writer.layer(top, "")
    for title, layers in (("groups", groups), ("user_overrides", users)):
        if layers:
            writer.line(f"{title}:")
        for name, layer in layers.items():
            writer.line(f'  "{name}":')
            writer.layer(layer, "    ")
    writer.line("defaults:")
    writer.layer(defaults, "  ")
    return World("\n".join(writer.lines) + "\n", top, defaults, groups, users)


def expected(layers: list[Layer], base: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the layers come to on top of the built-in one, by field: values and origins."""
    limits, origins = dict(base["limits"]), dict(base["origins"])
    for layer in layers:
        for name, written in layer.said.items():
            limits[BY_NAME[name].field] = written.value
            origins[BY_NAME[name].field] = f"{layer.path} ({FILE}:{layer.lines[name]})"
    return limits, origins


def only(fields: Mapping[str, Any], *, of_machine: bool) -> dict[str, Any]:
    def is_machine(name: str) -> bool:
        return name in BY_FIELD and BY_FIELD[name].place is keys.Layer.MACHINE

    return {name: value for name, value in fields.items() if is_machine(name) is of_machine}


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_layers_units_and_origins_hold(world: World) -> None:
    found = built(world.text)
    assert [str(problem) for problem in found.problems] == []
    nobody = built_in(REFERENCE).compiled
    assert found.compiled is not None
    assert nobody is not None
    assert set(found.compiled["groups"]) == set(world.groups)
    for name, layer in world.groups.items():
        limits, origins = expected([world.top, world.defaults, layer], nobody["groups"]["default"])
        compiled = found.compiled["groups"][name]
        assert compiled["limits"] == only(limits, of_machine=False)
        assert compiled["origins"] == only(origins, of_machine=False)
    limits, origins = expected([world.top], nobody["machine"])
    assert found.compiled["machine"]["limits"] == only(limits, of_machine=True)
    assert found.compiled["machine"]["origins"] == only(origins, of_machine=True)
    for name, layer in world.users.items():
        limits, origins = expected([layer], {"limits": {}, "origins": {}})
        assert found.compiled["users"][name] == {"limits": limits, "origins": origins}


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_what_holds_for_a_user_is_his_layer_on_his_groups(world: World) -> None:
    policy = parse_policy(built(world.text).text)
    nobody = built_in(REFERENCE).compiled
    assert nobody is not None
    for group, group_layer in world.groups.items():
        for user in USERS:
            layers = [world.top, world.defaults, group_layer, world.users.get(user, Layer(""))]
            limits, _ = expected(layers, nobody["groups"]["default"])
            holds = policy.limits_in(group, user)
            assert (holds.memory_bytes, holds.cpus, holds.pids) == (
                limits["memory_bytes"],
                limits["cpus"],
                limits["pids"],
            )
            assert holds.memory_swap_bytes == limits.get("memory_swap_bytes", limits["memory_bytes"])
            assert holds.max_containers == limits["max_containers"]
            gpus = limits["max_gpu_equivalents"]
            assert holds.max_gpu_equivalents == (None if gpus is None else Fraction(gpus))
            assert holds.idle_timeout_s == limits["idle_timeout_s"]
            assert holds.login.tasks_max == limits["login.tasks_max"]
            assert holds.lifecycle.idle_action == limits["policies.idle_action"]


# --- no accident ------------------------------------------------------------------------------------------------------


def judge(content: bytes) -> None:
    """Whatever the bytes are: problems that can be printed, or a policy that can be used and has no hole in it."""
    found = built(content)
    for problem in found.problems:
        assert str(problem).isprintable()
        assert problem.text
    assert (found.compiled is None) == bool(found.problems)
    if found.compiled is None:
        return
    json.loads(found.text)
    policy = parse_policy(found.text)
    policy.limits_for("alice", ("student",))
    lines = content.decode().splitlines()
    layers = [*found.compiled["groups"].values(), *found.compiled["users"].values(), found.compiled["machine"]]
    for layer in layers:
        for name, value in layer["limits"].items():
            if value is None:
                assert_meant(BY_FIELD[name], layer["origins"][name], lines)


def assert_meant(key: Key, origin: str, lines: list[str]) -> None:
    """No limit is either the built-in word or stands in the line that the origin names."""
    assert key.optional
    if origin == "built in":
        assert key.default == UNLIMITED
        return
    number = int(origin.rpartition(":")[2].rstrip(")"))
    assert any(word in line for line in lines[number - 1 : number + 1] for word in (UNLIMITED, "null")), origin


@pytest.mark.parametrize("name", ["resource-limits.yaml", "resource-limits.reference.yaml"])
def test_the_shipped_files_pass_the_same_judgement(name: str) -> None:
    judge((CONFIG / name).read_bytes())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
@example(b"")
@example(b"\xff\xfe")
@example(b"groups:\n  student: {max_containers_per_user: null}\n")
def test_no_bytes_are_an_accident(content: bytes) -> None:
    judge(content)


WORDS = st.sampled_from(
    [
        *(key.name.rpartition(".")[2] for key in keys.KEYS), *(key.section for key in keys.KEYS if key.section),
        *keys.STRUCTURE, "student", "alice", "members", "unix_groups", UNLIMITED, "null", "~", "no", "5g", "1h", "5%",
        "25% of machine", "3/7", "0", "1", "-1", "", "true", "[]", "{}", "&a", "*a", "<<", "!!null ''", "- x", "'null'",
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), WORDS, WORDS), max_size=12))
def test_no_arrangement_of_our_words_is_an_accident(rows: list[tuple[int, str, str]]) -> None:
    judge("\n".join(f"{'  ' * depth}{key}: {value}" for depth, key, value in rows).encode())


SHIPPED = (CONFIG / "resource-limits.yaml").read_bytes()
CUTS = st.tuples(st.integers(0, len(SHIPPED)), st.integers(0, 30), st.binary(max_size=6) | WORDS.map(str.encode))


@settings(max_examples=400, deadline=None)
@given(st.lists(CUTS, min_size=1, max_size=3))
def test_no_damage_to_a_good_file_is_an_accident(cuts: list[tuple[int, int, bytes]]) -> None:
    content = SHIPPED
    for start, length, instead in cuts:
        content = content[:start] + instead + content[start + length :]
    judge(content)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SHIPPED)))
def test_a_file_that_was_cut_off_is_no_accident(length: int) -> None:
    judge(SHIPPED[:length])
