"""One step beside its neighbours, against the rows that were written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradlog.analysis import neighbours, open_run
from gradlog.errors import TooFewStepsError
from gradlog.format.header import NONFINITE
from tests.helpers import stores


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(40, 2, 8)).astype(np.float32)


def test_it_shows_the_rows_that_were_written(tmp_path, rows):
    loss = np.arange(40.0)
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows, exact=True, every=5, scalars={"loss": loss}))
    found = neighbours(run, 100, around=2)
    assert found.steps.tolist() == [90, 95, 100, 105, 110]
    assert found.steps[found.at] == 100
    assert found.scalars["loss"].tolist() == [18, 19, 20, 21, 22]
    flat = rows[18:23].reshape(5, -1).astype(float)
    np.testing.assert_allclose(found.norm, np.linalg.norm(flat, axis=1), rtol=1e-6)
    expected = flat @ flat[2] / np.linalg.norm(flat, axis=1) / np.linalg.norm(flat[2])
    np.testing.assert_allclose(found.cosine, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.cosine_low, found.cosine)  # the rows themselves
    np.testing.assert_array_equal(found.cosine_high, found.cosine)
    norm, usual = found.groups["g1"]
    assert norm == pytest.approx(np.linalg.norm(rows[20, 1]))
    assert usual == pytest.approx(np.median(np.linalg.norm(rows[:20, 1], axis=1)))


@pytest.mark.parametrize(("step", "shown"), [(0, [0, 1, 2, 3]), (39, [36, 37, 38, 39])])
def test_the_ends_have_fewer_neighbours(tmp_path, rows, step, shown):
    found = neighbours(open_run(stores.write_run(tmp_path / "run.zarr", rows)), step)
    assert found.steps.tolist() == shown


def test_what_is_not_known_is_none(tmp_path, rows):
    rows[20, 1] = np.nan
    flags = np.where(np.arange(40) == 20, NONFINITE, 0)
    found = neighbours(open_run(stores.write_run(tmp_path / "run.zarr", rows, flags=flags)), 20).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["cosine"] == found["cosine_low"] == found["cosine_high"] == [None] * 7
    assert found["groups"]["g1"]["norm"] is None
    assert found["groups"]["g0"]["usual"] > 0


def test_a_step_that_is_not_there_is_refused(tmp_path, rows):
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows, every=2))
    with pytest.raises(TooFewStepsError, match="0 to 78, every 2"):
        neighbours(run, 7)


def test_a_cosine_of_sketches_has_an_interval(tmp_path):
    rows = np.random.default_rng(1).normal(size=(40, 1, 64)).astype(np.float32)
    rows[22] = rows[20] + 0.5 * rows[22]
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows))
    found = neighbours(run, 20)
    apart = np.arange(7) != found.at
    assert (found.cosine_low[apart] < found.cosine[apart]).all()
    assert (found.cosine[apart] < found.cosine_high[apart]).all()
    assert found.cosine_low[5] > 0.5  # two steps later
    assert found.cosine_low[found.at] == found.cosine_high[found.at] == 1


def test_of_a_step_that_was_recorded_twice_the_newest_is_shown_and_it_is_said(tmp_path, rows):
    path = stores.write_rewound(tmp_path / "run.zarr", rows, 30, back=10)
    shown = {view: neighbours(open_run(path, view), 25) for view in ("latest", "all")}
    assert (shown["latest"].recorded, shown["all"].recorded) == (1, 2)
    newest = np.linalg.norm(rows[35])
    for found in shown.values():
        assert found.norm[found.at] == pytest.approx(newest)
        assert found.to_dict()["recorded"] == found.recorded


def test_a_negative_number_of_neighbours_is_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="around: expected 0 rows or more, got -3"):
        neighbours(open_run(stores.write_run(tmp_path / "run.zarr", rows)), 5, around=-3)
