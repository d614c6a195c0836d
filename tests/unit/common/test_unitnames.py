from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds01.common.unitnames import MAX_UNIT_NAME, escape, owner_of, unescape, user_slice

names = st.text(min_size=1, max_size=64).filter(lambda text: "\0" not in text and "/" not in text)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("alice", "alice"),
        ("a-b", r"a\x2db"),
        ("a.b", "a.b"),
        (".hidden", r"\x2ehidden"),
        ("name@lab.lan", r"name\x40lab.lan"),
        ("jürgen", r"j\xc3\xbcrgen"),
        ("a b", r"a\x20b"),
    ],
)
def test_escape_is_systemds(text: str, unit: str) -> None:
    assert escape(text) == unit


@given(names)
def test_unescape_inverts_escape(text: str) -> None:
    assert unescape(escape(text)) == text


@given(names, names)
def test_two_users_never_share_a_slice(one: str, other: str) -> None:
    if one != other:
        assert user_slice("student", one, 1) != user_slice("student", other, 2)


def test_a_name_that_would_be_too_long_is_replaced_by_the_uid() -> None:
    name = user_slice("student", "-" * 200, 4711)
    assert name == "ds01-student-u4711.slice"
    assert len(user_slice("student", "a" * 150, 1)) <= MAX_UNIT_NAME


def test_a_user_called_like_a_uid_can_not_take_another_users_slice() -> None:
    assert user_slice("student", "u1001", 5) == "ds01-student-u5.slice"


@pytest.mark.parametrize(
    ("unit", "owner"),
    [
        ("ds01-student-alice.slice", "alice"),
        (r"ds01-student-a\x2db.slice", "a-b"),
        ("ds01-student-u1001.slice", 1001),
        ("ds01-student.slice", None),
        ("ds01.slice", None),
        ("docker-abc.scope", None),
        ("ds01-student-alice.scope", None),
        ("user-1001.slice", None),
    ],
)
def test_owner_of_a_slice(unit: str, owner: int | str | None) -> None:
    assert owner_of(unit) == owner
