"""The predecessor's YAML, key by key, and what becomes of it."""

from __future__ import annotations

import pytest

from ds01.common.adapters.yamltree import read_tree
from ds01.common.policy.build import build
from ds01.common.policy.kinds import Machine
from ds01.common.policy.migrate import Migrated, Old, migrate
from ds01.common.policy.read import Name
from ds01.common.policy.tree import Files, Node, Place

MACHINE = Machine(cpus=1024, memory_bytes=2**42, tasks=2**22)


def tree(yaml: str) -> Node | None:
    root, problems = read_tree("old.yaml", yaml.encode())
    assert not problems
    return root


def migrated(yaml: str, overrides: str = "", exemptions: str = "", **members: list[str]) -> Migrated:
    """The result, which `check` takes whatever the old file was."""
    names = {
        group: tuple(Name(name, Place(f"{group}.members", 1)) for name in found) for group, found in members.items()
    }
    made = migrate(Old(tree(yaml), tree(overrides), tree(exemptions), names))
    assert build(Files("new.yaml", made.text.encode(), {}), read_tree, MACHINE).problems == ()
    return made


def lines(made: Migrated) -> list[str]:
    return [" ".join(line.split()) for line in made.text.splitlines()[1:] if line.strip()]


def notes(made: Migrated) -> dict[str, str]:
    return {note.path: note.text for note in made.notes}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_runtime_h: 48", "max_runtime: 48h # was max_runtime_h: 48"),
        ("idle_timeout_h: 0.5", "idle_timeout: 0.5h # was idle_timeout_h: 0.5"),
        ("idle_timeout: 30m", "idle_timeout: 30m"),
        ("max_runtime: 48", "max_runtime: 48h # was 48"),
        ("gpu_hold_after_stop_h: 0.25", "gpu_hold_after_stop: 0.25h # was gpu_hold_after_stop_h: 0.25"),
        ("idle_timeout_h: null", "idle_timeout: unlimited # was idle_timeout_h: null"),
        ("max_runtime:", "max_runtime: unlimited # was null"),
        ("container_hold_after_stop_h: ~", "container_hold_after_stop: unlimited # was container_hold_after_stop_h: ~"),
        ("max_runtime_h: unlimited", "max_runtime: unlimited # was max_runtime_h: unlimited"),
        ("max_gpu_equivalents: 2.0", "max_gpu_equivalents: 2.0"),
        ("max_gpu_slots: 2", "max_gpu_equivalents: 2 # was max_gpu_slots: 2"),
        ("max_gpus_per_user: null", "max_gpu_equivalents: unlimited # was max_gpus_per_user: null"),
        ("max_gpus_per_container: 2", "max_gpu_slots_per_container: 2 # was max_gpus_per_container: 2"),
        ("max_mig_per_container: 3", "max_gpu_slots_per_container: 3 # was max_mig_per_container: 3"),
        ("memory: 32g", "memory: 32g"),
        ("memory: 32gb", "memory: 32g # was 32gb"),
        ("memory: 1073741824", "memory: 1GiB # was 1073741824"),
        ("memory: 1073741825", "memory: 1073741825b # was 1073741825"),
        ("memory: 1610612736", "memory: 1.5GiB # was 1610612736"),
        ("allow_full_gpu: Yes", "allow_full_gpu: true # was Yes"),
        ("pids_limit: 4096.0", "pids_limit: 4096 # was 4096.0"),
        ("max_cpus: 1.5", "max_cpus: 1.5"),
        ("priority: 10", "priority: 10"),
    ],
)
def test_a_key_of_a_user(old: str, new: str) -> None:
    assert lines(migrated(f"defaults:\n  {old}\n")) == ["defaults:", new]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('aggregate: {cpu_quota: "9600%"}', ["aggregate:", "cpu_quota: 9600%"]),
        ("aggregate: {cpu_quota: 9600}", ["aggregate:", "cpu_quota: 9600% # was 9600"]),
        ('aggregate: {memory_max: "96G", memory_high: "86G"}', ["aggregate:", "memory_max: 96G", "memory_high: 86G"]),
        ("aggregate: {tasks_max: null}", ["aggregate:", "tasks_max: unlimited # was null"]),
        ("max_tasks: 512", ["aggregate:", "tasks_max: 512 # was max_tasks: 512"]),
        ("aggregate: {gpu_limit: 2.0}", ["max_gpu_equivalents: 2.0 # was aggregate.gpu_limit: 2.0"]),
        ("policies: {gpu_idle_threshold: 5}", ["policies:", "gpu_idle_threshold: 5% # was 5"]),
        ("policies: {cpu_idle_threshold: 2.0}", ["policies:", "cpu_idle_threshold: 2% # was 2.0"]),
        ("policies: {network_idle_threshold: 1048576}", ["policies:", "network_idle_threshold: 1MiB # was 1048576"]),
    ],
)
def test_a_section_of_a_group(old: str, new: list[str]) -> None:
    assert lines(migrated(f"groups: {{student: {{{old}}}}}")) == ["groups:", "student:", *new]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("high_demand_threshold: 0.8", "high_demand_threshold: 80% # was 0.8"),
        ("high_demand_idle_reduction: 0.5", "high_demand_idle_reduction: 50% # was 0.5"),
        ("sigterm_grace_s: 60", "sigterm_grace: 60s # was sigterm_grace_s: 60"),
        ("sigterm_grace_seconds: 60", "sigterm_grace: 60s # was sigterm_grace_seconds: 60"),
        ("created_container_timeout_m: 30", "created_container_timeout: 30m # was created_container_timeout_m: 30"),
        ("keepalive_max_duration_h: 24", "keepalive_max_duration: 24h # was keepalive_max_duration_h: 24"),
        ("created_container_timeout: 30m", "created_container_timeout: 30m"),
    ],
)
def test_a_rule_of_the_machine(old: str, new: str) -> None:
    assert lines(migrated(f"policies: {{{old}}}")) == ["policies:", new]


