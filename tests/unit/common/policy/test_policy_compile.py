"""How layers merge, who is in which group, and what contradicts itself only after the merge."""

from __future__ import annotations

from fractions import Fraction

import pytest
from policy_world import GIB, built, policy, told

from ds01.common.limits import Aggregate, parse_policy
from ds01.common.policy.build import built_in
from ds01.common.policy.kinds import Machine

HOUR_S = 3600
REPORTED = """\
groups:
  student:
    max_mig_instances: 2
    max_containers_per_user: 2
    max_cpus: 64
    memory: 128g
    idle_timeout: 24h
    max_runtime: 48h
  researcher:
    max_mig_instances: 4
    allow_full_gpu: true
    max_runtime: 168h
"""


def test_the_example_of_the_report_loads_as_it_is() -> None:
    found = policy(REPORTED)
    student, researcher = found.groups["student"].limits, found.groups["researcher"].limits
    assert found.default_group == "student"
    assert (student.max_mig_instances, student.max_containers, student.cpus) == (2, 2, 64.0)
    assert (student.memory_bytes, student.idle_timeout_s, student.max_runtime_s) == (
        128 * GIB,
        24 * HOUR_S,
        48 * HOUR_S,
    )
    assert (researcher.max_mig_instances, researcher.allow_full_gpu) == (4, True)
    assert researcher.max_runtime_s == 168 * HOUR_S
    assert student.aggregate.memory_max_bytes == 256 * GIB
    assert student.aggregate.cpu_quota_percent == 12_800


def test_layers_lie_on_each_other_key_by_key() -> None:
    found = policy(
        """\
max_connections: 10
max_streams: 11
login: {memory_max: 10g, tasks_max: 500}
defaults:
  max_streams: 20
  memory: 20g
  aggregate: {memory_max: 100g, tasks_max: 1000}
groups:
  student:
    memory: 30g
    aggregate: {tasks_max: 2000}
    login: {memory_max: 9g}
user_overrides:
  alice:
    aggregate: {tasks_max: 3000}
    max_gpu_equivalents: 3/7
"""
    )
    alice, bob = found.limits_for("alice", ()), found.limits_for("bob", ())
    assert (alice.max_connections, alice.max_streams, alice.memory_bytes) == (10, 20, 30 * GIB)
    assert (alice.aggregate.memory_max_bytes, alice.aggregate.tasks_max) == (100 * GIB, 3000)
    assert (bob.aggregate.memory_max_bytes, bob.aggregate.tasks_max) == (100 * GIB, 2000)
    assert (alice.login.memory_max_bytes, alice.login.tasks_max) == (9 * GIB, 500)
    assert (alice.max_gpu_equivalents, bob.max_gpu_equivalents) == (Fraction(3, 7), 1)


def test_an_override_lies_on_whatever_group_the_user_is_in() -> None:
    found = policy(
        "groups:\n"
        "  student: {max_cpus: 8}\n"
        "  researcher: {unix_groups: [research], max_cpus: 32}\n"
        "user_overrides: {alice: {memory: 9g}}\n"
    )
    for unix_groups, cpus in (((), 8.0), (("research",), 32.0)):
        limits = found.limits_for("alice", unix_groups)
        assert (limits.cpus, limits.memory_bytes) == (cpus, 9 * GIB)


def test_null_and_unlimited_are_no_limit_and_absent_is_inherited() -> None:
    found = policy(
        "defaults: {max_containers_per_user: 7, idle_timeout: 1h}\n"
        "groups: {student: {max_containers_per_user: null, idle_timeout: unlimited}, other: {}}\n"
    )
    student, other = found.groups["student"].limits, found.groups["other"].limits
    assert (student.max_containers, student.idle_timeout_s) == (None, None)
    assert (other.max_containers, other.idle_timeout_s) == (7, HOUR_S)


def test_every_value_keeps_its_origin() -> None:
    compiled = built(
        "max_streams: 9\n"
        "defaults:\n"
        "  memory: 20g\n"
        "groups:\n"
        "  student:\n"
        "    max_cpus: 8\n"
        "user_overrides:\n"
        "  alice:\n"
        "    aggregate:\n"
        "      tasks_max: 5\n"
    ).compiled
    assert compiled is not None
    origins = compiled["groups"]["student"]["origins"]
    assert origins["max_streams"] == "top level (limits.yaml:1)"
    assert origins["memory_bytes"] == "defaults (limits.yaml:3)"
    assert origins["cpus"] == "groups.student (limits.yaml:6)"
    assert origins["pids"] == "built in"
    assert compiled["users"]["alice"] == {
        "limits": {"aggregate.tasks_max": 5},
        "origins": {"aggregate.tasks_max": "user_overrides.alice (limits.yaml:10)"},
    }


