"""The rank of shuffled steps, against the same steps really shuffled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.spectrum.shuffled_rank import Rotations, rotated
from tests.helpers import reference, stores

EPS = (0.1, 0.05, 0.01)
SAMPLES = sorted((Path(__file__).parents[3] / "sample_logs").glob("*.zarr"))


def scatter(G):
    """Spectrum of the rows about their mean."""
    energies = np.linalg.eigvalsh((G - G.mean(0)).T @ (G - G.mean(0)))[::-1].clip(0)
    return Spectrum(energies, float(energies.sum())).within(min(len(G) - 1, len(energies)))


def independent(T, n, decay=0.0, seed=0):
    """Rows of independent noise whose directions have scales 1, 2^-decay, 3^-decay, ..."""
    return np.random.default_rng(seed).standard_normal((T, n)) * np.arange(1, n + 1.0) ** -decay


def walk(T, n, seed=0):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((T, n // 2)), axis=0) @ rng.standard_normal((n // 2, n))


def heavy(T, n, seed=0):
    return independent(T, n, 0.3, seed) * np.random.default_rng(seed + 1).standard_t(2, (T, 1))


CASES = {
    "fewer rows than columns": independent(80, 128),
    "as many": independent(129, 128, 0.3),
    "twice as many": independent(260, 128, 0.5),
    "four times as many": independent(512, 128),
    "steep": independent(300, 128, 1.0),
    "with a mean": independent(200, 64) + 3 * independent(1, 64, seed=9),
    "a walk": walk(200, 64),
    "heavy tails": heavy(200, 64),
}


@pytest.mark.parametrize("name", CASES)
def test_rotations_agree_with_rows_that_are_really_shuffled(name):
    G = CASES[name]
    lengths = np.array([len(G)])
    truth = reference.shuffled_ranks(G, lengths, EPS, draws=40)
    found = Rotations().rank(scatter(G), lengths, EPS)
    np.testing.assert_allclose(found.mean, truth.mean(axis=0), atol=0.6)  # the reference itself errs by 0.2
    inside = (truth >= np.floor(found.low)) & (truth <= np.ceil(found.high))
    assert inside.mean() >= 0.85


def test_the_rank_of_the_expected_gram_is_caught():
    """Negative control: it lies far above the rank of any order."""
    G = CASES["fewer rows than columns"]
    truth = reference.shuffled_ranks(G, np.array([len(G)]), EPS, draws=40)
    expected = [reference.rank_at(G - G.mean(0), e) for e in EPS]
    assert (np.array(expected) > truth.max(axis=0) + 5).all()


def test_increments_do_not_cross_from_one_chain_to_the_next():
    lengths = np.array([3] * 20 + [1] * 10 + [30, 20])
    G = independent(int(lengths.sum()), 60, 0.3)
    truth = reference.shuffled_ranks(G, lengths, EPS, draws=40).mean(axis=0)
    np.testing.assert_allclose(Rotations().rank(scatter(G), lengths, EPS).mean, truth, atol=0.6)
    whole = Rotations().rank(scatter(G), np.array([len(G)]), EPS).mean
    assert (whole > truth + 2).all()


def test_fifty_rows_per_direction_are_too_few_for_the_closed_form():
    G = independent(2400, 48)
    found = Rotations().rank(scatter(G), np.array([2400]), EPS)
    truth = reference.shuffled_ranks(G, np.array([2400]), EPS, draws=4).mean(axis=0)
    np.testing.assert_allclose(found.mean, truth, atol=0.6)


def test_many_rows_take_the_closed_form_and_it_holds():
    G = independent(6_500, 6, 0.3)
    found = Rotations().rank(scatter(G), np.array([6_500]), EPS)
    assert found.method == "closed form"
    truth = reference.shuffled_ranks(G, np.array([6_500]), EPS, draws=3).mean(axis=0)
    np.testing.assert_allclose(found.mean, truth, atol=0.6)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_a_reduced_problem_errs_by_little(decay):
    G = independent(1500, 700, decay, seed=3)
    found = Rotations().rank(scatter(G), np.array([1500]), EPS)
    assert found.method == "reduced rotations" or decay == 1.0
    truth = reference.shuffled_ranks(G, np.array([1500]), EPS, draws=2).mean(axis=0)
    np.testing.assert_allclose(found.mean, truth, atol=1.5)


@pytest.mark.parametrize(("decay", "below"), [(0.4, 1.0), (1.0, 1.0), (1.0, 0.98), (2.0, 0.9)])
def test_what_leading_directions_leave_open_is_a_bracket_that_holds_the_rank(decay, below):
    """Also where they are seen with too little energy, as after a single randomized pass."""
    G = independent(400, 96, decay)
    whole = scatter(G)
    seen = Spectrum(below * whole.energies[:40], whole.total, complete=False, size=whole.size)
    truth = reference.shuffled_ranks(G, np.array([400]), EPS, draws=10).mean(axis=0)
    found = Rotations().rank(seen, np.array([400]), EPS)
    assert found.method == "bracket"
    assert (found.low <= truth).all()
    assert (truth <= found.high).all()
    known = np.isfinite(found.mean)
    np.testing.assert_allclose(found.mean[known], truth[known], rtol=0.05, atol=0.6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 60), st.integers(0, 999))
def test_rotations_keep_trace_and_bounds(N, m, seed):
    """Mean over many draws is mean(mu) I; with as many columns as rows the eigenvalues are mu themselves."""
    mu = np.sort(np.random.default_rng(seed).uniform(0, 4, N))
    m = min(m, N)
    drawn = rotated(mu, m, np.random.default_rng(seed))
    np.testing.assert_allclose(drawn, drawn.T, atol=1e-7)
    if m == N:
        np.testing.assert_allclose(np.linalg.eigvalsh(drawn), mu, atol=1e-6)
    if 2.5 * m > N:
        assert np.linalg.eigvalsh(drawn)[0] >= mu[0] - 1e-6
        assert np.linalg.eigvalsh(drawn)[-1] <= mu[-1] + 1e-6


def test_the_same_seed_gives_the_same_numbers_whatever_was_drawn_before():
    G = CASES["twice as many"]
    lengths, used = np.array([len(G)]), Rotations(3)
    used.rank(scatter(G[:, :20]), lengths, EPS)
    used.rank(scatter(G[:100]), np.array([100]), EPS)
    again, alone = used.rank(scatter(G), lengths, EPS), Rotations(3).rank(scatter(G), lengths, EPS)
    other = Rotations(4).rank(scatter(G), lengths, EPS)
    np.testing.assert_array_equal(again.mean, alone.mean)
    assert (other.mean != alone.mean).any()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
def test_samples_show_the_rank_that_shuffling_them_shows(path):
    run = open_run(path)
    G = run.rows.read(0, run.n_steps).astype(float)
    found = to_json(analyze(run, "last", by_group=False))
    draws = 30 if run.n_steps <= 512 else 4
    truth = reference.shuffled_ranks(G, np.diff(run.contiguous_ranges).ravel(), EPS, draws).mean(axis=0)
    shown = [found["rank"][f"{e:g}"]["null"] for e in EPS]
    np.testing.assert_allclose(shown, truth, atol=0.6)
    assert found["rank_null_method"] == "rotations"


def test_windows_prefixes_and_groups_have_their_own(tmp_path):
    G = walk(600, 32, seed=5).reshape(600, 2, 16) + independent(600, 32, seed=6).reshape(600, 2, 16)
    path = stores.write_run(tmp_path / "r.zarr", G)
    ds = analyze(str(path), "last", window=60, prefixes=2)
    G = open_run(path).rows.read(0, 600).astype(float)
    scopes = {
        "": G,
        "window": G[119:180],
        "prefix": G[:300],
        "group": G[:, 16:],
        "window_group": G[119:180, 16:],
        "prefix_group": G[:300, 16:],
    }
    at = {"window": 2, "prefix": 0, "group": 1}
    for scope, rows in scopes.items():
        label = f"{scope}_" if scope else ""
        here = ds.isel({dim: at[dim] for dim in scope.split("_") if dim})
        truth = reference.shuffled_ranks(rows, np.array([len(rows)]), EPS, draws=40)
        np.testing.assert_allclose(here[f"{label}rank_null"], truth.mean(axis=0), atol=0.6)
        assert (here[f"{label}rank_null_low"] <= here[f"{label}rank_null"]).all()
        assert (here[f"{label}rank_null"] <= here[f"{label}rank_null_high"]).all()


@pytest.mark.parametrize("route", ["gram", "rows", "nystrom", "light"])
def test_every_route_shows_it(tmp_path, route):
    """Of a run too long to be permuted; what light passes see of a window leaves a bracket."""
    X = (walk(600, 48, seed=7) + 3 * independent(600, 48, seed=8)).reshape(600, 3, 16)
    path = stores.write_run(tmp_path / "r.zarr", X)
    light = {"light": True} if route == "light" else {"svd": route}
    ds = analyze(str(path), "last", window=150, burn_in=1, **light)
    G = open_run(path).rows.read(0, 600).astype(float)
    for label, rows, here in (("", G, ds), ("window_", G[150:301], ds.isel(window=1))):
        truth = reference.shuffled_ranks(rows, np.array([len(rows)]), EPS, draws=20).mean(axis=0)
        np.testing.assert_allclose(here[f"{label}rank_null"], truth, atol=0.7)
    assert to_json(ds)["rank_null_method"] == "rotations"


def test_a_window_has_one_increment_more_than_its_rows_differ_in(tmp_path):
    """Of 60 rows and the one before them, fewer than columns: 60 increments in 60 directions, not 59."""
    G = independent(600, 96, 0.2, seed=4)
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", G[:, None])), "last", window=60)
    truth = [
        reference.shuffled_ranks(G[a - 1 : a + 60], np.array([61]), EPS, draws=40).mean(0) for a in range(60, 600, 60)
    ]
    np.testing.assert_allclose(ds.window_rank_null[1:].mean("window"), np.mean(truth, axis=0), atol=0.4)


def test_independent_noise_lies_within_its_random_orders(tmp_path):
    """The case that the rank of the expected Gram turned round: 91 certified, 113 printed beside it."""
    rng = np.random.default_rng(1)
    G = rng.standard_normal((200, 5000)) @ rng.standard_normal((5000, 256)) / 16
    ds = analyze(str(stores.write_run(tmp_path / "noise.zarr", G[:, None])), "last")
    inside = (ds.rank_null_low - 1 <= ds["rank"]) & (ds["rank"] <= ds.rank_null_high + 1)
    assert inside.all()


def test_an_eps_below_the_rounding_has_no_shuffled_rank(tmp_path):
    G = independent(900, 16)
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", G[:, None])), "last", eps=[0.1, 1e-7])
    assert np.isfinite(ds.rank_null.sel(eps=0.1))
    assert np.isnan(ds.rank_null.sel(eps=1e-7))