@pytest.mark.parametrize(
    ("yaml", "path", "why"),
    [
        ("defaults: {storage_workspace: 100G}", "defaults.storage_workspace", "no quota here"),
        ("defaults: {gpu_memory: null}", "defaults.gpu_memory", "limits its memory itself"),
        ("defaults: {gpu_hold_after_stop_h: null}", "defaults.gpu_hold_after_stop_h", "can't be unlimited here"),
        ("defaults: {pids_limit: null}", "defaults.pids_limit", "can't be unlimited here"),
        ("defaults: {memory: much}", "defaults.memory", "'much' is not a size"),
        ("defaults: {memory: [1]}", "defaults.memory", "is a list"),
        ("defaults: {pids_limit: 0}", "defaults.pids_limit", "'0' is too little"),
        ("defaults: {colour: red}", "defaults.colour", "nothing here has this key"),
        ("defaults: {aggregate: {io: 1}}", "defaults.aggregate.io", "nothing here has this key"),
        ("defaults: [a]", "defaults", "is a list, where a section was expected"),
        ("policies: [a]", "policies", "is a list, where a section was expected"),
        (
            "user_overrides: {a: {policies: [a]}}",
            "user_overrides.a.policies",
            "is a list, where a section was expected",
        ),
        ("groups: {a: {aggregate: , members: [[a]]}}", "groups.a.members", "is a list, where a word was expected"),
        ("policies: {grace_period_m: 30}", "policies.grace_period_m", "idle_timeout is the only grace"),
        ("policies: {idle_detection_window: 3}", "policies.idle_detection_window", "measured"),
        ("policies: {gpu_hold_after_manual_stop_m: 15}", "policies.gpu_hold_after_manual_stop_m", "every stop"),
        (
            "groups: {a: {aggregate: , policies: {sigterm_grace_s: 30}}}",
            "groups.a.policies.sigterm_grace_s",
            "it belongs in top level",
        ),
        ("user_overrides: {alice: {reserved_gpus: [0]}}", "user_overrides.alice.reserved_gpus", "no reservations"),
        ("enforcement: {cgroup_driver: systemd}", "enforcement", "always hold"),
        ("container_types: {docker: {max_runtime_h: 48}}", "container_types", "its owner's limits"),
        ("bare_metal_access: {exempt_users: [root]}", "bare_metal_access", "ds01-admin"),
        ("access_control: {admin_users: [root]}", "access_control", "ds01-admin"),
        ("gpu_allocation:", "gpu_allocation", "found as they are"),
        ("queues: {max: 3}", "queues", "nothing here has this key"),
        ("policies: {sigterm_grace_s: 9}\nbinds: {/data: ro}", "binds", "is in today's format: copy it by hand"),
    ],
)
def test_what_can_not_be_carried_is_named_with_the_reason(yaml: str, path: str, why: str) -> None:
    found = notes(migrated(yaml))
    assert list(found) == [path]
    assert found[path].startswith("not carried: ")
    assert why in found[path]


