"""How long a broken connection is repeated, and what is asked when."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from ds01.cli.exits import CommandError, Exit
from ds01.cli.waiting import Times, wait_for

SHORT = Times(first_look=10, look=10, patience=0.4, retry=0.02, slowest_retry=0.05, steady=0.2)


class Told:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def place(self, waiters: list[dict[str, Any]], request_id: str) -> None:
        raise AssertionError("nobody asked for the queue")

    def trouble(self, sentence: str) -> None:
        self.troubles.append(sentence)


class Line:
    """A call: a pair of sockets, at whose other end an answer lies, or nothing any more."""

    def __init__(self, word: bytes | None, *, lasts_s: float = 0.0) -> None:
        self._mine, self._other = socket.socketpair()
        self._lasts_s = lasts_s
        if word is not None:
            self._other.sendall(word)
        if word == b"":
            self._other.close()

    def fileno(self) -> int:
        return self._mine.fileno()

    def answer(self) -> bytes | None:
        time.sleep(self._lasts_s)
        word = self._mine.recv(10)
        if not word:
            raise OSError("closed")
        return word

    def close(self) -> None:
        self._mine.close()
        self._other.close()


def test_a_first_connection_that_fails_is_not_repeated() -> None:
    sent = []

    def send() -> Line:
        sent.append(1)
        raise ConnectionRefusedError("nobody")

    with pytest.raises(ConnectionRefusedError):
        wait_for(send, "r", Told(), times=SHORT)
    assert len(sent) == 1


def test_who_stays_away_is_given_up_after_some_time() -> None:
    lines = iter([Line(b"")])

    def send() -> Line:
        for line in lines:
            return line
        raise ConnectionRefusedError("nobody")

    began, told = time.monotonic(), Told()
    with pytest.raises(ConnectionRefusedError):
        wait_for(send, "r", told, times=SHORT)
    assert SHORT.patience <= time.monotonic() - began < SHORT.patience + 2
    assert told.troubles == ["the connection broke (closed); asking again, the place in the queue is kept"]


def test_who_breaks_every_connection_is_given_up_too() -> None:
    began = time.monotonic()
    with pytest.raises(OSError, match="closed"):
        wait_for(lambda: Line(b""), "r", Told(), times=SHORT)
    assert SHORT.patience <= time.monotonic() - began < SHORT.patience + 2


def test_after_a_connection_that_held_the_patience_is_new() -> None:
    lines = [Line(b"", lasts_s=0.3), Line(b"", lasts_s=0.3), Line(b"", lasts_s=0.3), Line(b"done")]
    assert wait_for(lambda: lines.pop(0), "r", Told(), times=SHORT) == b"done"


def test_no_answer_in_all_the_time() -> None:
    line = Line(None)
    with pytest.raises(CommandError) as caught:
        wait_for(lambda: line, "r", Told(), 0.2, SHORT)
    assert caught.value.status is Exit.DOWN
    assert line.fileno() == -1
