"""YAML files as trees with places."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_world import told

from ds01.common.adapters.yamltree import MAX_BYTES, read_tree
from ds01.common.policy.tree import Map, Node, Place, Problem, Scalar, Seq

FILE = "limits.yaml"


def tree(text: str) -> Node | None:
    root, problems = read_tree(FILE, text.encode())
    assert problems == []
    return root


def plain(node: Node | None) -> object:
    """A tree as lists of pairs, lists and texts."""
    match node:
        case Map():
            return [(pair.key.text, plain(pair.value)) for pair in node.pairs]
        case Seq():
            return [plain(item) for item in node.items]
        case Scalar():
            return node.text
    return None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [x, y]\n", [("a", "1"), ("b", ["x", "y"])]),
        ("a:\n  b: no\n  c: 012\n", [("a", [("b", "no"), ("c", "012")])]),
        ("- 12:30\n- ~\n-\n", ["12:30", "~", ""]),
        ("---\na: 1\n...\n", [("a", "1")]),
        ("\ufeffa: 1\n", [("a", "1")]),
        ("a: 1\r\nb: 2\r\n", [("a", "1"), ("b", "2")]),
        ("a: &x {k: v}\nb: *x\n", [("a", [("k", "v")]), ("b", [("k", "v")])]),
        ("? a\n: 1\n", [("a", "1")]),
        ("a: 'it''s'\n", [("a", "it's")]),
        ("{}", []),
    ],
)
def test_what_is_written_is_read_as_text(text: str, expected: object) -> None:
    assert plain(tree(text)) == expected


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "--- # nothing\n...\n"])
def test_a_file_that_says_nothing_has_no_tree(text: str) -> None:
    assert tree(text) is None


def test_quotes_make_a_difference() -> None:
    root = tree("a: no\nb: 'no'\nc: ''\nd:\n")
    assert isinstance(root, Map)
    values = [pair.value for pair in root.pairs]
    assert [value.plain for value in values if isinstance(value, Scalar)] == [True, False, False, True]
    assert [value.is_empty for value in values if isinstance(value, Scalar)] == [False, False, False, True]


def test_everything_has_its_place() -> None:
    root = tree("groups:\n  student:\n    memory: 5g\n    members: [alice, bob]\n    idle_timeout:\n")
    assert isinstance(root, Map)
    assert root.place == Place(FILE, 1, 1)
    (student,) = root.pairs[0].value.pairs if isinstance(root.pairs[0].value, Map) else ()
    assert student.key.place == Place(FILE, 2, 3)
    assert isinstance(student.value, Map)
    memory, members, idle = student.value.pairs
    assert (memory.key.place, memory.value.place) == (Place(FILE, 3, 5), Place(FILE, 3, 13))
    assert isinstance(members.value, Seq)
    assert [item.place.column for item in members.value.items] == [15, 22]
    assert idle.value.place == Place(FILE, 5, 18)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1: 'a' stands twice, first in line 1: keep one"),
        ("x: {a: 1, a: 2}\n", "1:11: 'a' stands twice, first in line 1: keep one"),
        ("a: 1\n'a': 2\n", "2:1: 'a' stands twice, first in line 1: keep one"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins: keep one, without '---' in between"),
        ("a: 1\n...\n---\n", "3:1: a second document begins: keep one, without '---' in between"),
        ("a: !!int 5\n", "1:4: 'tag:yaml.org,2002:int' is a tag, and no value here needs one: remove it"),
        ("a: !!python/object/apply:os.system [ls]\n",
         "1:4: 'tag:yaml.org,2002:python/object/apply:os…' is a tag, and no value here needs one: remove it"),
        ("? [a, b]\n: 1\n", "1:3: a key must be a word"),
        ("? {a: b}\n: 1\n", "1:3: a key must be a word"),
        ("a: *b\n", "1:4: '*b' stands for nothing: there is no such anchor"),
        ("a: &b [1, *b]\n", "1:11: '*b' stands for nothing: there is no such anchor"),
        ("a: 1\nb: \xe9\x07\n", "2:5: the character U+0007 is not allowed in YAML: remove it"),
        ("a: \x00", "1:4: the character U+0000 is not allowed in YAML: remove it"),
        ("groups:\n\tstudent:\n",
         "2:1: is not YAML: found character that cannot start any token, while scanning for the next token:"
         " indent with spaces, not tabs"),
        ("a: b: c\n",
         "1:5: is not YAML: mapping values are not allowed in this context: look at the indentation, colons and quotes"
         " here"),
        ("a: 'b\n",
         "1:4: is not YAML: found unexpected end of stream, while scanning a quoted scalar: look at the indentation,"
         " colons and quotes here"),
        ("a: [b\n",
         "2:1: is not YAML: did not find expected ',' or ']', while parsing a flow sequence: look at the indentation,"
         " colons and quotes here"),
        ("a:\n   b: 1\n  c: 2\n",
         "3:3: is not YAML: did not find expected key, while parsing a block mapping: look at the indentation, colons"
         " and quotes here"),
        ("[" * 13 + "]" * 13, "1:13: is nested more than 12 deep: no key needs that"),
        ("- " * 13, "1:25: is nested more than 12 deep: no key needs that"),
    ],
)  # fmt: skip
def test_what_is_wrong_as_yaml(text: str, problem: str) -> None:
    _, problems = read_tree(FILE, text.encode())
    assert [str(one).removeprefix(f"{FILE}:") for one in problems] == [problem]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "1:1: the byte 0xff is not UTF-8: save the file as UTF-8"),
        ("a: 1\nb: äö".encode() + b"\xe4\n", "2:6: the byte 0xe4 is not UTF-8: save the file as UTF-8"),
        ("a: 1\n".encode("utf-16"), "1:1: the byte 0xff is not UTF-8: save the file as UTF-8"),
    ],
)
def test_where_it_is_not_utf_8(content: bytes, problem: str) -> None:
    assert told(content) == [problem]


def test_fifty_mebibytes_are_not_even_looked_at() -> None:
    began = time.perf_counter()
    root, problems = read_tree(FILE, b"a" * (50 * 2**20))
    assert time.perf_counter() - began < 0.5
    assert root is None
    assert [str(one) for one in problems] == [f"{FILE}: has 50 MiB, and 4 MiB is the most: remove what is not policy"]


def bomb(levels: int, width: int) -> str:
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    for level in range(1, levels):
        lines.append(f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(levels=9, width=9),
        "- &a {k: v}\n" + "- *a\n" * 200_000,
        "[a,]" + "\n",
        "-\n" * 150_000,
        "\n".join(f"k{number}: v" for number in range(80_000)),
        "&a " * 100_000,
        "? " * 100_000,
        "{" * MAX_BYTES,
        '"' + "\\x41" * 900_000,
        "!" * MAX_BYTES,
    ],
    ids=["aliases of aliases", "aliases", "short", "items", "keys", "anchors", "questions", "depth", "text", "tag"],
)
def test_no_file_costs_more_than_it_is_long(text: str) -> None:
    began = time.perf_counter()
    root, problems = read_tree(FILE, text.encode())
    assert time.perf_counter() - began < 5
    assert (root is None) == bool(problems) or len(text) < 10


def test_a_bomb_is_told_where_it_goes_off() -> None:
    assert told(bomb(levels=9, width=9)) == ["6:5: more than 100000 values, aliases in full: remove some"]


@given(st.binary(max_size=300))
def test_no_bytes_raise(content: bytes) -> None:
    root, problems = read_tree(FILE, content)
    assert root is None or isinstance(root, Map | Seq | Scalar)
    assert all(isinstance(problem, Problem) and str(problem).isprintable() for problem in problems)


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%@`#,~ \n\t0.\u2028\x85\xe9", max_size=60))
def test_no_text_raises(text: str) -> None:
    _, problems = read_tree(FILE, text.encode())
    lines = text.splitlines()
    for problem in problems:
        assert problem.place.line <= len(lines) + 1
        assert str(problem).isprintable()
