"""Callbacks on rows: what they are told, and that a bad one costs training nothing but a warning."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

import gradlog
from gradlog.errors import GradlogWarning
from gradlog.recorder import listeners

LIKE = {"a": np.zeros(3), "b": np.zeros(4)}


@pytest.fixture
def log(tmp_path):
    with gradlog.open(tmp_path / "run.zarr", like=LIKE, k=4, chunk=2, groups="tensors", on_error="raise") as found:
        yield found


def gradient(t: float) -> dict[str, np.ndarray]:
    return {"a": np.full(3, t), "b": np.full(4, 2 * t)}


def test_a_row_comes_when_it_is_complete_and_the_last_at_the_end(log):
    told: list[gradlog.RecordedRow] = []
    arrived = threading.Event()

    @log.on_row
    def keep(row):
        told.append(row)
        arrived.set()

    log.step(gradient(1), loss=0.5)
    log.annotate(accuracy=0.25)
    assert not arrived.wait(0.05)
    for t in (2, np.nan, 4):
        log.step(gradient(t), loss=t)
    assert arrived.wait(60)
    log.join({"c": np.zeros(2)})  # goes on in another segment
    log.step({**gradient(5), "c": np.ones(2)})
    log.close()
    assert [row.step for row in told] == [0, 1, 2, 3, 4]
    first = told[0]
    assert {name: x for name, x in first.scalars.items() if name != "wall_time"} == {"loss": 0.5, "accuracy": 0.25}
    assert first.norms == pytest.approx({"a": 3**0.5, "b": 4.0})
    assert first.norm == pytest.approx(19**0.5)
    assert [row.nonfinite for row in told] == [False, False, True, False, False]
    assert "loss" not in told[2].scalars  # NaN was not logged


def test_a_callback_that_hangs_misses_rows_and_training_goes_on(log, monkeypatch):
    monkeypatch.setattr(listeners, "MOST", 4)
    monkeypatch.setattr(listeners, "WAIT", 0.05)
    hangs = threading.Event()
    log.on_row(lambda row: hangs.wait(60))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", GradlogWarning)
        for t in range(20):
            log.step(gradient(t))
        log.close()
    hangs.set()
    told = [str(w.message).partition(": ")[2] for w in said]
    assert told[0] == "callbacks of on_row are 4 rows behind: they miss rows from here on"
    missed = int(told[1].removeprefix("on_row: ").split()[0])
    assert missed >= 19 - 4  # one is with the callback; those that still wait count too
    assert len(told) == 2
    assert log.rows == 20


class MuteError(Exception):
    def __str__(self) -> str:
        raise ValueError("it cannot be printed")


@pytest.mark.parametrize(("error", "words"), [
    (SystemExit("mine"), "SystemExit: mine"),
    (MuteError(), f"{__name__}.MuteError: <exception str() failed>"),
])  # fmt: skip
def test_a_callback_that_raises_is_told_once_and_counted(log, error, words):
    rows = []

    def fails(row):
        rows.append(row.step)
        raise error

    log.on_row(fails)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", GradlogWarning)
        for t in range(5):
            log.step(gradient(t))
        log.close()
    told = [str(w.message).partition(": ")[2] for w in said]
    assert told == [f"a callback of on_row raised {words}; training goes on",
                    "on_row: 0 rows were not told, and 5 calls raised"]  # fmt: skip
    assert rows == [0, 1, 2, 3, 4]


def test_a_callback_may_close_its_logger(log):
    done = threading.Event()

    def ends(row):
        log.close("diverged")
        done.set()

    log.on_row(ends)
    log.step(gradient(1))
    log.step(gradient(2))
    assert done.wait(60)
    assert not log.active
    log.close()
    for thread in threading.enumerate():
        if thread.name == "gradlog-rows":
            thread.join(60)
            assert not thread.is_alive()
    with pytest.warns(GradlogWarning, match="records nothing"):
        log.on_row(ends)
