"""analyze() of gradients that are fully known, against the definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradlog.analysis import Linear, analyze
from gradlog.analysis.measures.predictors import Fitted
from gradlog.format.names import HALF_NORM2
from tests.helpers import reference, stores
from tests.helpers.walks import oracle_kappa, smooth

PREDICTORS = ["zero", "last", "ema(0.9)", "ema(0.99)", "trend", "ar(3)", "best-ema", Linear("two", (0.5, 0.5))]


def test_exact_mode_agrees_with_the_definitions(exact_run):
    path, G = exact_run
    ds = analyze(str(path), PREDICTORS, eps=(0.3, 0.1, 0.01))
    chains = [(0, len(G))]
    for name in ds.predictor.values:
        kappa = ds.sel(predictor=name)
        if name == "best-ema":
            at = lambda beta: oracle_kappa(G, chains, f"ema({beta!r})")  # noqa: E731
            assert float(kappa.kappa) == pytest.approx(at(float(kappa.beta)), abs=2e-5)
            assert float(kappa.kappa) <= min(map(at, (1 - np.geomspace(1, 1 / 1000, 60)).tolist())) + 2e-5
        else:
            assert float(kappa.kappa) == pytest.approx(oracle_kappa(G, chains, name), rel=1e-6)
        assert float(kappa.kappa_low) == float(kappa.kappa_high) == float(kappa.kappa)
    H = np.diff(G, axis=0)
    sigma = np.linalg.svd(H, compute_uv=False)
    np.testing.assert_allclose(ds.singular_value, sigma, rtol=1e-5)
    assert ds["rank"].values.tolist() == [reference.rank_at(H, e) for e in ds.eps.values]
    np.testing.assert_allclose(ds.tail_energy[1:-1], 1 - np.cumsum(sigma**2)[:-1] / np.sum(sigma**2), atol=1e-6)
    assert float(ds.energy) == pytest.approx(np.square(G).sum())


def test_groups_windows_and_prefixes_are_the_same_measures_of_their_rows(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last", "ema(0.9)", "trend"], window=40, stride=20, prefixes=3, burn_in=7)
    for g in range(2):
        own = G[:, 8 * g : 8 * g + 8]
        E = np.square(own[7:]).sum()
        for name in ds.predictor.values:
            expected = np.square(reference.errors(own, name)[7:]).sum() / E
            assert float(ds.group_kappa.sel(group=f"g{g}", predictor=name)) == pytest.approx(expected, rel=1e-6)
        H = np.diff(own, axis=0)[6:]
        assert ds.group_rank.sel(group=f"g{g}", eps=0.1) == reference.rank_at(H, 0.1)
    assert ds.window_first_step.values.tolist() == [7, 27, 47, 67, 87]
    for i, a in enumerate(ds.window_first_step.values):
        for name in ds.predictor.values:
            expected = np.square(reference.errors(G, name)[a : a + 40]).sum() / np.square(G[a : a + 40]).sum()
            assert float(ds.window_kappa.sel(predictor=name)[i]) == pytest.approx(expected, rel=1e-6)
        assert ds.window_rank.sel(eps=0.1)[i] == reference.rank_at(np.diff(G, axis=0)[a - 1 : a + 39], 0.1)
    last = {v: ds[f"prefix_{v}"][-1] for v in ("energy", "kappa", "rank", "kappa_null")}
    for name, value in last.items():
        np.testing.assert_allclose(value, ds[name], rtol=1e-12)


def test_spectra_and_rank_curves_of_every_scope_are_those_of_its_rows(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], window=40, prefixes=2)
    H = np.diff(G, axis=0)
    scopes = {
        "": H,
        "window": H[39:79],
        "prefix": H[:64],
        "group": H[:, 8:],
        "window_group": H[39:79, 8:],
        "prefix_group": H[:64, 8:],
    }
    at = {"window": 1, "prefix": 0, "group": 1}
    for scope, rows in scopes.items():
        label = f"{scope}_" if scope else ""
        here = ds.isel({dim: at[dim] for dim in scope.split("_") if dim})
        sigma = np.linalg.svd(rows, compute_uv=False)
        np.testing.assert_allclose(here[f"{label}singular_value"][: len(sigma)], sigma, rtol=1e-4)
        tail = 1 - np.cumsum(sigma**2) / np.sum(sigma**2)
        np.testing.assert_allclose(here[f"{label}tail_energy"][1 : len(sigma) + 1], tail, atol=1e-6)


@pytest.mark.parametrize("method", ["gram", "rows", "nystrom"])
def test_every_route_to_the_spectrum_agrees(tmp_path, method):
    X = smooth(90, groups=3, k=16, noise=0.02)
    path = stores.write_run(tmp_path / "r.zarr", X)
    G = X.reshape(90, -1).astype(np.float64)
    H = np.diff(G, axis=0)
    ds = analyze(str(path), ["last"], svd=method, window=30, burn_in=2)
    for e in ds.eps.values:
        truth = reference.rank_at(H[1:], e)
        assert ds.rank_low.sel(eps=e) <= truth <= ds.rank_high.sel(eps=e)
        assert truth == ds["rank"].sel(eps=e)
        for i in range(ds.sizes["window"]):
            here = ds.isel(window=i).sel(eps=e)
            assert here.window_rank_low <= reference.rank_at(H[1 + 30 * i : 31 + 30 * i], e) <= here.window_rank_high
    shuffled = reference.shuffled_ranks(G[1:], np.array([89]), (0.1,), draws=40).mean()
    assert float(ds.rank_null.sel(eps=0.1)) == pytest.approx(shuffled, abs=0.6)


def test_components_and_scores(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], components=3, burn_in=4)
    H = np.diff(G, axis=0)[3:]
    _U, s, Vt = np.linalg.svd(H, full_matrices=False)
    V = ds.components.values.reshape(3, -1)
    np.testing.assert_allclose(np.abs(np.sum(V * Vt[:3], axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ds.scores, axis=0), s[:3], rtol=1e-4)
    np.testing.assert_allclose(ds.explained_variance, s[:3] ** 2, rtol=1e-4)
    np.testing.assert_allclose(ds.explained_variance_ratio, s[:3] ** 2 / np.square(s).sum(), rtol=1e-4)
    assert ds.increment_step.values.tolist() == list(range(4, 130))
    # Eckart and Young: what the best rank-3 predictor of the increments leaves is the tail of their spectrum
    left = np.square(H - H @ V.T @ V).sum() / np.square(H).sum()
    assert left == pytest.approx(float(ds.tail_energy[3]), rel=1e-4)
    rng = np.random.default_rng(5)
    other = np.linalg.qr(rng.standard_normal((H.shape[1], 3)))[0]
    assert np.square(H - H @ other @ other.T).sum() / np.square(H).sum() > 1.1 * left


def test_bounds_show_both_sides_and_their_inputs(exact_run):
    path, G = exact_run
    ds = analyze(str(path), ["last"], diameter=2.0)
    P = np.square(reference.errors(G, "last")).sum()
    right = 2 * (2.0 - 0.0) / (0.1 * 130) + P / 130
    assert float(ds.stationarity_right[0]) == pytest.approx(right, rel=1e-6)
    assert float(ds.stationarity_left[0]) == pytest.approx(np.square(G).sum() / 130)
    assert float(ds.regret_best[0]) == pytest.approx(2 * np.sqrt(2 * P), rel=1e-6)
    assert float(ds.regret_right[0]) == pytest.approx(4 / 0.1 + 0.05 * P, rel=1e-6)
    assert float(ds.regret_left[0]) == pytest.approx(np.linspace(2, 1, 130).sum())
    sources = json.loads(ds.attrs["bound_inputs"])["sources"]
    assert sources["eta"] == "logged"
    assert sources["lowest_loss"] == "assumed"


def test_a_predictor_of_one_s_own(exact_run):
    class Scaled:
        name, betas, lags = "scaled", (), 1

        def fit(self, evidence):
            M = evidence.moments(1)
            w = M[0, 1].sum() / M[1, 1].sum()
            return Fitted(M[0, 0] - 2 * w * M[0, 1] + w * w * M[1, 1], np.array([w]), hindsight=True)

    path, G = exact_run
    ds = analyze(str(path), [Scaled(), "ar(1)", "last"], window=65)
    same = ds.sel(predictor="scaled")
    assert float(same.kappa) == pytest.approx(oracle_kappa_scaled(G), rel=1e-5)
    for name in ("kappa", "kappa_null", "window_kappa", "group_kappa"):
        np.testing.assert_allclose(same[name], ds[name].sel(predictor="ar(1)"), rtol=1e-4)


def oracle_kappa_scaled(G):
    past = np.vstack([np.zeros_like(G[:1]), G[:-1]])
    w = (G * past).sum() / np.square(past).sum()
    return np.square(G - w * past).sum() / np.square(G).sum()


def test_batch_size_and_noise_scale_belong_to_the_scope(tmp_path):
    batch = np.r_[np.full(60, 16.0), np.full(60, 64.0)]
    X = smooth(120)
    halves = {HALF_NORM2.format(g): np.square(X[:, g]).sum(1) / 3 for g in range(X.shape[1])}
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, scalars={"batch_size": batch, **halves})
    ds = analyze(str(path), ["last"], window=60)
    for i, size in enumerate((16, 64)):
        here = ds.isel(window=i)
        assert float(here.window_noise_scale) == pytest.approx(size * float(here.window_noise / here.window_signal))
    assert float(ds.noise_scale) == pytest.approx(40 * float(ds.noise / ds.signal))
