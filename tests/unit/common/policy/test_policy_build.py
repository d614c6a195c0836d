"""The files as a whole: everything that is wrong at once, in order; the same text for the same files."""

from __future__ import annotations

import os
from pathlib import Path

from policy_world import FILE, REFERENCE, built, told

from ds01.common.adapters.yamltree import read_tree
from ds01.common.policy.build import build
from ds01.common.policy.compile import compile_policy
from ds01.common.policy.folder import read_files, read_one
from ds01.common.policy.read import Draft, GroupDraft, Name
from ds01.common.policy.tree import Files, Place, Unread

MANY = """\
default_group: staff
groups:
  student:
    memory: 128
    max_runtme: 48h
    members: [alice, no]
  researcher:
    members: [alice]
    aggregate: {memory_max: 10g, memory_high: 20g}
    aggregate: {memory_max: 20g}
exemptions: [{user: alice}]
user_overrides:
  bob: {max_cpus: 500}
policy: {}
"""


def test_every_problem_at_once_in_the_order_of_the_files() -> None:
    problems = told(MANY, {"student": "carol\ncarol smith\n", "researcher": "carol\n"})
    assert [line.partition(" ")[0] for line in problems] == [
        "groups/researcher.members:1:1:", "groups/student.members:2:1:",
        "1:16:", "4:13:", "5:5:", "6:22:", "8:15:", "9:47:", "10:5:", "11:14:", "13:19:", "14:1:",
    ]  # fmt: skip
    assert built(MANY).compiled is None


def test_what_contradicts_itself_is_not_compiled() -> None:
    draft = Draft(default_group=Name("staff", Place(FILE, 1, 16)), groups={"student": GroupDraft(Place(FILE, 3, 3))})
    compiled, problems = compile_policy(draft, {}, REFERENCE, FILE)
    assert compiled is None
    assert [problem.place.line for problem in problems] == [1]


def test_the_order_is_that_of_lines_and_not_of_texts() -> None:
    text = "groups:\n  student:\n" + "".join(f"    key{number}: 1\n" for number in range(12))
    assert [line.split(":")[0] for line in told(text)] == [str(number) for number in range(3, 15)]


def test_only_the_first_hundred_are_told() -> None:
    text = "groups:\n  student:\n" + "".join(f"    key{number}: 1\n" for number in range(150))
    problems = told(text)
    assert len(problems) == 101
    assert problems[-1] == "102:5: and 50 more, not told here"


def test_a_file_that_says_nothing_is_no_policy() -> None:
    for text in ("", "# groups:\n", "---\n"):
        assert told(text) == [" says nothing: write 'groups:', or {} for the built-in limits alone"]


def test_a_file_that_is_no_yaml_is_told_with_what_else_is_wrong() -> None:
    assert told("a: [", {"student": "a b\n"}) == [
        "groups/student.members:1:1: 'a b' is no name: it has a space, a colon, a comma or a slash in it",
        "2:1: is not YAML: did not find expected node content, while parsing a flow node: look at the indentation,"
        " colons and quotes here",
    ]


def test_files_that_can_not_be_read_are_told_together() -> None:
    files = Files(FILE, Unread("does not exist"), {"student": ("groups/student.members", Unread("is not a file"))})
    assert [str(problem) for problem in build(files, read_tree, REFERENCE).problems] == [
        "groups/student.members: is not a file",
        f"{FILE}: does not exist",
    ]


def test_a_list_that_is_not_utf_8_says_where() -> None:
    files = Files(FILE, b"{}", {"default": ("groups/default.members", "ä\nbä".encode() + b"\xff\n")})
    assert [str(problem) for problem in build(files, read_tree, REFERENCE).problems] == [
        "groups/default.members:2:3: the byte 0xff is not UTF-8: save the file as UTF-8"
    ]


def test_the_same_files_give_the_same_text() -> None:
    text = "groups: {student: {members: [b, a, c]}, researcher: {unix_groups: [x]}}\nuser_overrides: {b: {memory: 5g}}"
    compiled = built(text).compiled
    assert compiled is not None
    assert compiled["groups"]["student"]["members"] == ["a", "b", "c"]
    assert built(text).text == built(text).text
    assert built(text, {"student": "d\ne\n"}).text == built(text, {"student": "e\n# new\nd\n"}).text


# --- the folder -------------------------------------------------------------------------------------------------------


def folder(path: Path) -> Path:
    (path / "groups").mkdir()
    (path / "resource-limits.yaml").write_text("groups: {student: {}, staff: {}}\n")
    (path / "groups" / "staff.members").write_text("alice\n")
    return path


def problems_of(files: Files) -> list[str]:
    return [str(problem) for problem in build(files, read_tree, REFERENCE).problems]


def test_the_folder_is_read_whole(tmp_path: Path) -> None:
    files = read_files(folder(tmp_path))
    (tmp_path / "groups" / "staff.members~").write_text("bob\n")
    compiled = build(files, read_tree, REFERENCE).compiled
    assert compiled is not None
    assert compiled["groups"]["staff"]["members"] == ["alice"]


def test_a_single_file_has_the_lists_beside_it(tmp_path: Path) -> None:
    other = folder(tmp_path) / "new.yaml"
    other.write_text("groups: {student: {}}\n")
    (problem,) = problems_of(read_one(other))
    assert problem.startswith(f"{tmp_path}/groups/staff.members: there is no group 'staff'")


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    limits = folder(tmp_path) / "resource-limits.yaml"
    limits.unlink()
    assert problems_of(read_files(tmp_path)) == [f"{limits}: does not exist"]
    limits.mkdir()
    assert problems_of(read_files(tmp_path)) == [f"{limits}: is not a file: put one there"]
    limits.rmdir()
    os.mkfifo(limits)
    assert problems_of(read_files(tmp_path)) == [f"{limits}: is not a file: put one there"]


def test_a_file_of_fifty_mebibytes_is_not_read(tmp_path: Path) -> None:
    limits = folder(tmp_path) / "resource-limits.yaml"
    with open(limits, "wb") as file:
        file.truncate(50 * 2**20)
    too_long = "has 50 MiB, and 4 MiB is the most: remove what is not policy"
    assert problems_of(read_files(tmp_path)) == [f"{limits}: {too_long}"]


def test_lists_that_can_not_be_found_are_not_taken_for_none(tmp_path: Path) -> None:
    groups = folder(tmp_path) / "groups"
    (groups / "staff.members").unlink()
    groups.rmdir()
    assert problems_of(read_files(tmp_path)) == []
    groups.write_text("alice\n")
    assert problems_of(read_files(tmp_path)) == [f"{groups}: can't be read: Not a directory"]
    groups.unlink()
    groups.mkdir()
    for number in range(1001):
        (groups / f"g{number}.members").touch()
    assert problems_of(read_files(tmp_path)) == [f"{groups}: has 1001 lists of members, and 1000 are the most"]


def test_without_a_folder_there_is_no_file(tmp_path: Path) -> None:
    assert problems_of(read_files(tmp_path / "absent")) == [f"{tmp_path}/absent/resource-limits.yaml: does not exist"]
