"""The rank of the gradients themselves, from their sketch: right where it is claimed, withheld where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze
from gradlog.analysis.spectrum import population, rank, subspaces
from tests.helpers import stores
from tests.helpers.known import fold_hash, gaussian_gram


@pytest.mark.parametrize(
    ("tau", "within"),
    [
        (np.ones(40), 0.06),
        (np.exp(-np.arange(400) / 20), 0.1),
        (np.arange(1, 1600.0) ** -1.5, 0.4),
        (np.r_[np.full(10, 50.0), np.ones(400)], 0.15),
    ],
)
def test_the_rank_behind_the_sketch(tau, within):
    """Where it is claimed it is right, and it is nearer than the naive rank of the sketch."""
    k, eps = 256, (0.1, 0.05)
    order = np.cumsum(np.sort(tau)[::-1]) / tau.sum()
    claimed = 0
    for seed in range(2):
        gram = gaussian_gram(tau, k, seed)
        naive = rank.of_gram(gram)
        for e, found in zip(eps, population.estimate(gram, eps, len(tau)), strict=True):
            truth = int(np.searchsorted(order, 1 - e)) + 1
            if np.isfinite(found.value):
                claimed += 1
                assert abs(found.value - truth) <= within * truth + 1
                assert abs(found.value - truth) <= abs(rank.rank_interval(naive, e)[1] - truth) + 2
    assert claimed >= 2


def test_nothing_is_claimed_of_axis_aligned_directions_or_flat_noise_beyond_the_sketch():
    rng = np.random.default_rng(4)
    for r in (44, 200):
        gram = np.diag(np.bincount(rng.integers(0, 256, r), minlength=256).astype(float))
        assert all(np.isnan(e.value) for e in population.estimate(gram, (0.1, 0.05), 1000))
    heavy = gaussian_gram(np.arange(1, 5000.0) ** -0.7, 64, 0)
    assert all(np.isnan(e.value) for e in population.estimate(heavy, (0.05, 0.01), 5000))


def known_increments(kind, T=500, d=3000):
    """Increments whose exact spectrum is at hand."""
    r = np.random.default_rng(0)
    if kind == "student":
        return r.standard_t(1.5, (T, d))
    if kind == "axis-aligned":
        X = np.zeros((T, d))
        X[:, r.choice(d, 200, replace=False)] = r.standard_normal((T, 200))
        return X
    if kind == "noise":  # a rotation of which is the same
        return r.standard_normal((T, d))
    tau = {
        "low rank": np.ones(40),
        "exponential": np.exp(-np.arange(200) / 20),
        "power law": np.arange(1, 400.0) ** -1.0,
    }[kind]
    return (r.standard_normal((T, len(tau))) * np.sqrt(tau)) @ np.linalg.qr(r.standard_normal((d, len(tau))))[0].T


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["low rank", "exponential", "power law", "noise", "axis-aligned", "student"])
def test_ranks_of_known_gradients_through_the_real_sketch_are_right_or_withheld(kind):
    """Over widths and seeds: no claim is off by more than a quarter, nearly all ranges hold the truth."""
    H, eps = known_increments(kind), (0.1, 0.05, 0.01)
    left = 1 - np.cumsum(np.linalg.svd(H, compute_uv=False) ** 2) / np.square(H).sum()
    truth = [int(np.argmax(left <= e)) + 1 for e in eps]
    claims = []
    for k in (64, 256):
        for seed in range(3):
            S = fold_hash(H, k, seed).astype(np.float64)
            claims += [(f, t, k) for f, t in zip(population.estimate(S.T @ S, eps, len(H)), truth, strict=True)]
    made = [(f, t, k) for f, t, k in claims if np.isfinite(f.value)]
    assert all(abs(f.value - t) <= 0.25 * t + 2 for f, t, _ in made)
    if kind == "axis-aligned":
        assert made == []
    elif kind == "student":
        assert len(made) <= 3
    else:
        assert len([k for *_, k in made if k == 256]) >= 4
        assert np.mean([f.low <= t <= f.high for f, t, _ in made]) >= 0.85


def test_participation_ratio_without_the_sketch_s_bias():
    tau = np.exp(-np.arange(400) / 20)
    truth = tau.sum() ** 2 / np.square(tau).sum()
    found = [population.participation(gaussian_gram(tau, 64, seed)) for seed in range(8)]
    naive = [rank.measures(rank.of_gram(gaussian_gram(tau, 64, seed)))["participation"] for seed in range(8)]
    assert np.mean(found, axis=0)[0] == pytest.approx(truth, rel=0.06)
    assert all(low <= truth <= high for _, low, high in found)
    assert np.mean(naive) < 0.75 * truth
    one = np.outer(*2 * [np.random.default_rng(0).standard_normal(64)])
    assert population.participation(one) == pytest.approx((1, 1, 1))
    assert np.isnan(population.participation(np.zeros((64, 64)))).all()
    assert np.isnan(population.participation(np.ones((1, 1)))).all()


def test_subspace_overlap():
    rng = np.random.default_rng(6)
    A = np.linalg.qr(rng.standard_normal((50, 4)))[0]
    assert subspaces.overlap(A, A @ np.linalg.qr(rng.standard_normal((4, 4)))[0]) == pytest.approx(1)
    random = [subspaces.overlap(A, np.linalg.qr(rng.standard_normal((50, 4)))[0]) for _ in range(300)]
    assert np.mean(random) == pytest.approx(subspaces.random_overlap(50, 4), rel=0.1)


def test_persistent_directions_show_in_windows(tmp_path):
    rng = np.random.default_rng(7)
    basis = np.linalg.qr(rng.standard_normal((64, 8)))[0]
    X = np.cumsum(rng.standard_normal((400, 8)), 0) @ basis.T + 0.01 * rng.standard_normal((400, 64))
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", X[:, None])), ["last"], window=100)
    assert ds.window_overlap.min() > 0.95
    assert float(ds.window_overlap_random) == 8 / 64
