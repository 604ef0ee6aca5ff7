"""The fold keeps the order, holds few parts at a time, and goes on from where it was left."""

from __future__ import annotations

import pytest

from gradlog.analysis.streaming.executors.base import FAN, Fold


def bracket(a, b):
    return f"({a}{b})"


def fold(parts, join, found=None):
    found = Fold() if found is None else found
    for part in parts:
        found.add(part, join)
    return found


@pytest.mark.parametrize("count", [1, 2, FAN - 1, FAN, FAN + 1, 3 * FAN, 3 * FAN + 5])
def test_going_on_gives_the_same_brackets(count):
    parts = [chr(97 + i % 26) for i in range(count)]
    at_once = fold(parts, bracket).value(bracket)
    assert at_once.replace("(", "").replace(")", "") == "".join(parts)
    for stop in range(count + 1):
        assert fold(parts[stop:], bracket, fold(parts[:stop], bracket)).value(bracket) == at_once


def test_two_joined_parts_wait_at_a_time():
    alive = most = 0

    def parts():
        nonlocal alive, most
        for _ in range(40 * FAN):
            alive += 1
            most = max(most, alive)
            yield 1

    def join(a, b):
        nonlocal alive
        alive -= 1
        return a + b

    assert fold(parts(), join).value(join) == 40 * FAN
    assert most == 3  # and the one that comes
