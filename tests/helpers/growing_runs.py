"""Runs that grow, and a cache folder for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.caching import summaries
from gradlog.analysis.reading import rows
from gradlog.analysis.reading.rows import RowSource


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADLOG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk a block, every summary worth keeping: many blocks without many bytes."""
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)
    monkeypatch.setattr(summaries, "WORTH", 0.0)


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that were read from a store, by view row: one entry a row and pass."""
    seen: list[int] = []
    read = RowSource.read

    def counted(self: RowSource, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        seen.extend(range(start, stop))
        return read(self, start, stop, out)

    monkeypatch.setattr(RowSource, "read", counted)
    return seen


def gradients(start: int, stop: int, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Drift and noise in two tensors; the same row for the same step and seed."""
    for t in range(start, stop):
        rng = np.random.default_rng((seed, t))
        yield {"a": np.sin(t / 40) + rng.standard_normal(60), "b": rng.standard_normal((5, 7))}


def same_rows(one: Path | str, other: Path | str, rows: int) -> None:
    """Require that two runs, each at a path or URL, hold these many rows, and the same ones."""
    there, here = open_run(one), open_run(other)
    assert len(there.steps) == rows
    np.testing.assert_array_equal(there.steps, here.steps)
    np.testing.assert_array_equal(there.rows.read(0, rows), here.rows.read(0, rows))
    np.testing.assert_array_equal(there.group_norm2, here.group_norm2)
    for name in ("loss", "lr"):
        np.testing.assert_array_equal(there.scalar_columns[name], here.scalar_columns[name])


@pytest.fixture
def record() -> Callable[..., Path]:
    """Record steps [start, stop) at a path or URL; later calls continue."""

    def write(path: Path | str, start: int, stop: int, seed: int = 0, **options: object) -> Path | str:
        like = next(gradients(0, 1))
        settings = {"k": 16, "chunk": 16, "groups": "tensors", "mode": "a", "on_error": "raise"} | options
        with gradlog.open(path, like=like, **settings) as log:
            for t, grads in enumerate(gradients(start, stop, seed), start):
                log.step(grads, step=t, loss=1 / (1 + t), lr=0.1)
        return path

    return write
