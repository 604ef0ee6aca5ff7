"""Ranks that restart unevenly: their rows still add up to one gradient, and where a share is missing it is said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from tests.helpers.golden import second


def second_view(path: Path) -> np.ndarray:
    return second.Run(path).view()["sketch"].ravel()


def launch(path: Path, ranks: Sequence[int], steps: range, opened: Sequence[int] = ()) -> None:
    """Every rank records its share, 10 ** rank; ranks in ``opened`` open a segment and log nothing."""
    time.sleep(0.05)  # launches lie farther apart than the ranks of one
    logs = {
        rank: gradlog.open(
            path, {"w": np.zeros(1)}, k="exact", chunk=4, rank=rank, mode="a", first_step=steps.start, on_error="raise"
        )
        for rank in sorted({*ranks, *opened})
    }
    for t in steps:
        for rank in ranks:
            logs[rank].step({"w": np.array([10.0**rank])}, t)
    for log in logs.values():
        log.close()


def shares(path: Path) -> list[float]:
    run = open_run(path)
    found = run.rows.read(0, len(run.steps)).ravel()
    np.testing.assert_array_equal(found, second_view(path))
    assert run.steps.tolist() == list(range(len(run.steps)))
    return found.tolist()


@pytest.mark.parametrize("absent", [0, 1])
@pytest.mark.parametrize("opened", [False, True])
def test_a_rank_that_missed_a_launch_is_back_in_the_next(tmp_path: Path, absent: int, opened: bool) -> None:
    path = tmp_path / "r.zarr"
    launch(path, [0, 1], range(10))
    launch(path, [1 - absent], range(8, 9), [1 - absent, absent] if opened else [])
    launch(path, [0, 1], range(8, 20))
    assert shares(path) == [11.0] * 20
    assert open_run(path).info["fewer_ranks"] == 0


def test_a_job_that_goes_on_with_fewer_ranks_says_so(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    launch(path, [0, 1], range(10))
    launch(path, [0], range(10, 15))
    assert shares(path) == [11.0] * 10 + [1.0] * 5
    assert open_run(path).info["fewer_ranks"] == 5
    assert check(path).notes == ["5 rows come from fewer ranks than others"]


def test_from_the_beginning_with_one_rank(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    launch(path, [0, 1], range(10))
    launch(path, [0], range(12))
    assert shares(path) == [1.0] * 12