def test_a_number_of_mig_instances_stays_one_and_it_is_said() -> None:
    made = migrated("defaults: {max_mig_instances: 2}")
    assert lines(made)[1:] == ["max_mig_instances: 2 # counts MIG instances only; max_gpu_equivalents holds beside it"]
    assert "max_gpu_equivalents is not said here" in notes(made)["defaults.max_mig_instances"]


def test_no_limit_of_mig_instances_was_no_limit_of_gpus() -> None:
    made = migrated("groups: {admin: {max_mig_instances: null, aggregate: }}")
    assert lines(made)[2:] == [
        "max_mig_instances: unlimited # counts MIG instances only; max_gpu_equivalents holds beside it",
        "max_gpu_equivalents: unlimited # was max_mig_instances: null",
    ]


@pytest.mark.parametrize(
    ("yaml", "kept", "lost"),
    [
        ("max_gpu_equivalents: 2, aggregate: {gpu_limit: 3}", "max_gpu_equivalents: 2", "aggregate.gpu_limit"),
        ("max_gpu_equivalents: 4, aggregate: {gpu_limit: 3}", "max_gpu_equivalents: 3", "max_gpu_equivalents"),
        ("max_gpu_equivalents: null, aggregate: {gpu_limit: 3}", "max_gpu_equivalents: 3", "max_gpu_equivalents"),
        ("aggregate: {tasks_max: 9}, max_tasks: 5", "tasks_max: 9", "max_tasks"),
        ("max_tasks: 5, aggregate: {tasks_max: 9}", "tasks_max: 9", "max_tasks"),
    ],
)
def test_of_two_words_for_one_thing_one_is_kept(yaml: str, kept: str, lost: str) -> None:
    made = migrated(f"defaults: {{{yaml}}}")
    assert [line.partition(" #")[0] for line in lines(made) if line.startswith(kept.partition(":")[0])] == [kept]
    assert list(notes(made)) == [f"defaults.{lost}"]


def test_what_belongs_to_one_section_stands_in_one_place() -> None:
    made = migrated('defaults: {aggregate: {cpu_quota: "100%"}, policies: {gpu_idle_threshold: 5}, max_tasks: 9}')
    sections = ["aggregate:", "cpu_quota: 100%", "tasks_max: 9 # was max_tasks: 9", "policies:"]
    assert lines(made)[1:] == [*sections, "gpu_idle_threshold: 5% # was 5"]


def test_members_are_written_into_the_file() -> None:
    made = migrated(
        "groups: {student: {members: [alice], aggregate: }}", student=["bob", "alice", "204214@x.lan", "no"]
    )
    assert lines(made)[2:] == ["members:", "- alice", "- bob", '- "204214@x.lan"', '- "no"']


def test_who_was_in_two_groups_stays_in_the_first() -> None:
    made = migrated("groups: {a: {aggregate: }, b: {aggregate: }}\ndefault_group: a", a=["alice"], b=["alice", "bob"])
    assert lines(made) == ["default_group: a", "groups:", "a:", "members:", "- alice", "b:", "members:", "- bob"]
    assert notes(made) == {"groups.b.members": "not carried: 'alice' is in 'a', which decided"}


def test_a_list_of_no_group_is_told() -> None:
    (note,) = migrated("{}", archived=["old"]).notes
    assert str(note) == (
        "archived.members: not carried: there is no group 'archived': do not copy the file to /etc/ds01/groups"
    )


def test_a_group_without_limits_of_all_containers_is_told() -> None:
    assert "here they follow from max_containers_per_user" in notes(migrated("groups: {a: {}}"))["groups.a"]


