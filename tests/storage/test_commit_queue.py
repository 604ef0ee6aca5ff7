"""The queue of a segment by itself: rows that are written into its blocks are committed, dropped ones are listed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import open_run
from gradlog.errors import RunExistsError
from gradlog.format.chain import digest
from gradlog.format.header import RunHeader, SegmentHeader, SketchSpec, TensorInfo
from gradlog.storage import commit_queue
from gradlog.storage.commit import SegmentWriter, create_root, now
from gradlog.storage.commit_queue import GAPS, CommitQueue
from gradlog.storage.settings import Storage
from gradlog.storage.sink import LocalSink

HEADER = RunHeader(
    SketchSpec("exact/1", 2, 0, 0), ("w",), (TensorInfo("w", (2,), "float32", 0),), chunk=4, every=2, uuid="0f"
)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def queue(tmp_path: Path, said: list[str]) -> CommitQueue:
    sink = LocalSink(tmp_path / "r.zarr")
    header, root = create_root(sink, dataclasses.replace(HEADER, created=now()))
    writer = SegmentWriter(sink, header, SegmentHeader(root=digest(root), head=digest(root), opened=now()))
    assert writer.create()
    return CommitQueue("r.zarr", writer, Storage(), said.append)


def put(queue: CommitQueue, step: int) -> None:
    block = queue.room(step)
    assert block is not None
    block.sketch[block.rows], block.norm2[block.rows] = step, 2.0 * step**2
    block.step[block.rows] = step
    queue.append()


def test_rows_are_committed_chunk_by_chunk_and_the_rest_when_it_is_finished(queue: CommitQueue, tmp_path: Path) -> None:
    for step in range(0, 20, 2):
        put(queue, step)
    assert (queue.rows, queue.writing) == (10, True)
    queue.keep(20, np.full((1, 2), 5, np.float32))
    queue.finish("closed", "")
    assert (queue.pending, queue.finished, queue.writing) == (0, True, False)
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(0, 20, 2))
    assert run.sketch.compute()[:, 0, 1].tolist() == list(range(0, 20, 2))
    assert run.segments[0].header.snapshots == 1
    assert not [file.name for file in (tmp_path / "r.zarr" / "seg-000000-r0000").iterdir() if file.name[0] == "."]


def test_a_row_that_was_not_appended_is_none(queue: CommitQueue, tmp_path: Path) -> None:
    put(queue, 0)
    block = queue.room(2)
    block.step[block.rows] = 2
    queue.finish("closed", "")
    assert open_run(tmp_path / "r.zarr").steps.tolist() == [0]


def test_dropped_steps_that_follow_each_other_are_one_gap(queue: CommitQueue, tmp_path: Path, said: list[str]) -> None:
    for step in (2, 4, 6, 10):
        queue.drop(step, "slow")
    queue.drop(12, "full")
    put(queue, 14)
    queue.finish("closed", "")
    dropped = open_run(tmp_path / "r.zarr").segments[0].header.dropped
    assert dropped == ((2, 6, "slow"), (10, 10, "slow"), (12, 12, "full"))
    assert [words.split(":")[0].split()[1] for words in said] == ["2", "12"]


def test_gaps_beyond_what_a_segment_lists_widen_the_last(queue: CommitQueue, tmp_path: Path) -> None:
    for i in range(GAPS + 10):
        queue.drop(10 * i, "slow")
    queue.finish("closed", "")
    dropped = open_run(tmp_path / "r.zarr").segments[0].header.dropped
    assert len(dropped) == GAPS
    assert dropped[-1] == (10 * (GAPS - 1), 10 * (GAPS + 9), "some of these steps: slow")


def test_it_ends_where_another_segment_goes_on(queue: CommitQueue) -> None:
    put(queue, 0)
    queue.supersede("seg-000001-r0000")
    with pytest.raises(RunExistsError, match="seg-000001-r0000"):
        queue.room(2)
    queue.finish("failed", "superseded")


def test_sketches_of_the_parameters_that_wait_are_bounded(
    queue: CommitQueue, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_queue, "WAITING", 24)
    put(queue, 0)
    for step in range(1, 9):
        queue.keep(step, np.full((1, 2), step, np.float32))
    assert said == ["of the parameters from step 4 on, the newest sketch alone waits for the store"]
    queue.finish("closed", "")
    segment = open_run(tmp_path / "r.zarr").segments[0]
    assert segment.snapshot_steps.tolist() == [1, 2, 8]
    assert segment.snapshots[:, 0, 0].tolist() == [1, 2, 8]