def test_folders_merge_one_by_one() -> None:
    found = policy(
        "binds: {/data: ro}\ngroups: {student: {binds: {/data: rw, /scratch: rw}}, other: {binds: {~: none}}}"
    )
    assert found.groups["student"].limits.binds == {"~": "rw", "/data": "rw", "/scratch": "rw"}
    assert found.groups["other"].limits.binds == {"~": "none", "/data": "ro"}


@pytest.mark.parametrize(
    ("text", "members", "user", "unix_groups", "group"),
    [
        ("groups: {a: {members: [x]}, student: {}}", {}, "x", (), "a"),
        ("groups: {a: {}, student: {}}", {"a": "x\n"}, "x", (), "a"),
        ("groups: {a: {unix_groups: [g]}, b: {unix_groups: [g]}, student: {}}", {}, "x", ("g",), "a"),
        ("groups: {a: {unix_groups: [g]}, b: {members: [x]}, student: {}}", {}, "x", ("g",), "b"),
        ("groups: {a: {unix_groups: [g]}, student: {}}", {}, "x", ("h",), "student"),
        ("default_group: a\ngroups: {a: {}, student: {}}", {}, "x", (), "a"),
        ("groups: {a: {}}", {}, "x", (), "a"),
        ("{}", {}, "x", (), "default"),
        ("default_group: a", {}, "x", (), "a"),
        ("groups: {a: {members: [x, x]}, student: {}}", {"a": "x\nx\n"}, "x", (), "a"),
    ],
)
def test_who_is_in_which_group(
    text: str, members: dict[str, str], user: str, unix_groups: tuple[str, ...], group: str
) -> None:
    assert policy(text, members).group_of(user, unix_groups) == group


TWICE = "groups:\n  a:\n    members: [x]\n  student:\n    members:\n      - z\n      - x\n"


@pytest.mark.parametrize(
    ("text", "members", "problems"),
    [
        (TWICE, {}, ["7:9: groups.student.members: 'x' is in 'a' too (limits.yaml:3): keep one"]),
        (
            "groups: {a: {members: [x]}, student: {}}",
            {"student": "y\nx\n"},
            ["groups/student.members:2:1: groups.student.members: 'x' is in 'a' too (limits.yaml:1): keep one"],
        ),
        (
            "groups: {a: {}, student: {}}",
            {"a": "x\n", "student": "x\n"},
            ["groups/student.members:1:1: groups.student.members: 'x' is in 'a' too (a.members:1): keep one"],
        ),
        (
            "groups: {a: {members: [x]}, b: {members: [x]}, student: {members: [x]}}",
            {},
            [
                "1:43: groups.b.members: 'x' is in 'a' too (limits.yaml:1): keep one",
                "1:68: groups.student.members: 'x' is in 'a' too (limits.yaml:1): keep one",
            ],
        ),
        (
            "groups: {student: {}}",
            {"archived": "x\n", "empty": ""},
            [
                "groups/archived.members: there is no group 'archived': add it below 'groups:', or rename the file so"
                " that it does not end in '.members'",
                "groups/empty.members: there is no group 'empty': add it below 'groups:', or rename the file so that it"
                " does not end in '.members'",
            ],
        ),
    ],
)
def test_who_is_in_two_groups(text: str, members: dict[str, str], problems: list[str]) -> None:
    assert told(text, members) == problems


