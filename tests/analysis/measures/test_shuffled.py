"""What shuffled noise would give, against shuffling it."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze
from gradlog.analysis.measures.order_baseline import Order, coherence, kappa_null
from gradlog.analysis.measures.predictors import parse
from gradlog.analysis.spectrum.shuffled_rank import shuffled_gram
from tests.helpers import reference, stores
from tests.helpers.known import evidence


def whole(first, stop):
    """One chain, of which the rows of these ages count."""
    return Order(np.array([[first, stop]]), np.array([0]))


def test_baseline_is_the_permutation_mean():
    rng = np.random.default_rng(0)
    G = rng.standard_normal((23, 5)) + rng.standard_normal(5) * rng.uniform(0.2, 3, (23, 1))
    predictors = parse("last,ema(0.9),trend,ema(0.5)")
    e = evidence(G, predictors)
    c = coherence(e.of("energy").sum(), np.square(e.of("total")).sum(), 23)
    for p in predictors:
        shuffled = reference.shuffled_kappa(G, lambda R, p=p: reference.errors(R, p.name), 4000)
        assert float(kappa_null(p.fit(e), c, c, whole(0, 23))) == pytest.approx(shuffled, rel=0.01)
    far = {"last": 2 * (1 - c), "trend": 6 * (1 - c), "ema(0.9)": (1 - c) * 2 / 1.9}
    for p in predictors[:3]:
        steady = float(kappa_null(p.fit(e), c, c, whole(10**6, 10**6 + 9)))
        assert steady == pytest.approx(far[p.name])


def test_rank_baseline_is_the_mean_gram_of_shuffled_steps():
    rng = np.random.default_rng(1)
    G = rng.standard_normal((15, 4)) + 1
    expected = reference.shuffled_gram(G, 4000)
    np.testing.assert_allclose(shuffled_gram(G.T @ G, G.sum(0), 15), expected, rtol=0.1, atol=0.5)


def test_shuffled_noise_has_no_gain_and_smooth_runs_have(tmp_path):
    rng = np.random.default_rng(2)
    noise_path = stores.write_run(tmp_path / "noise.zarr", rng.standard_normal((400, 1, 32)))
    ds = analyze(str(noise_path), ["last", "ema(0.9)", "trend"])
    assert np.abs(ds.gain).max() < 0.03
    walk = np.cumsum(rng.standard_normal((400, 1, 32)), 0)
    smooth = analyze(str(stores.write_run(tmp_path / "walk.zarr", walk)), ["last", "ema(0.9)", "trend"])
    assert smooth.gain.min() > 0.5
