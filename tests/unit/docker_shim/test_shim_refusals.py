"""Refusals on the wire, and how many become events."""

from __future__ import annotations

import json

import pytest

from ds01.docker_shim.audit import event_of
from ds01.docker_shim.lists import narrow
from ds01.docker_shim.model import Reason, Refused
from ds01.docker_shim.refusals import MAX_WINDOWS, Coalescer, Note, answer

NO = Refused(403, Reason.OVER_CONTAINERS, "you have 3, your limit is 3", "remove one", "3", "3", "1")


def note(uid: int = 1, reason: Reason = Reason.FIELD) -> Note:
    return Note(uid, f"u{uid}", Refused(403, reason, "no"), "r")


def test_a_refusal_is_a_docker_error_with_the_numbers_beside() -> None:
    found = answer(NO, "req-1")
    assert found.status == 403
    assert json.loads(found.body) == {
        "message": "you have 3, your limit is 3; remove one",
        "ds01": {
            "reason": "over-containers",
            "limit": "3",
            "used": "3",
            "requested": "1",
            "hint": "remove one",
            "request": "req-1",
            "to_end": [],
        },
    }


def test_the_first_is_told_at_once_the_others_as_a_number() -> None:
    coalescer = Coalescer(10.0)
    told = [coalescer.add(note(), now) for now in (0.0, 1.0, 9.9)]
    assert [item is not None for item in told] == [True, False, False]
    assert coalescer.due(9.99) == []
    assert [item.count for item in coalescer.due(10.0)] == [2]
    assert coalescer.add(note(), 10.1) is not None


def test_a_window_in_which_nothing_followed_ends_silently() -> None:
    coalescer = Coalescer(10.0)
    coalescer.add(note(), 0.0)
    assert coalescer.next_end() == 10.0
    assert coalescer.due(11.0) == []
    assert coalescer.next_end() is None


def test_users_and_reasons_have_windows_of_their_own() -> None:
    coalescer = Coalescer(10.0)
    for item in (note(1), note(2), note(1, Reason.ROUTE)):
        assert coalescer.add(item, 0.0) is not None


def test_windows_are_bounded() -> None:
    coalescer = Coalescer(10.0)
    told = [coalescer.add(note(uid), 0.0) for uid in range(MAX_WINDOWS + 10)]
    assert sum(item is not None for item in told) == MAX_WINDOWS


def test_the_event_has_the_numbers() -> None:
    event = event_of(Note(1001, "alice", NO, "req-1", 7))
    assert (event.name, event.user, event.uid, event.reason) == ("access.refused", "alice", 1001, "over-containers")
    assert (event.limit, event.used, event.requested, event.count) == ("3", "3", "1", 7)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("", {"label": ["ds01.uid=7"]}),
        ("null", {"label": ["ds01.uid=7"]}),
        ('{"label":["a=b"]}', {"label": ["a=b", "ds01.uid=7"]}),
        ('{"label":{"a":true,"b":false}}', {"label": ["a", "ds01.uid=7"]}),
        ('{"label":["ds01.uid=8"]}', {"label": ["ds01.uid=8", "ds01.uid=7"]}),
        ('{"status":["exited"],"name":{"x":true}}', {"status": ["exited"], "name": ["x"], "label": ["ds01.uid=7"]}),
        ('{"label":[1]}', None),
        ('{"label":"x"}', None),
        ('{"label":["a"],"label":["b"]}', None),
        ('{"Label":["a"]}', None),
        ('{"unknown":["a"]}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_lists_are_narrowed_to_ones_own(filters: str, found: dict[str, list[str]] | None) -> None:
    verdict = narrow(filters, 7)
    assert (None if isinstance(verdict, Refused) else verdict) == found
