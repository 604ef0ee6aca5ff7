"""The one-pass summary: a monoid, equal to the definitions whatever the cuts."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.predictors.best_ema import BestEMA
from gradlog.analysis.streaming.kernel import SUM, squares, summarise, tile_rows
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.summary import Summary, merge
from gradlog.analysis.streaming.totals import add, contributions, moments
from tests.helpers import reference

N = 6
BETAS = (0.0, 0.9, 0.99)
RECIPE = Recipe(2, 3, BETAS, lags=4, gram="full", pooled=True, scatter=True, test=np.eye(N, 2, dtype=np.float32))


def element(X, chains, recipe=RECIPE):
    """Summary of rows in which every chain starts after a gap."""
    whole = Summary(recipe)
    for a, b in chains:
        whole.absorb(Summary.gap(recipe)).absorb(summarise(X[a:b], recipe))
    return whole


def closed(summary):
    return contributions([summary])[0]


def assert_same(a, b, rtol=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        if name == "path":
            np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=rtol)
            continue
        if name == "epochs":
            (x, pairs), (y, others) = a[name].closed(), b[name].closed()
            np.testing.assert_allclose(x, y, rtol=rtol)
            assert pairs == others
            continue
        scale = max(1.0, float(np.abs(b[name]).max(initial=0)))
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=rtol * scale, err_msg=name)


def check_against_definitions(totals, X, chains, recipe=RECIPE):
    G = X.astype(np.float64)
    P = lambda *args: reference.path_length(G, chains, *args)  # noqa: E731
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5 * np.square(G).sum())  # noqa: E731
    rows = np.concatenate([np.arange(a, b) for a, b in chains]) if chains else np.empty(0, int)
    H = reference.increments(G, chains) if chains else np.empty((0, G.shape[1]))
    assert totals["rows"] == len(rows)
    assert totals["pairs"] == len(H)
    close(totals["energy"], np.square(G[rows]).sum(0))
    close(totals["total"], G[rows].sum(0))
    close(totals["last"], P("last"))
    close(totals["trend"], P("trend"))
    close(totals["gram"], H.T @ H)
    close(totals["gram_rows"], G[rows].T @ G[rows])
    close(totals["image"], (H.T @ H) @ recipe.test)
    pooled = H.reshape(len(H), recipe.groups, recipe.k).sum(1)
    close(totals["pooled"], pooled.T @ pooled)
    for i, beta in enumerate(recipe.betas):
        close(totals["p0"][i], P(f"ema({beta})"))
    if recipe.columns:
        path = [np.square(reference.errors(G[a:b], "last")).sum(1) for a, b in chains]
        expected = np.concatenate([np.empty(0), *path])
        close(totals["path"], expected)
    w = np.concatenate([[1.0], -np.linspace(0.6, -0.3, recipe.lags)])
    M = moments(totals, recipe.lags, slice(None))
    close(np.einsum("i,ijn,j->n", w, M, w), P("linear", -w[1:]))


@st.composite
def logs(draw):
    """Rows, and cut points that split them into chains."""
    rows = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = (rng.standard_normal((rows, N)) + draw(st.sampled_from([0.0, 10.0]))).astype(np.float32)
    ends = sorted({rows, *draw(st.lists(st.integers(1, rows), max_size=4))})
    chains = list(zip([0, *ends[:-1]], ends, strict=True))
    return X, chains


@settings(max_examples=60)
@given(logs())
def test_equals_the_definitions(log):
    X, chains = log
    check_against_definitions(closed(element(X, chains)), X, chains)


@settings(max_examples=40)
@given(logs())
def test_compiled_loops_equal_the_definitions(log):
    pytest.importorskip("numba")
    X, chains = log
    compiled = dataclasses.replace(RECIPE, kernel="numba")
    found = element(X, chains, compiled)
    assert found.kernels == {"numba"}
    check_against_definitions(closed(found), X, chains)


@settings(max_examples=60)
@given(logs(), st.lists(st.integers(0, 40), max_size=6), st.randoms(use_true_random=False))
def test_any_bracketing_of_any_pieces_gives_the_same(log, cuts, random):
    X, chains = log
    starts = {a for a, _ in chains}
    edges = sorted({0, len(X), *(c for c in cuts if c < len(X)), *starts})
    pieces = [Summary(RECIPE)]
    for a, b in itertools.pairwise(edges):
        if a in starts:
            pieces.append(Summary.gap(RECIPE))
        pieces.append(summarise(X[a:b], RECIPE))
    while len(pieces) > 1:
        i = random.randrange(len(pieces) - 1)
        pieces[i : i + 2] = [merge(pieces[i], pieces[i + 1])]
    assert_same(closed(pieces[0]), closed(element(X, chains)))


@settings(max_examples=40)
@given(logs(), st.lists(st.integers(0, 40), max_size=5))
def test_panes_add_up_to_the_run(log, cuts):
    X, chains = log
    edges = sorted({0, len(X), *(c for c in cuts if c < len(X))})
    panes = []
    for a, b in itertools.pairwise(edges):
        pane = Summary(RECIPE)
        for low, high in chains:
            if a < high and low < b:
                if a <= low:
                    pane.absorb(Summary.gap(RECIPE))
                pane.absorb(summarise(X[max(a, low) : min(b, high)], RECIPE))
        panes.append(pane)
    assert_same(add(contributions(panes)), closed(element(X, chains)))


def test_merge_leaves_its_arguments_alone_and_knows_the_identity():
    X = np.random.default_rng(0).standard_normal((9, N)).astype(np.float32)
    a, b = summarise(X[:4], RECIPE), summarise(X[4:], RECIPE)
    before = {name: value.copy() for name, value in a.sums.items()}
    merged = merge(a, b)
    assert_same(a.sums, before, 0)
    one = Summary(RECIPE)
    assert_same(merge(one, merged).sums, merge(merged, one).sums, 0)


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_long_blocks_with_ragged_tiles(kernel):
    if kernel == "numba":
        pytest.importorskip("numba")
    recipe = dataclasses.replace(RECIPE, kernel=kernel)
    rows = 3 * tile_rows(N) + SUM + 5
    X = np.cumsum(np.random.default_rng(1).standard_normal((rows, N)), axis=0).astype(np.float32)
    check_against_definitions(closed(element(X, [(0, rows)], recipe)), X, [(0, rows)], recipe)


def test_compiled_loops_take_wide_rows_in_strips():
    pytest.importorskip("numba")
    X = np.random.default_rng(2).standard_normal((75, 600)).astype(np.float32)
    recipes = [Recipe(2, 300, BETAS, lags=8, gram="groups", kernel=kernel) for kernel in ("numpy", "numba")]
    plain, compiled = (closed(element(X, [(0, 3), (3, 75)], r)) for r in recipes)
    assert_same(compiled, plain)


@pytest.mark.parametrize("kind", ["noise", "walk", "tone", "slow tone", "alternating", "constant", "mixture"])
def test_best_ema_is_exact_between_its_nodes(kind):
    """The path length at beta* is that of the definition, and no other beta has a shorter one.

    To 5e-5 of the energy: sums of 32 rows in float32 round by 2e-5, on each processor otherwise.
    """
    t, rng = np.arange(1500), np.random.default_rng(3)
    signals = {
        "noise": rng.standard_normal(1500),
        "walk": np.cumsum(rng.standard_normal(1500)),
        "tone": np.sin(0.1 * t),
        "slow tone": np.sin(0.003 * t),
        "alternating": (-1.0) ** t,
        "constant": np.ones(1500),
        "mixture": 0.05 * np.cumsum(rng.standard_normal(1500)) + rng.standard_normal(1500),
    }
    X = signals[kind][:, None].astype(np.float32)
    recipe = Recipe(1, 1, BestEMA.betas)
    fitted = BestEMA().fit(Evidence(closed(element(X, [(0, 1500)], recipe)), recipe.betas))
    energy = np.square(X, dtype=np.float64).sum()
    kappa = lambda beta: reference.path_length(X.astype(float), [(0, 1500)], f"ema({beta!r})").sum() / energy  # noqa: E731
    assert fitted.path.sum() / energy == pytest.approx(kappa(float(fitted.beta)), abs=5e-5)
    others = [kappa(float(b)) for b in 1 - np.geomspace(1, 1 / 1024, 25)]
    assert fitted.path.sum() / energy <= min(others) + 5e-5


def test_a_predictable_run_does_not_lose_its_small_errors():
    """Errors a millionth of the energy come out to four digits: nothing large is subtracted."""
    t = np.linspace(0, 3, 5000)[:, None]
    X = (np.sin(t + np.arange(N)) + 3).astype(np.float32)
    totals = contributions([Summary.gap(RECIPE), summarise(X[:1777], RECIPE), summarise(X[1777:], RECIPE)])
    G = X.astype(np.float64)
    body = add(totals)
    for name, got in [("last", body["last"]), ("ema(0.9)", body["p0"][1])]:
        first = np.square(G[0])
        expected = reference.path_length(G, [(0, len(G))], name)
        np.testing.assert_allclose(got.sum() - first.sum(), expected.sum() - first.sum(), rtol=1e-4)


def test_float32_sums_stay_short():
    """A sum over a million equal terms would stall in float32; this one is exact to 1e-6."""
    X = np.full((2**17, 1), 1.1, np.float32)
    assert squares(X, X)[0] == pytest.approx(len(X) * float(np.float32(1.1)) ** 2, rel=1e-6)
