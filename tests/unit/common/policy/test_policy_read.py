"""What is wrong with a policy, said with line and column, and what is right although it looks odd."""

from __future__ import annotations

import pytest
from policy_world import policy, told

from ds01.common.adapters.yamltree import read_tree
from ds01.common.policy.read import read

GROUP = "groups:\n  student:\n    "
"""The next thing stands in line 3, column 5."""

LESS = "write that or less, or a part like '50% of machine'"
QUOTE = "is not a word to every YAML reader: write"
REMOVE = "remove it, or see resource-limits.reference.yaml"


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        # keys
        ("max_runtme: 48h", "3:5: groups.student.max_runtme: is not a key: did you mean 'max_runtime'?"),
        ("Memory: 5g", "3:5: groups.student.Memory: is not a key: did you mean 'memory'?"),
        ("member: [a]", "3:5: groups.student.member: is not a key: did you mean 'members'?"),
        ("agregate: {}", "3:5: groups.student.agregate: is not a key: did you mean 'aggregate'?"),
        ("colour: red", f"3:5: groups.student.colour: is not a key: {REMOVE}"),
        ("'\\x1b[31m': 1", f"3:5: groups.student.\\x1b[31m: is not a key: {REMOVE}"),
        ('"\\x1b[31m": 1', f"3:5: groups.student.?[31m: is not a key: {REMOVE}"),
        ("max_gpus_per_container: 1",
         "3:5: groups.student.max_gpus_per_container: is not a key: write 'max_gpu_slots_per_container'"),
        ("idle_timeout_h: 1", "3:5: groups.student.idle_timeout_h: is not a key: write 'idle_timeout'"),
        ("max_tasks: 1", "3:5: groups.student.max_tasks: is not a key: write 'tasks_max' below 'aggregate:'"),
        ("aggregate.memory_max: 5g",
         "3:5: groups.student.aggregate.memory_max: is not a key: write 'memory_max' below 'aggregate:'"),
        ("memory_max: 5g",
         "3:5: groups.student.memory_max: stands in a section: write it below 'aggregate:' or 'login:' or 'total:'"),
        ("sigterm_grace: 5s",
         "3:5: groups.student.sigterm_grace: stands in a section: write it below 'policies:' in top level"),
        ("engine: {}", "3:5: groups.student.engine: does not stand here: it belongs in top level"),
        ("exemptions: []", "3:5: groups.student.exemptions: does not stand here: it belongs at the top level"),
        ("<<: {}", "3:5: groups.student.<<: '<<' is not read here: write the keys out"),
        ("aggregate: {gpu_limit: 2}",
         "3:17: groups.student.aggregate.gpu_limit: is not a key: write 'max_gpu_equivalents'"),
        ("aggregate: {memory_mx: 2g}",
         "3:17: groups.student.aggregate.memory_mx: is not a key of 'aggregate': did you mean 'memory_max'?"),
        ("policies: {shrink_grace: 1h}",
         "3:16: groups.student.policies.shrink_grace: does not stand here: it belongs in 'policies:' at the top level"),
        # values that are none
        ("memory:", "3:12: groups.student.memory: has no value: write a size like 64GiB, or remove the line"),
        ("idle_timeout:",
         "3:18: groups.student.idle_timeout: has no value: write a time like 24h, or unlimited, or remove the line"),
        ("memory: null",
         "3:13: groups.student.memory: can't be unlimited: write a size like 64GiB, or remove the line"),
        ("memory: unlimited",
         "3:13: groups.student.memory: can't be unlimited: write a size like 64GiB, or remove the line"),
        ("memory: ~", "3:13: groups.student.memory: can't be unlimited: write a size like 64GiB, or remove the line"),
        ("allow_full_gpu: null",
         "3:21: groups.student.allow_full_gpu: can't be unlimited: write true or false, or remove the line"),
        ("idle_timeout: ~",
         "3:19: groups.student.idle_timeout: '~' may mean anything: write unlimited, or remove the line to inherit"),
        ("idle_timeout: NULL",
         "3:19: groups.student.idle_timeout: 'NULL' may mean anything: write unlimited, or remove the line to inherit"),
        ("max_containers_per_user: -1",
         "3:30: groups.student.max_containers_per_user: '-1' may mean anything: write unlimited, or remove the line to"
         " inherit"),
        ("idle_timeout: infinity",
         "3:19: groups.student.idle_timeout: 'infinity' may mean anything: write unlimited, or remove the line to"
         " inherit"),
        ("idle_timeout: 'null'",
         "3:19: groups.student.idle_timeout: 'null' is not a duration: write one like 24h, 30m, 0.5h or 7d"),
        # values of another kind
        ("memory: [5g]", "3:13: groups.student.memory: is a list: write a size like 64GiB"),
        ("memory: {max: 5g}", "3:13: groups.student.memory: is a section: write a size like 64GiB"),
        ("idle_timeout: []", "3:19: groups.student.idle_timeout: is a list: write a time like 24h, or unlimited"),
        ("aggregate: 5g",
         "3:16: groups.student.aggregate: is '5g': it is a section, with a key on each line below it"),
        ("aggregate: [5g]",
         "3:16: groups.student.aggregate: is a list: it is a section, with a key on each line below it"),
        ("members: alice", "3:14: groups.student.members: is 'alice': write a list like [alice, bob]"),
        ("members: [[alice]]", "3:15: groups.student.members: is a list: write a name"),
        # values that YAML readers take in different ways, and bare numbers
        ("memory: 128", "3:13: groups.student.memory: '128' has no unit: write 128GiB or 128MiB"),
        ("max_runtime: 48", "3:18: groups.student.max_runtime: '48' has no unit: write 48h or 48m"),
        ("max_runtime: 12:30",
         "3:18: groups.student.max_runtime: '12:30' is a number to base 60 in YAML 1.1: write 12h30m"),
        ("pids_limit: 012", "3:17: groups.student.pids_limit: '012' is octal in YAML 1.1, that is 10: write 12 or 10"),
        ("pids_limit: 1_000", "3:17: groups.student.pids_limit: '1_000' has underlines in it: write 1000"),
        ("allow_full_gpu: no",
         "3:21: groups.student.allow_full_gpu: 'no' is read differently by different programs: write false"),
        ("max_cpus: no",
         "3:15: groups.student.max_cpus: 'no' is not a number of CPUs: write one like 64, 1.5, 9600% or '25% of"
         " machine'"),
        ("policies: {cpu_idle_threshold: 2}",
         "3:36: groups.student.policies.cpu_idle_threshold: '2' has no unit: write 2%"),
        ("policies: {idle_action: kill}",
         "3:29: groups.student.policies.idle_action: 'kill' is none of the words: write park or stop"),
        ("wishes: {privileged: allow}",
         "3:26: groups.student.wishes.privileged: 'allow' is none of the words: write refuse or drop"),
        # values that are too little
        ("memory: 5m", "3:13: groups.student.memory: '5m' is too little: write 6MiB or more"),
        ("pids_limit: 0", "3:17: groups.student.pids_limit: '0' is too little: write 1 or more"),
        ("idle_timeout: 0s",
         "3:19: groups.student.idle_timeout: '0s' is too little: write 1m or more, or unlimited"),
        ("max_runtime: 0h", "3:18: groups.student.max_runtime: '0h' is too little: write 1m or more, or unlimited"),
        ("max_cpus: 0", "3:15: groups.student.max_cpus: '0' is next to no CPU at all: write 0.01 or more"),
        ("memory: 0.0001% of machine",
         "3:13: groups.student.memory: '0.0001% of machine' is 1.05 MiB here, too little: write 6MiB or more"),
        # values that are more than the machine has
        ("memory: 1025g",
         f"3:13: groups.student.memory: 1025 GiB are more than the machine has, 1024 GiB: {LESS}"),
        ("memory: 2t",
         f"3:13: groups.student.memory: 2 TiB are more than the machine has, 1 TiB: {LESS}"),
        ("max_cpus: 129",
         f"3:15: groups.student.max_cpus: 129 CPUs are more than the machine has, 128 CPUs: {LESS}"),
        ("aggregate: {cpu_quota: 13000%}",
         "3:28: groups.student.aggregate.cpu_quota: 130 CPUs are more than the machine has, 128 CPUs (12800%):"
         f" {LESS}"),
        ("total: {tasks_max: 5000000}",
         "3:24: groups.student.total.tasks_max: 5000000 processes are more than the machine has, room for 4194304:"
         f" {LESS}"),
        # folders
        ("binds: {home: rw}",
         "3:13: groups.student.binds.home: is no root: write '~', '~/folder' or an absolute path without '..'"),
        ("binds: {/a/../b: rw}",
         "3:13: groups.student.binds./a/../b: is no root: write '~', '~/folder' or an absolute path without '..'"),
        ("binds: {/: ro}",
         "3:13: groups.student.binds./: is no root: write '~', '~/folder' or an absolute path without '..'"),
        ("binds: {/data: yes}", "3:20: groups.student.binds./data: is 'yes': write ro or rw or none"),
        # names
        ("members: [a b]",
         "3:15: groups.student.members: 'a b' is no name: it has a space, a colon, a comma or a slash in it"),
        ("members: ['a:b']",
         "3:15: groups.student.members: 'a:b' is no name: it has a space, a colon, a comma or a slash in it"),
        ("members: [\"a\\u200bb\"]",
         "3:15: groups.student.members: 'a?b' is no name: it has a character in it that can't be seen"),
        ("members: ['']", "3:15: groups.student.members: is empty: write a name"),
        (f"members: [{'x' * 257}]",
         "3:15: groups.student.members: has 257 characters, and 256 is the most: is it a name?"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_group(setting: str, problem: str) -> None:
    assert told(GROUP + setting + "\n") == [problem]


@pytest.mark.parametrize(
    "name",
    [
        "no", "No", "NO", "yes", "on", "off", "y", "N", "true", "False", "null", "~", "0123", "0o17", "0x1f", "0b1",
        "1_000", "1.5", ".5", "1e3", "12e4567", "+1", "-5", ".inf", "2027-03-31", "=",
    ],
)  # fmt: skip
def test_names_that_are_no_words_to_yaml_need_quotes(name: str) -> None:
    text = f"groups:\n  student:\n    members:\n      - alice\n      - {name}\n"
    assert told(text) == [
        f"5:9: groups.student.members: '{name}' is not a word to every YAML reader: write \"{name}\", with the quotes"
    ]
    assert policy(text.replace(f"- {name}", f'- "{name}"')).group_of(name, ()) == "student"


@pytest.mark.parametrize(
    "name",
    ["j.doe", "j-doe", "-doe", "doe@example.org", "u" * 200, "12345", "0", "Ünal", "a#b", "none", "01a", "a.b.c",
     "2027-03", "DOMAIN\\doe", "x1e3"],
)  # fmt: skip
def test_other_names_are_names(name: str) -> None:
    inline = policy(
        f"groups:\n  staff:\n    members: [{name}]\n  student:\nuser_overrides:\n  {name}: {{memory: 9g}}\n"
    )
    listed = policy("groups: {staff: {}, student: {}}", {"staff": f"# staff\n{name}  # since March\n"})
    if "#" not in name:  # which begins a comment there
        assert listed.group_of(name, ()) == "staff"
    assert inline.group_of(name, ()) == "staff"
    assert inline.limits_for(name, ()).memory_bytes == 9 * 2**30


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("default_group: staff\ngroups: {student: {}, researcher: {}}\n",
         "1:16: default_group: 'staff' is no group here: write one of researcher, student"),
        ("groups:\n  staff:\n  guest:\n",
         "3:3: default_group: is absent, and there is no group 'student': write one of guest, staff"),
        ("default_group: no\n", f"1:16: default_group: 'no' {QUOTE} \"no\", with the quotes"),
        ("default_group: no\ngroups: {a: {}, b: {}}\n", f"1:16: default_group: 'no' {QUOTE} \"no\", with the quotes"),
        ("default_group: [student]\n", "1:16: default_group: is a list: write a name"),
        ("default_group:\n", "1:15: default_group: is empty: write a name"),
        ("student: {}\n", f"1:1: student: is not a key: {REMOVE}"),
        ("group: {}\n", "1:1: group: is not a key: did you mean 'groups'?"),
        ("memory: 5g\n", "1:1: memory: does not stand here: it belongs in defaults, a group, a user"),
        ("memry: 5g\n",
         "1:1: memry: is not a key: did you mean 'memory'? That does not stand here: it belongs in defaults, a group, a"
         " user"),
        ("memory_max: 5g\n",
         "1:1: memory_max: stands in a section: write it below 'login:' or 'engine:' or 'jobs:'"),
        ("task_max: 5\n",
         "1:1: task_max: is not a key: did you mean 'tasks_max'? That stands in a section: write it below 'login:' or"
         " 'engine:' or 'jobs:'"),
        ("defaults: {total: {}}\n", "1:12: defaults.total: does not stand here: it belongs in a group"),
        ("user_overrides: {alice: {members: [bob]}}\n",
         f"1:26: user_overrides.alice.members: is not a key: {REMOVE}"),
        ("user_overrides: {alice: 5g}\n",
         "1:25: user_overrides.alice: is '5g': it is a section, with a key on each line below it"),
        ("user_overrides: {no: {}}\n",
         "1:18: user_overrides.no: 'no' is not a word to every YAML reader: write \"no\", with the quotes"),
        ("user_overrides: {a/b: {}}\n",
         "1:18: user_overrides.a/b: 'a/b' is no name: it has a space, a colon, a comma or a slash in it"),
        ("user_overrides:\n  <<: {memory: 5g}\n", "2:3: user_overrides: '<<' is not read here: write the keys out"),
        ("groups:\n  a b: {}\n",
         "2:3: groups.a b: is no name for a group: use up to 32 letters, digits, '_', '-' and '.'"),
        ("groups:\n  off: {}\n", f"2:3: groups.off: 'off' {QUOTE} \"off\", with the quotes"),
        ("groups: [student]\n", "1:9: groups: is a list: it is a section, with a key on each line below it"),
        ("- groups\n", "1:1: the file is a list: begin with a key like 'groups:'"),
        ("groups\n", "1:1: the file is 'groups': begin with a key like 'groups:'"),
        ("policies: {idle_warnings: []}\n",
         "1:27: policies.idle_warnings: is an empty list: write a list like [50%, 80%, 95%]"),
        ("policies: {idle_warnings: 50%}\n",
         "1:27: policies.idle_warnings: is '50%': write a list like [50%, 80%, 95%]"),
        ("policies: {idle_warnings: [80%, 50%]}\n",
         "1:27: policies.idle_warnings: must rise from above 0% to below 100%: write a list like [50%, 80%, 95%]"),
        ("policies: {idle_warnings: [50%, [80%]]}\n",
         "1:27: policies.idle_warnings: has a list in it: write a list like [50%, 80%, 95%]"),
        ("policies: {runtime_warnings: null}\n",
         "1:30: policies.runtime_warnings: is 'null': write a list like [50%, 80%, 95%]"),
        ("policies: {granted_timeout: 0s}\n", "1:29: policies.granted_timeout: '0s' is too little: write 1s or more"),
        ("reserve: {memory: 2t}\n",
         f"1:19: reserve.memory: 2 TiB are more than the machine has, 1 TiB: {LESS}"),
        ("exemptions: {user: alice}\n", "1:13: exemptions: is a list: begin each entry with '- user:'"),
        ("exemptions: [alice]\n", "1:14: exemptions[0]: is 'alice': an exemption says user, from, until and why"),
        ("exemptions: [{user: alice}]\n",
         "1:14: exemptions[0]: lacks from, until, why: an exemption says user, from, until and why"),
        ("exemptions: [{user: a, from: max_runtime, until: 2027-01-01, why: x, by: me}]\n",
         "1:70: exemptions[0].by: is not a key of an exemption: it says user, from, until and why"),
        ("exemptions: [{user: a, from: [], until: 2027-01-01, why: x}]\n",
         "1:30: exemptions[0].from: is an empty list: write idle_timeout or max_runtime"),
        ("exemptions: [{user: a, from: memory, until: 2027-01-01, why: x}]\n",
         "1:30: exemptions[0].from: is 'memory': write idle_timeout or max_runtime"),
        ("exemptions: [{user: a, from: max_runtime, until: soon, why: x}]\n",
         "1:50: exemptions[0].until: 'soon' is not a date: write one like 2027-03-31 or 2027-03-31T18:00"),
        ("exemptions: [{user: a, from: max_runtime, until: , why: x}]\n",
         "1:50: exemptions[0].until: is nothing: write a word or a sentence"),
    ],
)  # fmt: skip
def test_what_is_wrong_elsewhere(text: str, problem: str) -> None:
    assert told(text) == [problem]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("alice\nbob smith\n",
         "groups/student.members:2:1: 'bob smith' is no name: it has a space, a colon, a comma or a slash in it"),
        ("  alice,bob\n",
         "groups/student.members:1:3: 'alice,bob' is no name: it has a space, a colon, a comma or a slash in it"),
        ("alice:student # old\n",
         "groups/student.members:1:1: 'alice:student' is no name: it has a space, a colon, a comma or a slash in it"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_list_of_members(names: str, problem: str) -> None:
    assert told("groups: {student: {}}", {"student": names}) == [problem]


def test_a_list_of_members_is_read_as_editors_leave_it() -> None:
    found = policy("groups: {staff: {}, student: {}}", {"staff": "\ufeffalice\r\n\r\n# bob\r\n\tno  \r\n0123\r\n"})
    assert found.groups["staff"].members == {"alice", "no", "0123"}


@pytest.mark.parametrize("text", ["groups:\n", "groups: {student: }\n", "groups:\n  student:\n    aggregate:\n",
                                  "user_overrides:\n", "defaults:\n", "exemptions:\n", "policies:\n", "binds:\n",
                                  "groups: {student: {members: }}\n", "user_overrides: {alice: }\n"])  # fmt: skip
def test_an_empty_section_says_nothing(text: str) -> None:
    """All its lines may be comments today."""
    assert policy(text).limits_for("alice", ()) == policy("{}").limits_for("alice", ())


def test_a_file_of_something_else_is_told_soon() -> None:
    lines = "\n".join(f"service{number}: {{image: x}}" for number in range(20_000))
    problems = told(lines)
    assert len(problems) == 101
    assert problems[0] == f"1:1: service0: is not a key: {REMOVE}"
    assert problems[-1] == "100:1: and 19900 more, not told here"
    _, all_of_them = read(read_tree("f", lines.encode())[0], "f")
    assert all_of_them[-1].text == "is not a key"
