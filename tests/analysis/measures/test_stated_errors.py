"""Whether stated errors are true ones, on hard cases of fixed seeds that no constant was chosen on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gradlog.analysis.common.jackknife import jackknife, quantile
from gradlog.analysis.spectrum import population


def along_one_direction(rng, k):
    """Return what k coordinates say of a path length along one direction and of an energy in a hundred others."""
    path = np.square(rng.standard_normal(k))
    power = path + np.square(rng.standard_normal((100, k))).sum(0)
    return path, power


@pytest.mark.parametrize("k", [32, 64, 256])
def test_intervals_hold_the_truth_where_one_direction_carries_all(k):
    """The hardest case: every coordinate contributes one square. Usual degrees of freedom miss too often at small k."""
    rng, draws, hits, usual = np.random.default_rng(20), 4000, 0, 0
    for _ in range(draws):
        value, low, high = jackknife(np.divide, *along_one_direction(rng, k))
        narrower = stats.t.ppf(0.975, k - 1) / quantile(k)
        hits += low <= 1 / 101 <= high
        usual += abs(value - 1 / 101) <= (high - low) / 2 * narrower
    assert 0.93 <= hits / draws <= 0.98
    assert usual < hits
    if k == 32:
        assert usual / draws < 0.925


def test_the_degrees_of_freedom_are_those_of_a_variance_of_squares():
    """A variance of k squares of normal values varies as that of k / 7 normal ones."""
    k = 350
    squares = np.square(np.random.default_rng(21).standard_normal((40_000, k))).var(axis=1, ddof=1)
    degrees = 2 * squares.mean() ** 2 / squares.var()
    assert degrees == pytest.approx((k - 1) / 7, rel=0.1)
    assert quantile(k) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)
    assert np.isfinite(quantile(4))


HELD_OUT = {
    "power 1.35": lambda i: i**-1.35,
    "power 2.5": lambda i: i**-2.5,
    "exponential": lambda i: np.exp(-i / 35),
    "two levels": lambda i: np.where(i <= 20, 1000.0, 1.0),
    "four levels": lambda i: np.select([i <= 2, i <= 12, i <= 72], [2000.0, 100.0, 8.0], 1.0),
    "quadratic": lambda i: (1 - (i - 1) / len(i)) ** 2,
}
EPS = (0.1, 0.05, 0.01)


def claims(n, k, seed):
    """Estimates of held-out spectra of n directions beside the truth."""
    for number, family in enumerate(HELD_OUT.values()):
        tau = family(np.arange(1.0, n + 1))
        S = np.random.default_rng([seed, number, n, k]).standard_normal((k, n)) / np.sqrt(k)
        left = tau.sum() - np.cumsum(tau)
        truth = [int(np.argmax(left <= e * tau.sum())) + 1 for e in EPS]
        yield from zip(population.estimate((S * tau) @ S.T, EPS, n), truth, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "made"), [(64, 0.1), (128, 0.3), (256, 0.6)])
def test_a_range_that_is_given_holds_the_rank(k, made):
    found = [pair for n in (200, 600, 2000) for seed in range(2) for pair in claims(n, k, seed)]
    given = [(e, r) for e, r in found if np.isfinite(e.value)]
    assert len(given) >= made * len(found)
    assert np.mean([np.floor(e.low) <= r <= np.ceil(e.high) for e, r in given]) >= 0.95


def test_the_last_per_cent_of_a_steep_spectrum_is_not_read_low():
    """What a grid that ends too early does: it lumps the faint directions into fewer, stronger ones."""
    i = np.arange(1.0, 201)
    tau, k = i**-2.0, 512
    truth = int(np.argmax(tau.sum() - np.cumsum(tau) <= 0.01 * tau.sum())) + 1
    S = np.random.default_rng(22).standard_normal((k, 200)) / np.sqrt(k)
    (found,) = population.estimate((S * tau) @ S.T, (0.01,), 200)
    assert abs(found.value - truth) <= 0.08 * truth


def test_a_narrow_sketch_claims_no_rank_above_its_width():
    tau = np.ones(2000)
    for seed in range(8):
        S = np.random.default_rng(seed).standard_normal((64, 2000)) / 8
        assert all(not e.value > 64 for e in population.estimate((S * tau) @ S.T, EPS, 2000))
