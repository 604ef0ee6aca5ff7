"""Which step a scalar belongs to, steps whose numbers go back, and runs that end without a row."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

import gradlog
from gradlog.errors import GradlogWarning

ONES = {"w": np.ones(3, np.float32)}


def stored(path: Path) -> tuple[list[int], dict[str, list[float]], dict]:
    """Steps, scalars and header of the first segment, read with zarr alone."""
    segment = zarr.open_group(path, mode="r")["seg-000000-r0000"]
    head = segment.attrs["gradlog_segment"]
    table = segment["scalars"][:].T.tolist()
    return segment["step"][:].tolist(), dict(zip(head["scalars"], table, strict=False)), head


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=ONES, k=4, **options)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_scalar_belongs_to_the_step_beside_it(tmp_path: Path, order: str, every: int) -> None:
    """Whether the loop gives it before its steps or after them, the first time tells."""
    with start(tmp_path / "r.zarr", every=every, on_error="raise") as log:
        for t in range(5):
            if order == "before":
                log.annotate(loss=float(t))
            log.step(ONES)
            if order == "after":
                log.annotate(loss=float(t))
            log.annotate(accuracy=10.0 + t)
    steps, scalars, head = stored(tmp_path / "r.zarr")
    assert steps == list(range(0, 5, every))
    assert scalars["loss"] == steps
    assert scalars["accuracy"] == [10 + t for t in steps]
    assert head["reason"] == ""


def test_a_scalar_given_once_before_training_stays_on_the_first_row(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", on_error="raise") as log:
        log.annotate(batch=64)
        for _ in range(3):
            log.step(ONES)
    np.testing.assert_array_equal(stored(tmp_path / "r.zarr")[1]["batch"], [64, np.nan, np.nan])


def test_a_scalar_that_finds_no_step_is_told(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr")
    for t in range(3):
        log.annotate(loss=float(t))
        log.step(ONES)
    log.annotate(loss=3.0)
    with pytest.warns(GradlogWarning, match="the last value of loss found no step"):
        log.close()
    assert stored(tmp_path / "r.zarr")[1]["loss"] == [0, 1, 2]
    assert "loss found no step" in stored(tmp_path / "r.zarr")[2]["reason"]


def test_the_order_of_a_loop_survives_parameters_that_join(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr")
    log.annotate(loss=0.0)
    log.step(ONES)
    with pytest.warns(GradlogWarning, match="1 parameters joined"):
        log.join({"v": np.ones(2, np.float32)})
    log.annotate(loss=1.0)
    log.step({**ONES, "v": np.ones(2, np.float32)})
    log.close()
    second = zarr.open_group(tmp_path / "r.zarr", mode="r")["seg-000001-r0000"]
    names = second.attrs["gradlog_segment"]["scalars"]
    assert second["scalars"][0, names.index("loss")] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0, 1, 2, 0, 1, 2, 0, 1, 2], list(range(9))),  # a counter that begins anew with each epoch
        ([10, 20, 10, 20], [10, 20, 21, 31]),
        ([0, 1, 1, 2, 3], [0, 1, 2, 3, 4]),
        ([5, -1, 0], [5, 6, 7]),
    ],
)
def test_a_counter_that_goes_back_is_counted_on(tmp_path: Path, given: list[int], expected: list[int]) -> None:
    log = start(tmp_path / "r.zarr")
    with pytest.warns(GradlogWarning, match="steps must increase: expected at least") as told:
        for t in given:
            log.step(ONES, step=t)
        log.close()
    assert len(told) == 1
    assert stored(tmp_path / "r.zarr")[0] == expected
    assert stored(tmp_path / "r.zarr")[2]["status"] == "closed"


def test_a_run_that_is_closed_with_no_rows_says_so(tmp_path: Path) -> None:
    with pytest.warns(GradlogWarning, match="closed with no rows: no step was seen"):
        start(tmp_path / "r.zarr").close()
    _, _, head = stored(tmp_path / "r.zarr")
    assert (head["status"], head["reason"]) == ("closed", "closed with no rows: no step was seen")
    with pytest.warns(GradlogWarning, match="closed with no rows"):
        gradlog.open(tmp_path / "never.zarr", k=4).close()


def test_annotations_that_go_on_without_steps_are_told_once(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr")
    log.step(ONES)
    with pytest.warns(GradlogWarning, match="annotate was called 100 times and no step was seen") as told:
        for t in range(250):
            log.annotate(loss=float(t))
    assert len(told) == 1
    log.close()
    assert "no step was seen" in stored(tmp_path / "r.zarr")[2]["reason"]


def test_scalars_that_are_not_finite_warn_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start(tmp_path / "r.zarr", on_error="raise") as log:
            for bad in (float("nan"), np.float32("inf"), np.float64("nan")):
                log.annotate(loss=bad)
                log.step(ONES, loss2=bad)
                log.annotate(loss3=bad)
    np.testing.assert_array_equal(stored(tmp_path / "r.zarr")[1]["loss"], [np.nan, np.inf, np.nan])
