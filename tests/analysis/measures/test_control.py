"""Exact norms as controls: what they tell of the sketch's error is taken out of every sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradlog
from gradlog.analysis import analyze
from gradlog.analysis.common.jackknife import Control, jackknife
from tests.helpers import reference, stores


def regressed(x, power, energy):
    """Sum of x at the known energy, on the least-squares line through the coordinates."""
    slope, level = np.polyfit(power, x, 1)
    return len(x) * (level + slope * energy / len(x))


@given(st.integers(0, 10**6), st.integers(5, 40))
def test_sums_are_read_off_the_line_at_the_known_energy(seed, k):
    r = np.random.default_rng(seed)
    power, x = r.chisquare(3, k), r.standard_normal((2, k))
    control = Control(power, 2.5 * k)
    expected = [regressed(row, power, 2.5 * k) for row in x]
    np.testing.assert_allclose(control.sums(x), expected, rtol=1e-6, atol=1e-8)
    for j, found in enumerate(control.without_one(x).T):
        rest, others = np.delete(power, j), np.delete(x, j, axis=1)
        scaled = [regressed(row * k / (k - 1), rest * k / (k - 1), 2.5 * k) for row in others]
        np.testing.assert_allclose(found, scaled, rtol=1e-6, atol=1e-7)


def test_what_is_a_multiple_of_the_energy_is_known_without_error():
    power = np.random.default_rng(0).chisquare(1, 64)
    value, low, high = jackknife(lambda x: x, 3 * power, control=Control(power, 70.0))
    assert (value, low, high) == pytest.approx((210.0, 210.0, 210.0))


def test_coordinates_that_are_all_alike_tell_nothing():
    """No slope through points of one abscissa, and no division by nothing."""
    control = Control(np.full(16, 2.0), 33.0)
    assert float(control.sums(np.arange(16.0))) == 120
    np.testing.assert_array_equal(control.without_one(np.ones(16)), np.full(16, 16.0))


def opposing(T=60, d=900, seed=0):
    """Steps that bounce along one direction, above noise."""
    r = np.random.default_rng(seed)
    sign = np.where(np.arange(T) % 2, -1.0, 1.0)[:, None]
    return (2 * sign * r.standard_normal(d) + r.standard_normal((T, d))).astype(np.float32)


def recorded(path, G, k=64, seed=0):
    with gradlog.open(path, like=G[0], k=k, seed=seed, on_error="raise", hostname=False) as log:
        for row in G:
            log.step(row)
    return str(path)


def test_norms_take_out_most_of_the_error_where_one_direction_dominates(tmp_path):
    """Against the ratio of the sketch's own sums; the interval is narrower, and holds all the same."""
    G = opposing()
    names = ["last", "ema(0.9)", "trend"]
    true = np.array(
        [np.square(reference.errors(G.astype(float), n)).sum() / np.square(G, dtype=float).sum() for n in names]
    )
    errors, ratios, halves, held = [], [], [], []
    for seed in range(25):
        path = recorded(tmp_path / f"{seed}.zarr", G, seed=seed)
        ds = analyze(path, names, by_group=False, null_rank=False)
        rows = gradlog.analysis.open_run(path).rows
        X = rows.read(0, len(rows)).astype(np.float64)
        paths = np.stack([np.square(reference.errors(X, n)).sum(0) for n in names])
        plain = [jackknife(np.divide, p, np.square(X).sum(0)) for p in paths]
        errors.append(ds.kappa - true)
        ratios.append([p[0] for p in plain] - true)
        halves.append((ds.kappa_high - ds.kappa) / [p[2] - p[0] for p in plain])
        held.append((ds.kappa_low <= true) & (true <= ds.kappa_high))
    assert (np.std(errors, axis=0) < 0.6 * np.std(ratios, axis=0)).all()
    assert (np.mean(halves, axis=0) < 0.6).all()
    assert np.mean(held) >= 0.9


def test_gain_path_length_and_differences_follow_from_one_kappa(tmp_path):
    ds = analyze(recorded(tmp_path / "r.zarr", opposing()), ["zero", "last", "trend"], window=30)
    np.testing.assert_allclose(ds.gain, 1 - ds.kappa / ds.kappa_null, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ds.path_length, ds.kappa * ds.energy, rtol=1e-12)
    apart = ds.kappa.values[:, None] - ds.kappa.values[None]
    np.testing.assert_allclose(ds.kappa_difference, apart, rtol=1e-9, atol=1e-12)
    assert float(ds.kappa.sel(predictor="zero")) == 1
    low, high = (float(ds[f"kappa_{end}"].sel(predictor="zero")) for end in ("low", "high"))
    assert low == high == 1
    lag = float(ds.lag_coherence.sel(lag=1))
    assert float(ds.kappa.sel(predictor="last")) == pytest.approx(2 * (1 - lag), rel=0.05)


def test_norms_that_are_not_of_these_rows_are_not_believed(tmp_path):
    X = np.random.default_rng(0).standard_normal((40, 1, 64))
    norm2 = np.square(X).sum(2)
    plain = analyze(str(stores.write_run(tmp_path / "a.zarr", X)), ["last"])
    wrong = analyze(str(stores.write_run(tmp_path / "b.zarr", X, norm2=10 * norm2)), ["last"])
    power = np.square(X[:, 0].astype(np.float32)).sum(0, dtype=float)
    path = np.square(reference.errors(X[:, 0].astype(np.float32).astype(float), "last")).sum(0)
    expected = jackknife(np.divide, path, power)
    found = [float(wrong[name].item()) for name in ("kappa", "kappa_low", "kappa_high")]
    assert found == pytest.approx(expected, rel=1e-5)
    assert "the norms contradict the sketches" in str(wrong.attrs["warnings"])
    assert "contradict" not in str(plain.attrs["warnings"])
