"""What each step did to the parameters, recorded beside the gradient."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run, weights_path
from gradlog.analysis.audit.integrity import check
from gradlog.errors import GradientError, GradlogWarning, SpecMismatchError
from gradlog.storage import spool
from gradlog.storage.block import Block
from gradlog.storage.compact import compact

BOTH = ("gradient", "update")
SIZES = {"a": 30, "b": 7}
Arrays = dict[str, np.ndarray]


def steps(n: int, first: int = 0) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield gradients, and updates that have nothing to do with them."""
    for t in range(first, first + n):
        rng = np.random.default_rng(t)
        yield tuple({name: rng.normal(size=size).astype(np.float32) for name, size in SIZES.items()} for _ in "gu")


def record(path: Path, n: int, first: int = 0, close: bool = True, **options: object) -> gradlog.Logger:
    log = gradlog.open(path, **({"k": "exact", "what": BOTH, "chunk": 4, "on_error": "raise"} | options))
    for gradient, update in steps(n, first):
        log.step(gradient, update=update, loss=1.0)
    if close:
        log.close()
    return log


def expected(n: int) -> np.ndarray:
    """Updates in exact mode: (rows, groups, k), the shorter group ending in zeros."""
    found = np.zeros((n, len(SIZES), max(SIZES.values())), np.float32)
    for t, (_, update) in enumerate(steps(n)):
        for g, (name, size) in enumerate(SIZES.items()):
            found[t, g, :size] = update[name]
    return found


def read(path: Path) -> np.ndarray:
    run = open_run(path)
    assert run.updates is not None
    return run.updates.read(0, run.n_steps).reshape(run.n_steps, run.n_groups, run.k)


def test_they_are_read_while_recorded_when_closed_compacted_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    log = record(path, 10, close=False)
    assert np.array_equal(read(path), expected(10))
    assert np.array_equal(open_run(path).updates.read(9, 10)[0], expected(10)[9].ravel())  # a part of the journal
    log.close()
    assert np.array_equal(read(path), expected(10))
    compact(path, shard_bytes=1)
    record(path, 5, first=10, mode="a")
    assert np.array_equal(read(path), expected(15))
    run = open_run(path)
    assert (run.info["what"], run.info["updates"]) == ("gradient", True)
    assert run.has_exact_norms
    assert np.array_equal(run.to_xarray()["update"].values, expected(15))
    assert check(path).problems == []
    assert weights_path(run).distance[-1] == pytest.approx(np.linalg.norm(expected(15).sum(axis=0)), rel=1e-6)


def test_a_rewind_takes_them_along(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    record(path, 10)
    record(path, 4, first=6, mode="a", first_step=6)
    assert np.array_equal(read(path), expected(10))
    assert len(open_run(path, "all").updates or ()) == 14


def test_a_journal_that_waits_for_the_store_has_them(tmp_path: Path) -> None:
    """As a block that went to the spool is read back."""
    path = tmp_path / "r.zarr"
    log = record(path, 4, close=False)
    block = spool.reload(
        path / "seg-000000-r0000/.journal-000000",
        log.header,
        f"{log.header.uuid}/seg-000000-r0000",
        0,
        log.recorder.recording.queue.writer.segment,
    )
    assert isinstance(block, Block)
    assert np.array_equal(block.optional["update"], expected(4))
    log.close()


@pytest.mark.parametrize(("first", "then"), [(BOTH, "gradient"), ("gradient", BOTH)])
def test_a_run_goes_on_as_it_began(tmp_path: Path, first: object, then: object) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, what=first) as log:
        log.step({"a": np.ones(30)}, update={"a": np.ones(30)} if first == BOTH else None)
    with pytest.raises(
        SpecMismatchError, match=r"was recorded with(out)? updates beside gradients, this process wants"
    ):
        gradlog.open(tmp_path / "r.zarr", {"a": np.ones(30)}, k=8, mode="a", what=then, on_error="raise")


@pytest.mark.parametrize(("what", "update"), [(BOTH, None), ("gradient", {"a": np.ones(30)})])
def test_a_row_that_lacks_one_or_has_one_too_many_ends_the_recording(
    tmp_path: Path, what: object, update: object
) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, what=what) as log:
        with pytest.warns(GradlogWarning, match=r"this run expects .*; what=\('gradient', 'update'\) records both"):
            log.step({"a": np.ones(30)}, update=update)
        assert log.rows == 0
    with gradlog.open(tmp_path / "e.zarr", k=8, what=what, on_error="raise") as log, pytest.raises(GradientError):
        log.step({"a": np.ones(30)}, update=update)


@pytest.mark.parametrize("what", [("gradient",) * 2, ("gradient", "weights"), (), 3, b"x", [["update"]] * 2])
def test_other_pairs_are_refused_at_once(tmp_path: Path, what: object) -> None:
    with pytest.raises(ValueError, match="what must be") as refused:
        gradlog.open(tmp_path / "r.zarr", what=what)
    assert repr(what) in str(refused.value)
    with pytest.raises(ValueError, match="takes one quantity"):
        gradlog.open(tmp_path / "r.zarr", what=BOTH, stage="local")


def test_a_run_without_them_has_none(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gradlog.open(tmp_path / "r.zarr", k=8) as log:
            log.step({"a": np.ones(30)})
    run = open_run(tmp_path / "r.zarr")
    assert run.updates is None
    assert "updates" not in run.info
    assert "update" not in run.to_xarray()
