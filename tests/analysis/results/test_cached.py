"""One run, one result: what is kept of it answers every command that asks the same of the same content."""

from __future__ import annotations

import json
import shutil

import pytest
import xarray as xr

import gradlog
from gradlog.analysis import Cache, Linear, html_report, open_run
from gradlog.analysis.reading.rows import heard
from gradlog.analysis.reading.store.metadata import read_metadata
from gradlog.analysis.results import analyze as results
from gradlog.analysis.results.analyze import analyze_cached, measure
from gradlog.analysis.results.forms.dataset import to_dataset
from tests.helpers.growing_runs import gradients


@pytest.fixture
def path(tmp_path):
    steps = list(gradients(0, 60))
    with gradlog.open(tmp_path / "r.zarr", like=steps[0], k=16, chunk=16, groups="tensors") as log:
        for grads in steps:
            log.step(grads)
    return str(tmp_path / "r.zarr")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


@pytest.fixture
def computed(monkeypatch):
    """Options of the analyses that were really made."""
    made = []
    monkeypatch.setattr(results, "measure", lambda run, options: (made.append(options), measure(run, options))[1])
    return made


def test_a_kept_result_reads_no_row_and_names_the_place_where_the_run_is_now(path, cache, tmp_path):
    first = analyze_cached(open_run(path), cache=cache)
    moved = shutil.move(path, tmp_path / "moved.zarr")
    read = []
    with heard(lambda *x: read.append(x)):
        again = analyze_cached(read_metadata(moved), cache=cache)
    assert read == []
    assert json.loads(again.attrs["run"])["path"] == str(moved)
    numbers = [to_dataset(result).drop_attrs(deep=False) for result in (again, first)]
    xr.testing.assert_identical(*numbers)


def test_another_question_is_computed_and_the_same_is_not(path, cache, computed):
    for options in ({}, {"window": 20}, {"burn_in": 3}, {"eps": (0.2,)}, {"seed": 1}):
        for asked in (options, options | {"scheduler": "synchronous", "memory": "4G"}):
            analyze_cached(read_metadata(path), cache=cache, **asked)
    assert len(computed) == 5
    analyze_cached(open_run(path, "all"), cache=cache)
    assert len(computed) == 6


def test_a_predictor_of_ones_own_and_no_cache_are_computed_every_time(path, cache, computed):
    for _ in range(2):
        analyze_cached(open_run(path), cache=cache, predictors=[Linear("two", (0.5, 0.5))])
        analyze_cached(open_run(path), cache=False)
    assert len(computed) == 4


def test_a_report_is_made_of_the_kept_result(path, cache, computed):
    pages = [html_report([path], cache=cache) for _ in range(2)]
    assert len(computed) == 1
    assert len(pages[0]) == len(pages[1])


def test_what_contradicts_itself_is_refused_before_the_cache_is_asked(path, cache):
    from gradlog.errors import CorruptRunError

    analyze_cached(read_metadata(path), cache=cache)
    record = next(open_run(path).store.root.glob("seg-*/zarr.json"))
    record.write_bytes(record.read_bytes().replace(b'"rows":60', b'"rows":48'))
    assert read_metadata(path).digest is None
    with pytest.raises(CorruptRunError):
        analyze_cached(read_metadata(path), cache=cache)
