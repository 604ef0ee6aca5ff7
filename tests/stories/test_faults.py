"""Failing system calls: nothing acknowledged is lost, nothing else is touched, and training never hears of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.helpers.faults import STORIES, Case, Tally, campaign


@pytest.mark.slow
def test_any_call_of_any_verb_may_fail(tmp_path: Path) -> None:
    tally = campaign(tmp_path / "faults", faults=30, seed=0)
    assert tally.faults == 30
    assert tally.failures == 0, tally


@pytest.mark.parametrize("story", STORIES)
def test_a_disk_that_is_full_from_the_middle_of_a_verb(tmp_path: Path, story: str) -> None:
    case, tally = Case(tmp_path, story), Tally()
    calls = case.run(-1, 0, False)
    assert calls > 20
    case.run(calls // 2, errno.ENOSPC, True, tally)
    assert tally.failures == 0, tally


def test_a_fault_is_felt(tmp_path: Path) -> None:
    """Nothing is acknowledged where the first call of a recording fails, and from there on all."""
    case, tally = Case(tmp_path, "record"), Tally()
    case.run(0, errno.EIO, True, tally)
    assert (tally.acknowledged, tally.failures) == (0, 0)
    case.run(10**6, errno.EIO, True, tally)
    assert (tally.acknowledged, tally.failures) == (20, 0)
