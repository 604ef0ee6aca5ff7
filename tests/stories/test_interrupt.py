"""Ctrl-C between any two lines of the recorder: the store stays sound and every row that was told logged is there."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import StepOrderError
from gradlog.recorder import provenance
from gradlog.storage.flusher import Flusher
from tests.helpers.small_run import flushers

SOURCES = str(Path(gradlog.__file__).parent)
LIKE = {"w": np.zeros(6)}


def gradient(step: int) -> dict[str, np.ndarray]:
    return {"w": np.arange(6, dtype=np.float32) + 10 * step}


def start(path: Path) -> gradlog.Logger:
    return gradlog.open(path, like=LIKE, k="exact", chunk=4, mode="a", on_error="raise", hostname=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare hundreds of calls of git."""
    monkeypatch.setattr(provenance, "_git", dict)


def interrupt(line: int, call: Callable[[], Any]) -> tuple[Any, bool]:
    """Raise KeyboardInterrupt before the ``line``-th line of gradlog that ``call`` runs; tell whether that happened."""
    seen = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        if event == "line":
            seen += 1
            if seen == line:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return call(), False
    except KeyboardInterrupt:
        return None, True
    finally:
        sys.settrace(before)


def check(path: Path, acknowledged: list[int]) -> None:
    run = open_run(path)
    steps = run.steps.tolist()
    assert set(acknowledged) <= set(steps)
    assert np.array_equal(run.sketch.compute()[:, 0], np.stack([gradient(t)["w"] for t in steps]))
    for name in ("loss", "note", *(f"late{i}" for i in range(20))):
        values = run.scalar_columns.get(name, np.empty(0))
        assert all(np.isnan(v) or v == t for t, v in zip(steps, values, strict=False)), name


def require_ended(before: set[threading.Thread]) -> None:
    """Nobody goes on writing for a logger that is closed, whichever line was interrupted."""
    for thread in flushers() - before:
        thread.join(30)
        assert not thread.is_alive()


def steps_and_notes(log: gradlog.Logger, t: int) -> None:
    late = {f"late{i}": float(t) for i in range(20)} if t == 3 else {}
    log.step(gradient(t), step=t, loss=float(t), **late)
    log.annotate(note=float(t))


def test_in_the_start_of_the_thread_that_commits() -> None:
    """Where the interrupt hides that it began, or that it did not, a second one takes over and the first one ends."""
    line, struck, before = 0, True, flushers()
    while struck:
        line += 1
        waiting, done = [0], list[int]()
        flusher = Flusher(lambda w=waiting: bool(w), lambda w=waiting, d=done: d.append(w.pop()), (1.0,))
        _, struck = interrupt(line, flusher.wake)
        waiting.append(1)
        flusher.wake()
        while len(done) < 2:
            time.sleep(0.01)
        time.sleep(0.05)  # by now they wait for work
        assert flusher.close(lambda: None, 30)
        require_ended(before)
    assert line > 5


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "stride"), [(0, 23), (3, 11), (4, 2)])
def test_in_a_step(tmp_path: Path, moment: int, stride: int) -> None:
    """Every other line of the step that hands a chunk over; every few of others."""
    line, struck, before = 0, True, flushers()
    while struck:
        line += stride
        path = tmp_path / f"{line}.zarr"
        log, acknowledged = start(path), []
        for t in range(11):
            if t == moment:
                _, struck = interrupt(line, lambda log=log, t=t: steps_and_notes(log, t))
                if not struck:
                    acknowledged.append(t)
            else:
                steps_and_notes(log, t)
                acknowledged.append(t)
        check(path, acknowledged)
        log.close()
        require_ended(before)
        check(path, acknowledged)
        assert examine(Folder(path)).problems == []
        shutil.rmtree(path)
    assert line > 100


@pytest.mark.slow
def test_the_same_step_again_after_the_interrupt(tmp_path: Path) -> None:
    """As in a notebook, where the cell is run once more. A step that had been written is refused, not doubled."""
    line, struck = 0, True
    while struck:
        line += 11
        path = tmp_path / f"{line}.zarr"
        log = start(path)
        for t in range(4):
            steps_and_notes(log, t)
        _, struck = interrupt(line, lambda log=log: steps_and_notes(log, 4))
        if log.rows == 5:
            with pytest.raises(StepOrderError):
                steps_and_notes(log, 4)
        else:
            for t in range(4, 10):
                steps_and_notes(log, t)
        log.close()
        check(path, list(range(5)))
        assert examine(Folder(path)).problems == []
        shutil.rmtree(path)


@pytest.mark.slow
def test_in_open_and_in_close(tmp_path: Path) -> None:
    line, struck, before = 0, True, flushers()
    while struck:
        line += 17
        path = tmp_path / f"{line}.zarr"
        first, struck = interrupt(line, lambda path=path: start(path))
        log = start(path) if first is None else first
        for t in range(6):
            steps_and_notes(log, t)
        _, again = interrupt(line, log.close)
        struck = struck or again
        check(path, list(range(6)))
        log.close()
        require_ended(before)
        check(path, list(range(6)))
        assert open_run(path).info["status"] == "closed"
        assert examine(Folder(path)).problems == []
        shutil.rmtree(path)
    assert line > 100
