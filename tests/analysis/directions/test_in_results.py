"""A result that was asked for directions holds what the functions give, in its Dataset and in JSON."""

from __future__ import annotations

import dataclasses
import json

import click
import numpy as np
import pytest
import xarray

from gradlog.analysis import (
    analyze,
    autocorrelation,
    direction_map,
    export_result,
    find_events,
    open_run,
    to_json,
    turns,
    weights_path,
)
from gradlog.analysis.directions.in_results import autocorrelation_in, map_in, turns_in
from gradlog.analysis.results.findings import findings
from gradlog.cli.analyze_text import report
from tests.helpers import stores

STEPS, K, TURN = 400, 64, 150


def turned(path, size=1.0, what="update", odd=0):
    """Rows whose mean turns by a right angle at a step, and noise; the step ``odd`` is ten times as large."""
    rng = np.random.default_rng(1)
    u, v = np.linalg.qr(rng.normal(size=(K, 2)))[0].T
    rows = np.where((np.arange(STEPS) < TURN)[:, None], u, v) + 0.7 / np.sqrt(K) * rng.normal(size=(STEPS, K))
    rows[odd or []] *= 10
    return open_run(stores.write_run(path, size * rows[:, None], what=what))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return turned(tmp_path_factory.mktemp("run") / "run.zarr")


@pytest.fixture(scope="module")
def result(run):
    return analyze(run, ["last"], directions=True, null_rank=False)


def same(found, asked):
    for one, other in zip(*(dataclasses.asdict(x).values() for x in (found, asked)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_is_what_the_functions_give(run, result):
    same(map_in(result), direction_map(run))
    same(autocorrelation_in(result), autocorrelation(run))
    assert turns_in(result) == turns(run)
    (turn,) = turns(run)
    assert turn.step == pytest.approx(TURN, abs=8)


def test_json_has_it_too(run, result):
    document = to_json(result)
    found, path, own = document["directions"], weights_path(run), direction_map(run)
    assert found["withheld"] == ""
    assert [None if np.isnan(x) else x for x in own.cosine[3]] == found["map"]["cosine"][3]
    assert found["map"]["last_step"] == own.last.tolist()
    assert found["turns"]["step"] == [turns_in(result)[0].step]
    assert found["turns"]["cosine_high"] == [turns_in(result)[0].high]
    assert found["autocorrelation"]["value"] == autocorrelation(run).value.tolist()
    assert found["autocorrelation"]["lag"][:3] == [1, 2, 3]
    assert found["autocorrelation"]["single"] == 8
    assert (found["weights"]["source"], found["weights"]["efficiency"]) == ("updates", path.efficiency)
    assert found["weights"]["distance_low"] == path.low.tolist()
    assert not [w for w in document["warnings"] if "directions" in w]
    json.dumps(document, allow_nan=False)


def test_it_is_told_on_the_terminal(result):
    document = to_json(result)
    assert any(f"Training turned at step {turns_in(result)[0].step} (cosine" in f.text for f in findings(document))
    lines = list(map(click.unstyle, report("run.zarr", document)))
    at = lines.index("which way training goes")
    assert lines[at + 1].split() == ["steps", "apart", "autocorrelation", "95", "%", "unrelated,", "up", "to"]
    assert [line.split()[0] for line in lines[at + 2 : at + 6]] == ["1", "2", "4", "8"]
    assert any(line.startswith("  weights: ") for line in lines[at:])


def test_gradients_of_any_size_have_the_same(result, tmp_path):
    huge = analyze(turned(tmp_path / "run.zarr", 1e25), ["last"], directions=True, null_rank=False)
    np.testing.assert_allclose(huge["direction_cosine"], result["direction_cosine"], rtol=1e-5, atol=1e-5)


def test_it_is_not_there_unless_it_is_asked_for(run, tmp_path):
    plain = analyze(run, ["last"], null_rank=False)
    assert "directions" not in to_json(plain)
    assert map_in(plain) is autocorrelation_in(plain) is None
    short = open_run(stores.write_run(tmp_path / "short.zarr", np.ones((20, 1, 8)) + np.eye(20, 8)[:, None]))
    found = to_json(analyze(short, ["last"], directions=True))["directions"]
    assert found == {"withheld": "20 steps, at least 32 needed for two stretches"}


def test_events_then_have_their_directions(tmp_path):
    run = turned(tmp_path / "run.zarr", what="gradient", odd=200)
    ours = to_json(analyze(run, ["last"], directions=True, null_rank=False))["events"]["events"]
    for mine, asked in zip(ours, find_events(run).to_dict()["events"], strict=True):
        assert {n: mine[n] for n in ("cosine_mean", "like")} == {n: asked[n] for n in ("cosine_mean", "like")}
    assert ours


def test_a_run_without_turns_is_written_and_read_back(tmp_path):
    rows = np.ones((80, 1, 8)) + np.random.default_rng(0).normal(size=(80, 1, 8))
    ds = analyze(open_run(stores.write_run(tmp_path / "run.zarr", rows)), ["last"], directions=True)
    assert ds.sizes["turn"] == 0
    for form, suffix in (("netcdf", "nc"), ("zarr", "zarr"), ("csv", "csv"), ("npz", "npz")):
        export_result(ds, tmp_path / f"result.{suffix}", form)
    with xarray.open_dataset(tmp_path / "result.nc", engine="h5netcdf") as read:
        assert to_json(read)["directions"] == to_json(ds)["directions"]
