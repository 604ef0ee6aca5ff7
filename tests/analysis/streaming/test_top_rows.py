"""Which rows carry a sum: the same answer however the rows are split, and near the exact one in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis.streaming import top_rows
from gradlog.analysis.streaming.top_rows import DISTINCT, LARGEST, NONE, Carriers


def fewest(values, share):
    """Fewest rows by sorting all of them."""
    ordered = np.cumsum(np.sort(values.astype(np.float64))[::-1])
    return int(np.searchsorted(ordered, share * ordered[-1])) + 1 if len(values) and ordered[-1] > 0 else 0


def split(values, edges):
    parts = [Carriers.of(values[a:b]) for a, b in zip([0, *edges], [*edges, len(values)], strict=True)]
    return parts, [0, *edges]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.lists(st.integers(1, 399), max_size=5), st.booleans())
def test_any_split_gives_the_same(seed, rows, cuts, ties):
    limits = top_rows.DISTINCT, top_rows.LARGEST
    top_rows.DISTINCT, top_rows.LARGEST = 32, 10
    try:
        values = np.random.default_rng(seed).gamma(0.5, size=rows).astype(np.float32)
        values = np.round(values, 1) if ties else values
        parts, starts = split(values, sorted({c for c in cuts if c < rows}))
        whole = Carriers.of(values)
        left = NONE
        for part, start in zip(parts, starts, strict=True):
            left = left.merge(part, start)
        right = NONE
        for part, start in zip(parts[::-1], starts[::-1], strict=True):
            right = Carriers(part.at + start, *part[1:]).merge(right)
        for found in (left, right):
            for one, other in zip(found, whole, strict=True):
                np.testing.assert_array_equal(one, other)
        kept = sorted(range(rows), key=lambda i: (-values[i], i))[:10]
        assert whole.at.tolist() == sorted(kept)
        assert len(whole.values) <= 32
    finally:
        top_rows.DISTINCT, top_rows.LARGEST = limits


@pytest.mark.parametrize("rows", [0, 1, 2, 5000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_exact_while_the_values_fit(rows, share):
    values = np.random.default_rng(rows).gamma(0.3, size=rows).astype(np.float32)
    assert Carriers.of(values).fewest(share) == fewest(values, share)
    assert Carriers.of(np.zeros(rows, np.float32)).fewest(share) == 0


@pytest.mark.parametrize("kind", ["chi2", "lognormal", "constant"])
def test_near_the_exact_answer_of_many_rows(kind):
    rng, rows = np.random.default_rng(0), 300_000
    values = {"chi2": lambda: rng.chisquare(64, rows), "lognormal": lambda: rng.lognormal(0, 2, rows),
              "constant": lambda: np.full(rows, 3.0)}[kind]().astype(np.float32)  # fmt: skip
    found = Carriers.of(values)
    assert len(found.values) <= DISTINCT
    assert len(found.at) == LARGEST
    assert found.counts.sum() == rows
    assert found.fewest(0.5) == pytest.approx(fewest(values, 0.5), rel=1e-3)
    assert sum(np.asarray(x).nbytes for x in found) < 120_000
