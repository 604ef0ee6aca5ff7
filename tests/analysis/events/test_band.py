"""The running band against the same in plain loops."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlog.analysis.events.band import LEAST, NORMAL, band, median_before


def slowly(values, window):
    """The definition, value by value."""
    kept = [(i, math.log(v)) for i, v in enumerate(values) if math.isfinite(v) and v > 0]
    away, off, score = [], [], [math.nan] * len(values)
    for n, (_, x) in enumerate(kept):
        before = [y for _, y in kept[max(0, n - window) : n]]
        away.append(x - statistics.median(before) if len(before) >= LEAST else math.nan)
        known = [a for a in away[max(0, n - window) : n] if not math.isnan(a)]
        off.append(away[-1] - statistics.median(known) if len(known) >= LEAST // 2 else math.nan)
        usual = [abs(o) for o in off[max(0, n - window) : n] if not math.isnan(o)]
        if len(usual) >= LEAST // 2 and not math.isnan(off[-1]):
            spread = NORMAL * statistics.median(usual)
            score[kept[n][0]] = off[-1] / spread if spread else math.copysign(math.inf, off[-1]) if off[-1] else 0.0
    return score


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(20, 70), st.sampled_from([0.0, 0.02]), st.booleans())
def test_it_is_what_its_definition_says(seed, window, trend, gaps):
    rng = np.random.default_rng(seed)
    values = np.exp(0.3 * rng.normal(size=120) - trend * np.arange(120))
    if gaps:
        values[rng.integers(0, 120, 9)] = rng.choice([np.nan, np.inf, 0.0], 9)
    np.testing.assert_allclose(band(values, window).score, slowly(values, window), rtol=1e-7, atol=1e-9)


def test_a_value_is_judged_by_those_before_alone():
    values = np.exp(np.random.default_rng(0).normal(size=100))
    before = band(values).score
    values[80:] *= 1000
    np.testing.assert_array_equal(band(values).score[:80], before[:80])


def test_units_do_not_matter():
    values = np.exp(np.random.default_rng(1).normal(size=100))
    np.testing.assert_allclose(band(1e-30 * values).score, band(values).score, rtol=1e-6)


def test_a_series_with_negative_values_has_scores_and_no_ratio():
    values = np.random.default_rng(2).normal(size=100)
    values[90] = 40
    found = band(values)
    assert np.nanargmax(found.score) == 90
    assert np.isnan(found.ratio).all()


@pytest.mark.parametrize("values", [[], [1.0], [np.nan] * 60, [0.0] * 60, [2.0] * 60, list(range(39))])
def test_nothing_is_far_out_where_there_is_no_band(values):
    assert not (band(values).score > 0).any()


def test_stationary_series_rarely_leave_their_band():
    rng = np.random.default_rng(3)
    out = sum(int((band(np.exp(0.5 * rng.normal(size=2000))).score > 5.5).sum()) for _ in range(10))
    assert out <= 4  # of 20,000 values


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 8])
def test_a_window_wider_than_the_series_is_all_that_came_before(rows):
    series = np.random.default_rng(rows).normal(size=rows)
    expected = [np.nan if t < 2 else np.median(series[:t]) for t in range(rows)]
    assert np.array_equal(median_before(series, 10**30, 2), expected, equal_nan=True)