def test_the_file_of_overrides_lies_on_those_within() -> None:
    made = migrated(
        "user_overrides: {alice: {memory: 1g, max_cpus: 2}}", "alice: {memory: 2g}\nbob@x.lan: {max_cpus: 1}"
    )
    assert lines(made) == [
        "user_overrides: # lie on the group's values now; they used to take their place",
        "alice:",
        "memory: 2g",
        "max_cpus: 2",
        "bob@x.lan:",
        "max_cpus: 1",
    ]


EXEMPT = """\
exemptions:
  - username: "204214@x.lan"
    exempt_from: [idle_timeout_h, max_runtime_h]
    reason: 'says "thesis"'
    approved_by: ada
    approved_on: "2026-02-14"
    expires_on: null
"""


def test_an_exemption() -> None:
    assert lines(migrated("{}", exemptions=EXEMPT)) == [
        "exemptions:",
        '- user: "204214@x.lan"',
        "from: [idle_timeout, max_runtime]",
        "until: unlimited",
        'why: "says \\"thesis\\" (approved by ada on 2026-02-14)"',
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{username: a, exempt_from: [max_runtime], expires_on: 2026-06-30}", 'until: "2026-06-30"'),
        (
            "{username: a, exempt_from: [max_runtime], expires_on: '2026-06-30T23:59:59Z'}",
            'until: "2026-06-30T23:59:59+00:00"',
        ),
        ("{username: a, exempt_from: [max_runtime]}", 'why: "as in the old system"'),
    ],
)
def test_an_exemption_with_an_end_or_without_a_reason(old: str, new: str) -> None:
    assert new in lines(migrated("{}", exemptions=f"exemptions: [{old}]"))


@pytest.mark.parametrize(
    "old",
    [
        "{username: a, exempt_from: [max_runtime], expires_on: tomorrow}",
        "{username: a, exempt_from: [gpu]}",
        "{username: a}",
        "{exempt_from: [max_runtime]}",
    ],
)
def test_an_exemption_that_says_too_little_is_told(old: str) -> None:
    made = migrated("{}", exemptions=f"exemptions: [{old}]")
    assert (lines(made), list(notes(made))) == (["{}"], ["exemptions"])


@pytest.mark.parametrize(
    ("yaml", "is_ours"),
    [
        ("groups: {a: {unix_groups: [a]}}", True),
        ("groups: {a: {unix_groups: [a], memory: much}}", True),
        ("user_overrides: {a: {max_runtime: 96h}}", True),
        ("defaults: {login: {memory_max: 1g}}", True),
        ("jobs: {memory_max: 1g}", True),
        ("exemptions: []", True),
        ("max_connections: 9", True),
        ("defaults: {wishes: {privileged: drop}, aggregate: {memory_max: 1g}}", True),
        ("groups: {binds: {}, unix_groups: {}}", False),
        ("user_overrides: {a: {max_runtime: 96}}", False),
        ("user_overrides: {a: {max_runtime: null}}", False),
        ("groups: {a: {unix_groups: [a], max_runtime_h: 9}}", False),
        ("groups: {a: {unix_groups: [a], max_tasks: 9}}", False),
        ("groups: {a: {unix_groups: [a], aggregate: {gpu_limit: 1}}}", False),
        ("enforcement: {}\nmax_connections: 9", False),
        ("{}", False),
    ],
)
def test_a_file_is_known_to_be_in_todays_format_by_its_words(yaml: str, is_ours: bool) -> None:
    assert migrate(Old(tree(yaml))).is_ours is is_ours


def test_what_is_ours_in_a_file_that_was_changed_by_half_stays() -> None:
    made = migrated(
        "groups: {a: {unix_groups: [staff, no], max_runtime_h: 9, login: {memory_max: 1g}, aggregate: }}\n"
        "jobs: {memory_max: 1g}"
    )
    group = ["a:", "unix_groups:", "- staff", '- "no"', "max_runtime: 9h # was max_runtime_h: 9"]
    assert lines(made) == ["groups:", *group, "login:", "memory_max: 1g", "jobs:", "memory_max: 1g"]
    assert notes(made) == {}
