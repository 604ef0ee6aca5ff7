"""A sketch of the parameters is safe when its call returns: killed or interrupted, a run has each exactly once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.analysis.audit.run import audit_run
from gradlog.format import journal
from gradlog.recorder.recovery import recover
from gradlog.storage.compact import compact
from tests import second_reader
from tests.stories.test_interrupt import interrupt, quick
from tests.stories.test_resume_law import in_child, kill_at

__all__ = ["quick"]

LIKE = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
SEGMENT = "seg-000000-r0000"


def values(t: int) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng([t, x.size]).standard_normal(x.shape, np.float32) for name, x in LIKE.items()}


def theta(t: int) -> np.ndarray:
    return np.concatenate([x.ravel() for x in values(t).values()])


def start(path: Path, **options: Any) -> gradlog.Logger:
    defaults = {"k": "exact", "groups": "all", "chunk": 4, "mode": "a", "on_error": "raise", "hostname": False}
    return gradlog.open(path, LIKE, **defaults | options)


def play(path: Path, script: str, pipe: int, write: tuple[int, bool] | None = None) -> None:
    """``r`` logs a row, ``t`` keeps the parameters; each is acknowledged. Then a kill, or one at a store's write."""
    log = start(path)
    if write is not None:
        kill_at(*write)
    for letter in script:
        step = log.state_dict()["step"]
        if letter == "r":
            log.step(values(step))
        else:
            log.parameters(values(1000 + step))
        os.write(pipe, letter.encode())
    if write is not None:
        log.close()
    os.kill(os.getpid(), signal.SIGKILL)


def killed(path: Path, script: str, write: tuple[int, bool] | None = None) -> str:
    """What was acknowledged."""
    read, end = os.pipe()
    status = in_child(lambda: play(path, script, end, write))
    os.close(end)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    with os.fdopen(read, "rb") as pipe:
        return pipe.read().decode()


def wanted(script: str) -> list[int]:
    """Steps before which a script keeps the parameters; of several before one step the last counts."""
    return sorted({script[:i].count("r") for i, letter in enumerate(script) if letter == "t"})


def require(path: Path, *allowed: list[int]) -> None:
    """The first segment has the sketches of one of these lists of steps, and files that agree with each other."""
    segment = open_run(path).segments[0]
    found = segment.snapshot_steps.tolist()
    assert sorted(set(found)) in allowed
    there = np.array([theta(1000 + t) for t in found], np.float32).reshape(-1, 17)
    np.testing.assert_array_equal(segment.snapshots[:, 0], there)
    raw = second_reader.Run(path).segments[SEGMENT].snapshots
    assert sorted(raw) == sorted(set(found))
    assert check(path).problems == []


@pytest.mark.parametrize("way", ["recover", "open"])
@pytest.mark.parametrize("script", ["t", "tr", "trrt", "rrrrtrtt", "trrrrtrrrtrt"])
def test_killed_before_the_flush(tmp_path: Path, script: str, way: str) -> None:
    path = tmp_path / "r.zarr"
    assert killed(path, script) == script
    require(path, wanted(script))
    assert compact(path)[0].skipped
    if way == "recover":
        assert [r.status for r in recover(path)] == ["recovered"]
        assert [r.rows for r in recover(path)] == [0]
    else:
        start(path).close()
    require(path, wanted(script))
    segment = open_run(path).segments[0]
    assert len(set(segment.snapshot_steps.tolist())) == len(wanted(script))  # twice, where a flush came in between
    assert not segment.waiting
    assert not list(path.rglob("*.partial"))
    assert not audit_run(path).failed


SCRIPTS = st.text("rrrt", min_size=1, max_size=20)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(SCRIPTS, st.tuples(st.integers(0, 40), st.booleans()))
def test_killed_at_any_write_of_the_store_each_is_there_once(script: str, write: tuple[int, bool]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "r.zarr"
        done = killed(path, script, write)
        allowed = wanted(done), wanted(script[: len(done) + 1])
        require(path, *allowed)
        recover(path)
        require(path, *allowed)
        segment = open_run(path).segments[0]
        assert segment.header.snapshots == len(segment.snapshot_steps)
        # One that a flush had taken is not replaced by a second before the same step, but kept beside it.
        assert len(segment.snapshot_steps) <= done.count("t") + 1
    finally:
        shutil.rmtree(folder)


def test_a_file_that_was_cut_short_or_is_another_s_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    killed(path, "rtrt")
    last = path / SEGMENT / ".theta-000001.partial"
    data = last.read_bytes()
    for short in (*range(40), len(data) - 1):
        last.write_bytes(data[:short])
        require(path, [1])
    for wrong in (
        data[:-1] + bytes([data[-1] ^ 1]),
        data + b"\0",
        (path / SEGMENT / ".theta-000000.partial").read_bytes(),
    ):
        last.write_bytes(wrong)
        require(path, [1])
    last.write_bytes(data)
    require(path, [1, 2])
    (path / SEGMENT / ".theta-000000.partial").unlink()
    require(path, [])
    recover(path)
    require(path, [])


def test_a_file_tells_whose_it_is() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = journal.snapshot_file(3, "0f/seg", 7, x)
    step, found = journal.read_snapshot(data, 3, "0f/seg", 2, 3)  # type: ignore[misc]
    assert step == 7
    np.testing.assert_array_equal(found, x)
    assert journal.read_snapshot(data, 2, "0f/seg", 2, 3) is None
    assert journal.read_snapshot(data, 3, "0e/seg", 2, 3) is None
    assert journal.read_snapshot(data, 3, "0f/seg", 3, 3) is None


def test_without_a_journal_the_next_flush_keeps_it(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr", journal=False) as log:
        log.parameters(values(1000))
        assert not list(tmp_path.rglob(".theta-*"))
        log.step(values(0))
    require(tmp_path / "r.zarr", [0])


@pytest.mark.slow
def test_interrupted_at_any_line(tmp_path: Path) -> None:
    """Ctrl-C in the call that keeps them, before or after a flush, and once more where it did not get through."""
    line, struck = 0, True
    while struck:
        line += 2
        path = tmp_path / f"{line}.zarr"
        with start(path) as log:
            log.parameters(values(1000))
            for t in range(5):
                log.step(values(t))
            _, struck = interrupt(line, lambda log=log: log.parameters(values(1005)))
            log.parameters(values(1005))
            log.step(values(5))
            log.parameters(values(1006))
        require(path, [0, 5, 6])
        shutil.rmtree(path)
    assert line > 20
