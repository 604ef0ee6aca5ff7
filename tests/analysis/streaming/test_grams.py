"""Products in place, and the Grams of rows and increments that share them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.analysis.streaming import grams
from gradlog.analysis.streaming.grams import Grams, add_gram, add_product
from gradlog.analysis.streaming.recipe import Recipe

SIZES = st.integers(0, 9)


@given(SIZES, st.integers(1, 7), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_gram_is_added_to_the_upper_triangle(m, n, apart, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((m * apart, n + 2)).astype(np.float32)[::apart, 1 : n + 1]
    before = rng.standard_normal((n, n)).astype(np.float32)
    out = before.copy()
    add_gram(rows, out)
    np.testing.assert_allclose(np.triu(out), np.triu(before + rows.T @ rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.tril(out, -1), np.tril(before, -1))


@given(SIZES, st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_a_product_is_added_to_what_is_there(m, n, width, apart, seed):
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((m * apart, n)).astype(np.float32)[::apart]
    right = rng.standard_normal((m, width)).astype(np.float32)
    before = rng.standard_normal((n, width)).astype(np.float32)
    out = before.copy()
    add_product(left, right, out)
    np.testing.assert_allclose(out, before + left.T @ right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "out"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3), np.float32)),
        (np.zeros((3, 2), np.float32).T, np.zeros((3, 3), np.float32)),
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float32)),
        (np.zeros((2, 3), np.float32), np.zeros((3, 3))),
        (np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32).T[::-1]),
        (np.broadcast_to(np.float32(1), (2, 3)), np.zeros((3, 3), np.float32)),
    ],
)
def test_memory_that_blas_would_misread_is_refused(rows, out):
    with pytest.raises(ValueError, match="expected float32"):
        add_gram(rows, out)


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("gram", ["full", "groups"])
@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_both_grams_equal_their_definitions(scatter, gram, rows, seed):
    """Whatever the parities of the tiles; a settled object begins again, and what is there stays."""
    G, k = 2, 3
    rng = np.random.default_rng(seed)
    recipe = Recipe(G, k, gram=gram, pooled=True, scatter=scatter, test=rng.standard_normal((G * k, 2), np.float32))
    X = rng.standard_normal((sum(rows), G * k), np.float32)
    h = np.diff(X, axis=0, prepend=X[:1])
    sums, found, start = recipe.zeros(), Grams(recipe), 0
    for m in rows:
        found.add(X[start : start + m], h[start : start + m], sums)
        start += m
        if m % 2:
            found.settle(sums)
    found.add_increment(X[0].astype(np.float64))
    found.settle(sums)
    found.settle(sums)
    H = np.concatenate([h, X[:1]]).astype(np.float64)
    for suffix, A in (("", H), ("_rows", X.astype(np.float64))) if scatter else (("", H),):
        cube, whole = A.reshape(-1, G, k), A.T @ A
        blocks = np.stack([c.T @ c for c in cube.swapaxes(0, 1)])
        expected = {"gram": whole if gram == "full" else blocks, "image": whole @ recipe.test}
        expected["pooled"] = cube.sum(1).T @ cube.sum(1)
        for name, value in expected.items():
            got = sums[name + suffix]
            upper = (lambda x: x) if name == "image" else np.triu
            np.testing.assert_allclose(upper(got), upper(value), rtol=1e-5, atol=1e-5, err_msg=name + suffix)


def test_long_sums_do_not_stay_in_float32(monkeypatch):
    """Rows of ones: beyond 2^24 of them a float32 sum stands still."""
    recipe = Recipe(1, 1, gram="full")
    sums, found, ones = recipe.zeros(), Grams(recipe), np.ones((grams.ROWS, 1), np.float32)
    for _ in range(2**24 // grams.ROWS + 1):
        found.add(ones, ones, sums)
    assert sums["gram"][0, 0] == 2**24 + grams.ROWS
