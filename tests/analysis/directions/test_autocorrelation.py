"""Autocorrelation against plain loops over the rows, its floor, groups, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import autocorrelation, open_run
from gradlog.analysis.directions.stretches import PARTS
from gradlog.format.header import NONFINITE
from tests.helpers import stores


def remembering(rng, steps=320, groups=2, k=16):
    """A signal that turns slowly, under noise."""
    signal = rng.normal(size=(groups, k))
    rows = np.empty((steps, groups, k))
    for row in rows:
        signal = 0.95 * signal + 0.3 * rng.normal(size=signal.shape)
        row[:] = signal + rng.normal(size=signal.shape)
    return rows.astype(np.float32).astype(float)


def test_it_is_that_of_a_loop_over_the_rows(tmp_path):
    rows = remembering(np.random.default_rng(0))
    found = autocorrelation(open_run(stores.write_run(tmp_path / "run.zarr", rows, exact=True, every=3)), rows=16)
    flat, size = rows.reshape(len(rows), -1), 16 // PARTS
    square = np.mean([g @ g for g in flat])
    parts = [np.mean(flat[i : i + size], axis=0) for i in range(0, len(flat), size)]
    for i, (lag, value) in enumerate(zip(found.lag / 3, found.value, strict=True)):
        a = int(lag)
        if i < found.single:
            expected = np.mean([flat[t] @ flat[t - a] for t in range(a, len(flat))])
        else:
            assert a % size == 0
            d = a // size
            expected = np.mean([parts[p] @ parts[p - d] for p in range(d, len(parts))])
        assert value == pytest.approx(expected / square, rel=1e-4, abs=1e-5)
    assert found.single == 8
    assert (np.diff(found.lag) > 0).all()
    assert ((found.low < found.value) & (found.value < found.high))[:8].all()


def test_unrelated_gradients_stay_below_the_floor(tmp_path):
    beyond = []
    for seed in range(8):
        rows = np.random.default_rng(seed).normal(size=(320, 1, 64))
        found = autocorrelation(open_run(stores.write_run(tmp_path / f"{seed}.zarr", rows)))
        beyond += (np.abs(found.value) > found.floor).tolist()
    assert 0 < np.mean(beyond) < 0.1


def test_one_group_is_as_if_it_were_alone(tmp_path):
    rows = remembering(np.random.default_rng(1))
    both = autocorrelation(open_run(stores.write_run(tmp_path / "both.zarr", rows)), rows=16, group="g1", lags=2)
    alone = autocorrelation(open_run(stores.write_run(tmp_path / "alone.zarr", rows[:, 1:])), rows=16, lags=2)
    for name in ("lag", "value", "low", "high", "floor"):
        np.testing.assert_allclose(getattr(both, name), getattr(alone, name))
    assert both.single == 2


def test_rows_with_nan_and_gaps_are_left_out(tmp_path):
    rows = remembering(np.random.default_rng(2))
    whole = autocorrelation(open_run(stores.write_run(tmp_path / "whole.zarr", rows)), rows=16)
    flags = np.zeros(len(rows), int)
    for hole in (slice(20, 21), slice(96, 112)):  # a row, and a whole stretch
        rows[hole], flags[hole] = np.nan, 1
    found = autocorrelation(open_run(stores.write_run(tmp_path / "run.zarr", rows, flags=flags)), rows=16)
    np.testing.assert_allclose(found.value, whole.value, atol=0.1)
    assert np.isfinite(found.low[:8]).all()


def test_gradients_of_nothing_have_none(tmp_path):
    found = autocorrelation(open_run(stores.write_run(tmp_path / "run.zarr", np.zeros((320, 1, 8)))), rows=16)
    assert np.isnan(found.value).all()
    assert np.isnan(found.floor).all()


def test_what_it_cannot_measure_is_refused(tmp_path):
    run = open_run(stores.write_run(tmp_path / "run.zarr", np.ones((40, 1, 8))))
    with pytest.raises(ValueError, match="lags: expected 0 or more, got -1"):
        autocorrelation(run, lags=-1)
    with pytest.raises(ValueError, match="g0"):
        autocorrelation(run, group="head")
    path = stores.write_rewound(tmp_path / "again.zarr", np.ones((90, 1, 8)), 50, back=20)
    with pytest.raises(ValueError, match="view='latest'"):
        autocorrelation(open_run(path, view="all"))


def test_a_run_of_nothing_but_nan_tells_nothing(tmp_path):
    rows, flags = np.full((32, 1, 8), np.nan), np.full(32, NONFINITE)
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows, flags=flags))
    assert np.isnan(autocorrelation(run, rows=4, lags=20).value).all()
