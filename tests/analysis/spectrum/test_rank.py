"""Certified intervals of the rank, and the randomized SVD that they come from."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis.spectrum import rank
from gradlog.analysis.spectrum.nystrom import refine
from gradlog.analysis.spectrum.nystrom import test_matrix as random_block
from tests.helpers import reference

spectra = st.one_of(
    st.floats(0.3, 3).map(lambda a: np.arange(1, 61.0) ** -a),
    st.integers(1, 60).map(lambda r: np.r_[np.ones(r), np.zeros(60 - r)]),
    st.tuples(st.integers(1, 20), st.floats(1, 1e6)).map(lambda x: np.r_[np.full(x[0], x[1]), np.ones(60 - x[0])]),
    st.lists(st.floats(0, 1e3, width=32), min_size=60, max_size=60).map(np.array),
)


def randomized(H, block, passes, eps=(), seed=0, leading=None):
    """Decomposition of a matrix in memory."""
    omega = random_block(H.shape[1], block, seed)
    image = lambda V: (H.T @ (H @ V.astype(H.dtype))).astype(float)  # noqa: E731
    return refine(
        image, omega, image(omega), float(np.square(H, dtype=float).sum()), passes, eps, rows=len(H), leading=leading
    )


@settings(max_examples=80)
@given(spectra, st.integers(1, 40), st.integers(1, 3), st.sampled_from([0.3, 0.1, 0.05, 0.01]), st.integers(0, 99))
def test_certificates_are_never_violated(energies, block, passes, eps, seed):
    if energies.sum() < 1e-6:
        return
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((90, 60)))[0]
    V = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    H = ((U * np.sqrt(energies)) @ V.T).astype(np.float32)
    found = randomized(H, block, passes, seed=seed)
    low, high = rank.rank_interval(found.spectrum, eps)
    truth = np.sort(np.linalg.svd(H.astype(float), compute_uv=False) ** 2)[::-1]
    # within float32 rounding of the threshold either neighbour is right
    least = int(np.searchsorted(np.cumsum(truth), (1 - eps - 1e-5) * truth.sum()))
    most = int(np.searchsorted(np.cumsum(truth), (1 - eps + 1e-5) * truth.sum())) + 1
    assert low <= most
    assert not high < least
    assert (found.spectrum.energies <= truth[: len(found.spectrum.energies)] + 1e-5 * truth.sum()).all()


def test_a_certificate_that_ignores_the_unseen_energy_is_caught():
    """Negative control: the same check rejects an interval that takes the Nystrom values for the whole spectrum."""
    H = np.random.default_rng(0).standard_normal((300, 60))
    few = randomized(H, 10, 1).spectrum
    pretended = rank.Spectrum(few.energies, float(few.energies.sum()))
    assert rank.rank_interval(pretended, 0.1)[1] < reference.rank_at(H, 0.1)
    assert not rank.rank_interval(few, 0.1)[1] < reference.rank_at(H, 0.1)


def test_one_pass_is_enough_for_a_matrix_of_low_rank():
    rng = np.random.default_rng(1)
    H = (rng.standard_normal((500, 12)) @ rng.standard_normal((12, 80))).astype(np.float32)
    s = np.linalg.svd(H.astype(float), compute_uv=False)
    found = randomized(H, block=20, passes=3, eps=(0.1, 0.01))
    assert found.passes == 1
    assert found.spectrum.unseen < 1e-4 * found.spectrum.total
    np.testing.assert_allclose(np.sqrt(found.spectrum.energies[:12]), s[:12], rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(H @ found.components[:, :12], axis=0), s[:12], rtol=1e-3)


def test_more_passes_close_an_open_interval():
    rng = np.random.default_rng(2)
    H = rng.standard_normal((400, 200)) * np.arange(1, 201.0) ** -0.9
    one, three = randomized(H, 30, 1), randomized(H, 30, 3)
    assert three.spectrum.unseen < 0.5 * one.spectrum.unseen
    low, high = rank.rank_interval(three.spectrum, 0.05)
    assert low <= reference.rank_at(H, 0.05) <= high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(0, 1), st.sampled_from([0.3, 0.1, 0.01]))
def test_an_open_rank_still_has_a_certified_upper_bound(seed, decay, mixing, eps):
    """Of a spectrum too flat for the listed energies, from their number and from the Grams of the groups."""
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((60, 24)) / (1 + np.arange(24)) ** decay
    H = (1 - mixing) * H + mixing * H @ np.linalg.qr(rng.standard_normal((24, 24)))[0]
    found = randomized(H, block=4, passes=1).spectrum
    blocks = np.stack([H[:, a : a + 8].T @ H[:, a : a + 8] for a in (0, 8, 16)])
    tight = dataclasses.replace(found, leading=rank.pinched(blocks))
    truth = reference.rank_at(H, eps)
    low, high = rank.rank_interval(found, eps)
    assert low <= truth <= rank.rank_interval(tight, eps)[1] <= high <= 24
    unsized = rank.rank_interval(dataclasses.replace(found, size=0), eps)[1]
    assert np.isnan(unsized) or unsized == high


def test_no_further_pass_is_made_where_the_grams_of_the_groups_close_the_interval():
    energies = 0.5 ** np.arange(24)
    H = np.diag(np.sqrt(energies))
    leading = rank.pinched(energies.reshape(24, 1, 1))
    alone, helped = (randomized(H, 10, 2, (0.02,), leading=own) for own in (None, leading))
    assert (alone.passes, helped.passes) == (2, 1)
    assert rank.rank_interval(helped.spectrum, 0.02) == (reference.rank_at(H, 0.02),) * 2


def test_groups_that_do_not_move_together_give_the_rank_itself():
    H = np.linalg.qr(np.random.default_rng(0).standard_normal((90, 24)))[0]
    found = randomized(H, block=4, passes=1).spectrum
    tight = dataclasses.replace(found, leading=rank.pinched(np.stack([np.eye(8)] * 3)))
    assert rank.rank_interval(tight, 0.1)[1] == reference.rank_at(H, 0.1) == 22
