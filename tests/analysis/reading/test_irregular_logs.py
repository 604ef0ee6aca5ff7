"""Gaps, rows that are not finite, frozen groups, rewinds and outliers: measured by the definitions, and said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradlog.analysis import Linear, analyze, open_run, to_json
from tests.helpers import reference, stores
from tests.helpers.walks import oracle_kappa, smooth


def test_gaps_and_nonfinite_rows_break_the_chain(tmp_path):
    X = smooth(60, noise=0.3)
    steps = np.arange(60) * 2
    steps[25:] += 4
    flags = np.zeros(60, np.uint32)
    flags[[0, 40, 41]] = 1
    X[40] = np.nan
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, every=2, steps=steps, flags=flags)
    chains = reference.chains_of(steps, flags == 0, every=2)
    assert chains == [(1, 25), (25, 40), (42, 60)]
    run = open_run(path)
    assert run.contiguous_ranges.tolist() == [list(c) for c in chains]
    G = np.nan_to_num(X.reshape(60, -1).astype(np.float64))
    ds = analyze(run, ["last", "trend", "ema(0.9)", "ar(3)", "two" and Linear("two", (0.5, 0.5))], window=20)
    for name in ds.predictor.values:
        assert float(ds.kappa.sel(predictor=name)) == pytest.approx(oracle_kappa(G, chains, name), rel=1e-6)
    np.testing.assert_allclose(run.increments().compute(), reference.increments(G, chains), atol=1e-6)
    assert int(ds.rows) == 57
    text = " ".join(json.loads(ds.attrs["warnings"]))
    assert "1 gaps" in text
    assert "3 non-finite" in text
    assert "every=2" in text


def test_frozen_parameters_and_short_stretches_are_said(tmp_path):
    X = smooth(60)
    X[:, 1] = 0
    X[30:] = 0
    ds = analyze(str(stores.write_run(tmp_path / "frozen.zarr", X, exact=True)), ["last", "ar(4)"], window=15)
    said = json.loads(ds.attrs["warnings"])
    assert "group g1: its gradient is zero throughout" in said
    assert "30 rows with a gradient of zero are counted" in said
    assert np.isnan(ds.group_kappa.sel(group="g1")).all()
    assert float(ds.window_path_length.sel(predictor="last")[2]) == pytest.approx(np.square(X[29], dtype=float).sum())
    assert np.isnan(ds.window_kappa.sel(predictor="last")[2])
    assert float(ds.window_path_length.sel(predictor="last")[3]) == 0
    assert not json.dumps(to_json(ds), allow_nan=False).count("Infinity")

    few = smooth(3)
    ds = analyze(str(stores.write_run(tmp_path / "few.zarr", few, exact=True)), ["ar(2)", "ar(8)"])
    said = json.loads(ds.attrs["warnings"])
    assert [w.split()[0] for w in said] == ["ar(8)"]
    G = few.reshape(3, -1).astype(float)
    expected = reference.path_length(G, [(0, 3)], "linear", reference.ar_weights(G, [(0, 3)], 2)).sum()
    assert float(ds.path_length.sel(predictor="ar(2)")) == pytest.approx(expected, rel=1e-4)


def test_a_resumed_and_rewound_run_is_measured_across_the_seam_and_said(tmp_path):
    X = smooth(80)
    head = stores.header(exact=True)
    path = tmp_path / "r.zarr"
    stores.write_root(path, head)
    abandoned = X[:60].copy()
    abandoned[40:] += 5
    stores.write_segment(path, head, abandoned)
    stores.write_segment(path, head, X[40:], steps=np.arange(40, 80), number=1, parent_step=39)
    ds = analyze(str(path), ["last", "ema(0.9)"], window=20)
    whole = analyze(str(stores.write_run(tmp_path / "whole.zarr", X, exact=True)), ["last", "ema(0.9)"], window=20)
    for name in ("kappa", "window_kappa", "rank", "singular_value"):
        np.testing.assert_allclose(ds[name], whole[name], rtol=1e-6, atol=1e-6)
    assert any("20 rows abandoned" in w for w in json.loads(ds.attrs["warnings"]))


def test_shares_of_the_path_by_step_group_and_window(tmp_path):
    X = smooth(90)
    X[50, 1] += 40  # one outlier carries two increments
    flags = np.zeros(90, np.uint32)
    flags[20] = 1
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, flags=flags)
    ds = analyze(str(path), ["last", "trend"], window=45)
    G, chains = X.reshape(90, -1).astype(np.float64), [(0, 20), (21, 90)]
    errors = np.concatenate([np.square(reference.errors(G[a:b], "last")).sum(1) for a, b in chains])
    assert ds.path_step.values.tolist() == [t for t in range(90) if t != 20]
    np.testing.assert_allclose(ds.step_path_share, errors / errors.sum(), rtol=1e-4, atol=1e-9)
    assert set(ds.path_step.values[np.argsort(ds.step_path_share.values)[-2:]]) == {50, 51}
    assert int(ds.half_path_steps) == reference.fewest_for(errors, 0.5) == 2
    found = to_json(ds)["path_shares"]
    assert found["half_steps"] == 2
    assert [s["step"] for s in found["steps"][:2]] == ds.path_step.values[np.argsort(errors)[::-1][:2]].tolist()
    for name in ("last", "trend"):
        own = reference.path_length(G, chains, name).reshape(2, -1).sum(1)
        assert [found["by_group"][g][name] for g in ("g0", "g1")] == pytest.approx(own / own.sum(), rel=1e-5)
    assert float(ds.window_path_share.sel(predictor="last").sum()) == pytest.approx(1)
