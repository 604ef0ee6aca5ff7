"""Rows that leave an estimator nothing to work with: a labelled value or a remark, never inf or a crash."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.common.types import Column
from gradlog.analysis.measures import bounds, order_baseline
from gradlog.analysis.measures.interpretation import verdict
from gradlog.analysis.measures.predictors import Fitted
from gradlog.analysis.spectrum import subspaces
from gradlog.format.names import HALF_NORM2
from tests.helpers import stores

T = 40
ON = np.arange(T)


def rows(groups=2, k=16, seed=0):
    return np.random.default_rng(seed).standard_normal((T, groups, k))


def spread(first, second):
    """Two groups of these sizes."""
    return rows() * np.array([first, second])[None, :, None]


CASES = {
    "no gradient": (np.zeros((T, 2, 16)), {}),
    "no gradient, exact": (np.zeros((T, 2, 8)), {"exact": True}),
    "one row moves": (np.where((ON == 7)[:, None, None], rows(), 0), {}),
    "the first row moves": (np.where((ON == 0)[:, None, None], rows(), 0), {}),
    "equal rows": (np.repeat(rows()[:1], T, 0), {}),
    "a bounce": (rows()[:1] * np.where(ON % 2, -1, 1)[:, None, None], {}),
    "two rows": (rows()[:2], {}),
    "one coordinate": (rows(k=1), {}),
    "three coordinates": (rows(k=3), {}),
    "exact, one parameter": (rows(1, 1), {"exact": True}),
    "more groups than coordinates": (rows(10, 8), {}),
    "groups of one parameter": (np.eye(64)[[3, 5]][None] * rows(2, 1), {"sizes": [1, 1]}),
    "every other row NaN": (np.where((ON % 2 == 0)[:, None, None], np.nan, rows()), {"flags": ON % 2 == 0}),
    "1e-30": (1e-30 * rows(), {}),
    "1e-42, denormal": (1e-42 * rows(), {}),
    "1e30": (1e30 * rows(), {}),
    "up to 3e38": (3e38 * np.clip(rows() / 4, -1, 1), {}),
    "1e-30 beside 1e30": (spread(1e-30, 1e30), {}),
    "1e-30, then 1e30": (rows() * np.where(ON < 20, 1e-30, 1e30)[:, None, None], {}),
    "no learning rate": (rows(), {"scalars": {"loss": np.linspace(2, 1, T), "lr": np.zeros(T)}}),
    "no loss left": (rows(), {"scalars": {"loss": np.zeros(T), "lr": np.full(T, 0.1)}}),
    "loss NaN": (rows(), {"scalars": {"loss": np.full(T, np.nan), "lr": np.full(T, 0.1)}}),
    "nothing to bound": (np.zeros((T, 1, 8)), {"scalars": {"loss": np.ones(T), "lr": np.ones(T)}}),
}


@pytest.mark.parametrize("options", [
    {},
    pytest.param({"svd": "rows", "window": 10}, marks=pytest.mark.slow),
    pytest.param({"svd": "nystrom", "burn_in": 5, "prefixes": 3}, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.parametrize("name", CASES)
def test_every_number_is_finite_or_withheld(tmp_path, name, options):
    X, written = CASES[name]
    if len(X) < 20:
        options = {"svd": options.get("svd", "auto")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = analyze(str(stores.write_run(tmp_path / "r.zarr", X, **written)), **options)
    found = to_json(ds)
    json.dumps(found, allow_nan=False)
    for variable in ds.data_vars:
        assert not np.isinf(ds[variable]).any(), variable
    for k in found["kappa"].values():
        assert k["value"] is None or k["value"] >= 0
        assert k["low"] is None or 0 <= k["low"] <= k["value"] <= k["high"]


@pytest.mark.parametrize("svd", ["gram", "rows", "nystrom"])
@pytest.mark.parametrize("exponent", [-100, -40, 50, 100])
def test_numbers_do_not_depend_on_the_unit_of_the_gradient(tmp_path, exponent, svd):
    """Times a power of two nothing but the units changes, bit for bit; float32 squares end at 2^64."""
    options = {"svd": svd, "window": 20, "components": 2 if svd == "gram" else 0}
    plain = analyze(str(stores.write_run(tmp_path / "1.zarr", rows())), **options)
    path = stores.write_run(tmp_path / "s.zarr", np.ldexp(rows().astype(np.float32), exponent))
    scaled = analyze(str(path), cache=tmp_path / "cache", **options)
    power = {"gradient": exponent, "gradient^2": 2 * exponent}
    for name in plain.data_vars:
        if name.startswith(("regret", "stationarity_right", "stationarity_ratio")):
            continue
        expected = np.ldexp(plain[name].values, power.get(plain[name].attrs["units"], 0))
        np.testing.assert_allclose(scaled[name].values, expected, rtol=1e-9, atol=0, err_msg=name)


def test_a_diverging_run_is_measured_and_cached_numbers_are_not_mixed(tmp_path):
    X = rows()
    X[-1] *= 1e25
    run = open_run(str(stores.write_run(tmp_path / "r.zarr", X)))
    for _ in range(2):
        ds = analyze(run, ["last"], cache=tmp_path / "cache")
        assert float(ds.energy) == pytest.approx(np.square(X[-1]).sum(), rel=1e-5)
        assert float(ds.kappa[0]) == pytest.approx(1, rel=1e-5)
    np.testing.assert_array_equal(run.rows.read(0, T), X.reshape(T, -1).astype(np.float32))


def test_a_group_that_vanishes_beside_another_is_named_and_has_no_kappa(tmp_path):
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", spread(1e-30, 1e30))), ["last"])
    assert "group g0: its gradient is too small beside the others to be measured" in ds.attrs["warnings"]
    assert np.isnan(float(ds.group_kappa[0, 0]))
    assert float(ds.group_kappa[1, 0]) == pytest.approx(float(ds.kappa[0]))
    near = analyze(str(stores.write_run(tmp_path / "near.zarr", spread(1e-20, 1.0))), ["last"])
    assert "too small" not in near.attrs["warnings"]
    alone = analyze(str(stores.write_run(tmp_path / "alone.zarr", rows()[:, :1])), ["last"])
    assert float(near.group_kappa[0, 0]) == pytest.approx(float(alone.kappa[0]), rel=1e-6)


def test_order_is_not_judged_without_an_interval_nor_beyond_rounding(tmp_path):
    few = to_json(analyze(str(stores.write_run(tmp_path / "few.zarr", rows(k=3)))))
    assert {verdict(k) for k in few["kappa"].values()} == {"-"}
    assert any("k = 3: no intervals" in w for w in few["warnings"])
    equal = np.repeat(rows()[:1], T, 0)
    ds = analyze(str(stores.write_run(tmp_path / "equal.zarr", equal, scalars={})), ["last", "trend"], burn_in=5)
    assert (ds.kappa == 0).all()
    assert np.isnan(ds.kappa_null).all()
    assert np.isnan(ds.gain).all()
    assert np.isnan(ds.rank_null).all()
    assert (ds["rank"] == 0).all()


def test_windows_without_increments_have_no_subspace(tmp_path):
    X = rows()
    X[20:30] = X[20]
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", X)), ["last"], window=10)
    still = np.isnan(ds.window_overlap.values)
    # the third window's first increment comes from the row before it, so only one direction is left to compare
    assert not still.any()
    assert float(ds.window_overlap_random) == pytest.approx(1 / 32)
    np.testing.assert_allclose(np.diagonal(ds.window_overlap), 1)
    X[19] = X[20]
    frozen = analyze(str(stores.write_run(tmp_path / "frozen.zarr", X)), ["last"], window=10)
    np.testing.assert_array_equal(np.isnan(frozen.window_overlap.values).sum(axis=0), [1, 1, 4, 1])
    assert subspaces.leading(np.diag([3.0, 2.0, 0.0]), 3).shape == (3, 2)


def column(*values):
    return Column.of(np.array(values, float))


def test_inputs_of_the_bounds_are_checked_and_named():
    assert bounds.inputs(column(2, 1), column(0.1, 0.1)).sources["eta"] == "logged"
    assert bounds.inputs(column(2, 1), column(0.1, 0.2)).sources["eta"] == "mean of the logged"
    for wrong in ({"eta": 0.0}, {"diameter": -1.0}, {"lowest_loss": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            bounds.inputs(column(2, 1), column(0.1), **wrong)


def test_a_loss_logged_now_and_then_gives_no_regret(tmp_path):
    loss = np.where(ON % 2, np.nan, 1.0)
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", rows(), scalars={"loss": loss, "lr": np.full(T, 0.1)})))
    assert np.isnan(ds.regret_left).all()
    assert np.isfinite(ds.regret_right).all()
    assert np.isfinite(ds.stationarity_ratio).all()


@pytest.mark.parametrize("what", ["gradient", "update"])
def test_intervals_of_the_bounds_follow_those_of_the_path_length(tmp_path, what):
    X = np.cumsum(rows(seed=1), 0) * 0.1 + rows(seed=2)
    scalars = {"loss": np.linspace(2, 1, T), "lr": np.full(T, 0.1)}
    scalars |= {HALF_NORM2.format(g): np.square(X[:, g]).sum(1) * np.linspace(0.5, 0.7, T) for g in range(2)}
    head = stores.header(2, 16, what=what)  # of sketched updates only the sketch's own norms are known
    stores.write_root(tmp_path / "r.zarr", head)
    stores.write_segment(tmp_path / "r.zarr", head, X, scalars=scalars)
    ds = analyze(str(tmp_path / "r.zarr"), ["zero", "last", "ema(0.9)"])
    exact = what == "gradient"
    assert (float(ds.energy_low) == float(ds.energy_high)) == exact
    if exact:
        np.testing.assert_allclose(ds.path_length_low, ds.kappa_low * ds.energy)
    for name in ("stationarity_right", "stationarity_ratio", "regret_right", "regret_ratio", "regret_best"):
        value, low, high = (ds[name + end].values for end in ("", "_low", "_high"))
        assert (low <= value).all()
        assert (value <= high).all()
        assert (low < high)[1:].all()
        assert (low[0] == high[0]) == exact  # predicting zero has a path length of exactly the energy
    np.testing.assert_allclose(ds.regret_best_eta_low, np.sqrt(2 / ds.path_length_high))
    np.testing.assert_allclose(ds.stationarity_ratio_high, ds.stationarity_right_high / (ds.energy_low / T))
    sides = to_json(ds)["bounds"]["stationarity"]["last"]
    assert sides["right_low"] < sides["right"] < sides["right_high"]
    if exact:
        assert sides["ratio_noise_free"] > sides["ratio"]
    else:  # halves are of gradients
        assert sides["left_noise_free"] is None


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_random_orders_are_not_called_an_order(tmp_path, exact):
    """Noise in few directions over few steps: gains scatter by far more than 2 %, and by as much as is said."""
    r = np.random.default_rng(8)
    size = np.sqrt(1 / np.arange(1, 41))
    map_ = np.linalg.qr(r.standard_normal((64, 40)))[0].T if exact else r.standard_normal((40, 64)) / 8
    inside, large = {}, 0
    for i in range(80):
        X = (0.3 + r.standard_normal((60, 40)) * size) @ map_
        ds = analyze(str(stores.write_run(tmp_path / f"{i}.zarr", X[:, None], exact=exact)), by_group=False)
        for name, kappa in to_json(ds)["kappa"].items():
            if name != "zero":
                assert kappa["gain_chance"] > 0
                inside.setdefault(name, []).append(abs(kappa["gain"]) < kappa["gain_chance"])
        large += abs(float(ds.gain.sel(predictor="last"))) > 0.02
    assert large > 40
    held = {name: np.mean(hits) for name, hits in inside.items()}
    assert min(held.values()) > 0.85, held
    assert held["last"] < 1, held


def test_chance_by_hand():
    last, two = (Fitted(np.empty(0), np.array(w)) for w in ([1.0], [2.0, -1.0]))
    assert order_baseline.chance(last, 4.0, 100.0) == pytest.approx(2 * np.sqrt(4 / 400))
    assert order_baseline.chance(two, 4.0, 100.0) == pytest.approx(2 * np.sqrt(68 / 400))
    long = 0.1 * 0.9 ** np.arange(400)
    slow = order_baseline.chance(Fitted(np.empty(0), np.empty(0), beta=0.9), 4.0, 100.0)
    assert slow == pytest.approx(order_baseline.chance(Fitted(np.empty(0), long), 4.0, 100.0), rel=1e-6)
    assert order_baseline.chance(Fitted(np.empty(0), np.empty(0)), 4.0, 100.0) == 0