ABOVE = "write less, such as 90% of it, or leave it out"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            "groups:\n  student:\n    aggregate:\n      memory_max: 60g\n      memory_high: 80g\n",
            [
                "5:20: groups.student.aggregate.memory_high: memory_high (80 GiB, groups.student (limits.yaml:5)) is"
                f" above memory_max (60 GiB, groups.student (limits.yaml:4)): {ABOVE}"
            ],
        ),
        (
            "defaults: {aggregate: {memory_high: 80g}}\ngroups:\n  student:\n    aggregate: {memory_max: 60g}\n",
            [
                "4:29: groups.student.aggregate.memory_max: memory_high (80 GiB, defaults (limits.yaml:1)) is above"
                f" memory_max (60 GiB, groups.student (limits.yaml:4)): {ABOVE}"
            ],
        ),
        (
            "groups:\n  student: {aggregate: {memory_max: 90g, memory_high: 80g}}\n"
            "user_overrides:\n  alice:\n    aggregate: {memory_max: 60g}\n  bob: {memory: 1g}\n",
            [
                "5:29: user_overrides.alice.aggregate.memory_max: memory_high (80 GiB, groups.student (limits.yaml:2))"
                f" is above memory_max (60 GiB, user_overrides.alice (limits.yaml:5)): {ABOVE}"
            ],
        ),
        (
            "defaults: {login: {memory_max: 10g, memory_high: 20g}}\ngroups: {student: {}, other: {}}\n"
            "user_overrides: {alice: {memory: 1g}}",
            [
                "1:50: defaults.login.memory_high: memory_high (20 GiB, defaults (limits.yaml:1)) is above memory_max"
                f" (10 GiB, defaults (limits.yaml:1)): {ABOVE}"
            ],
        ),
        (
            "login: {memory_high: 50% of machine}",
            [
                "1:22: login.memory_high: memory_high (512 GiB, top level (limits.yaml:1)) is above memory_max (256"
                f" GiB, built in): {ABOVE}"
            ],
        ),
        (
            "groups:\n  student:\n    memory: 10g\n    max_containers_per_user: 2\n    aggregate: {memory_high: 21g}\n",
            [
                "5:30: groups.student.aggregate.memory_high: memory_high (21 GiB, groups.student (limits.yaml:5)) is"
                f" above memory_max (20 GiB, follows from memory and max_containers_per_user): {ABOVE}"
            ],
        ),
        (
            "groups:\n  student: {memory: 10g, aggregate: {memory_high: 21g}}\n"
            "user_overrides:\n  alice: {max_containers_per_user: 2}\n",
            [
                "4:36: user_overrides.alice.max_containers_per_user: memory_high (21 GiB, groups.student"
                " (limits.yaml:2)) is above memory_max (20 GiB, follows from memory and max_containers_per_user):"
                f" {ABOVE}"
            ],
        ),
        (
            "engine: {memory_max: 10g, memory_high: 11g}\njobs: {memory_high: 200g}\n",
            [
                "1:40: engine.memory_high: memory_high (11 GiB, top level (limits.yaml:1)) is above memory_max (10 GiB,"
                f" top level (limits.yaml:1)): {ABOVE}",
                "2:21: jobs.memory_high: memory_high (200 GiB, top level (limits.yaml:2)) is above memory_max (128 GiB,"
                f" built in): {ABOVE}",
            ],
        ),
        (
            "groups: {student: {total: {memory_max: 10g, memory_high: 11g}}}",
            [
                "1:58: groups.student.total.memory_high: memory_high (11 GiB, groups.student (limits.yaml:1)) is above"
                f" memory_max (10 GiB, groups.student (limits.yaml:1)): {ABOVE}"
            ],
        ),
        (
            "groups: {student: {memory_swap: 10g}}\nuser_overrides: {alice: {memory: 5g}}\n",
            [
                "1:33: groups.student.memory_swap: memory_swap (10 GiB, groups.student (limits.yaml:1)) is memory and"
                " swap together, and less than memory alone (128 GiB, built in): write as much or more, or leave it out"
            ],
        ),
        (
            "groups: {student: {memory: 5g, memory_swap: 10g}}\nuser_overrides: {alice: {memory: 20g}}\n",
            [
                "2:34: user_overrides.alice.memory: memory_swap (10 GiB, groups.student (limits.yaml:1)) is memory and"
                " swap together, and less than memory alone (20 GiB, user_overrides.alice (limits.yaml:2)): write as"
                " much or more, or leave it out"
            ],
        ),
    ],
)
def test_what_contradicts_itself_after_the_merge(text: str, problems: list[str]) -> None:
    assert told(text) == problems


@pytest.mark.parametrize(
    "text",
    [
        "groups: {student: {aggregate: {memory_max: 60g, memory_high: 60g}}}",
        "groups: {student: {aggregate: {memory_max: unlimited, memory_high: 60g}}}",
        "groups: {student: {aggregate: {memory_max: 60g, memory_high: unlimited}}}",
        "groups: {student: {max_containers_per_user: unlimited, aggregate: {memory_high: 1024g}}}",
        "defaults: {aggregate: {memory_high: 80g}}\ngroups: {student: {aggregate: {memory_max: 90g}}}",
        "groups: {student: {memory: 5g, memory_swap: 5g}}",
        "groups: {student: {aggregate: {memory_max: 1g}}}",
    ],
)
def test_what_is_no_contradiction(text: str) -> None:
    assert told(text) == []


def test_what_was_misread_contradicts_nothing() -> None:
    text = (
        "groups:\n  student:\n    memory: 10\n    memory_swap: 5g\n    aggregate: {memory_max: 9, memory_high: 900g}\n"
    )
    assert told(text) == [
        "3:13: groups.student.memory: '10' has no unit: write 10GiB or 10MiB",
        "5:29: groups.student.aggregate.memory_max: '9' has no unit: write 9GiB or 9MiB",
    ]


@pytest.mark.parametrize(
    ("unix_groups", "problems"),
    [("[]", 0), ("[research]", 1)],
)
def test_an_override_is_judged_in_every_group_that_its_user_can_be_in(unix_groups: str, problems: int) -> None:
    """Only where Unix groups, or nobody, say who is in it: nothing else can take him there."""
    text = (
        "groups:\n  student: {}\n"
        f"  researcher: {{unix_groups: {unix_groups}, aggregate: {{memory_max: 90g, memory_high: 80g}}}}\n"
        "user_overrides: {alice: {aggregate: {memory_max: 60g}}}\n"
    )
    assert len(told(text)) == problems
    assert told(text, {"student": "alice\n"}) == []


@pytest.mark.parametrize(
    ("values", "aggregate"),
    [
        ("max_cpus: 4, memory: 8g, pids_limit: 100, max_containers_per_user: 3",
         Aggregate(1200, 24 * GIB, 24 * GIB * 9 // 10 // 4096 * 4096, 300, 100)),
        ("max_cpus: 100, memory: 1000g, pids_limit: 4000000, max_containers_per_user: 2",
         Aggregate(12_800, 1024 * GIB, 1024 * GIB * 9 // 10 // 4096 * 4096, 4_194_304, 100)),
        ("memory: 8g, max_containers_per_user: unlimited",
         Aggregate(12_800, 1024 * GIB, 1024 * GIB * 9 // 10 // 4096 * 4096, 4_194_304, 100)),
        ("max_cpus: 4, memory: 8g, pids_limit: 100, max_containers_per_user: 0",
         Aggregate(400, 8 * GIB, 8 * GIB * 9 // 10 // 4096 * 4096, 100, 100)),
        ("max_cpus: 4, memory: 8g, pids_limit: 100, aggregate: {memory_max: 10g, cpu_weight: 50}",
         Aggregate(1200, 10 * GIB, 9 * GIB, 300, 50)),
        ("aggregate: {cpu_quota: unlimited, memory_max: unlimited, tasks_max: unlimited}",
         Aggregate(None, None, None, None, 100)),
    ],
)  # fmt: skip
def test_what_follows_where_nobody_says_it(values: str, aggregate: Aggregate) -> None:
    assert policy(f"groups: {{student: {{{values}}}}}").groups["student"].limits.aggregate == aggregate


def test_an_exemption() -> None:
    (one,) = policy(
        "exemptions:\n  - user: alice\n    from: [idle_timeout, max_runtime]\n    until: 2027-03-31\n    why: thesis\n"
    ).exemptions
    assert (one.user, one.of, one.until) == ("alice", ("idle_timeout", "max_runtime"), "2027-03-31")
    (two,) = policy("exemptions: [{user: bob, from: max_runtime, until: unlimited, why: server}]").exemptions
    assert (two.of, two.until) == (("max_runtime",), "")


@pytest.mark.parametrize("memory_gib", [2, 4, 64, 4096])
@pytest.mark.parametrize("cpus", [1, 2, 128, 256])
def test_the_built_in_policy_holds_on_every_machine(cpus: int, memory_gib: int) -> None:
    machine = Machine(cpus, memory_gib * GIB, 15_000)
    limits = parse_policy(built_in(machine).text).limits_for("anybody", ())
    assert not limits.allow_full_gpu
    assert limits.cpus <= cpus
    assert limits.memory_bytes <= machine.memory_bytes
    assert (limits.max_gpu_equivalents, limits.max_gpu_units_per_container) == (1, 1)


def test_the_built_in_policy_is_what_a_file_without_a_word_says() -> None:
    assert built("{}").compiled == built_in(Machine(128, 1024 * GIB, 4_194_304)).compiled
