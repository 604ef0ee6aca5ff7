"""Ramps are the numbers they were made of, whatever the blocks, and few where the numbers are regular."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.analysis.reading.step_runs import Ramps

numbers = st.lists(st.integers(-3, 12), max_size=40)


@given(numbers, st.integers(0, 3), st.lists(st.integers(0, 40), max_size=3), st.integers(0, 40))
def test_equal_to_the_numbers(found, stride, cuts, rows):
    values = np.cumsum(found) if found else np.empty(0, np.int64)
    edges = [0, *sorted(min(c, len(values)) for c in cuts), len(values)]
    blocks = [values[a:b] for a, b in itertools.pairwise(edges)]
    ramps = Ramps.of(blocks, stride)
    joined = Ramps.joined([Ramps.of([b], stride) for b in blocks], stride)
    for x in (ramps, joined):
        assert len(x) == len(values)
        np.testing.assert_array_equal(x.values(), values)
        assert len(x.starts) == min(len(values), 1) + np.count_nonzero(np.diff(values) != stride)
        np.testing.assert_array_equal(x.jumps()[:, 1] - x.jumps()[:, 0], [d for d in np.diff(values) if d != stride])
        assert x.increases() == bool((np.diff(values) > 0).all())
    rows = min(rows, len(values))
    np.testing.assert_array_equal(ramps.longer(rows).values(), values[:rows])
    for place in (0, -1, len(values) // 2):
        if len(values):
            assert ramps[place] == values[place]
    with pytest.raises(IndexError):
        ramps[len(values)]


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 3), st.integers(-5, 160))
def test_how_many_are_below(gaps, stride, value):
    values = np.cumsum(gaps) if gaps else np.empty(0, np.int64)
    assert Ramps.of([values], stride).below(value) == np.count_nonzero(values < value)


def test_a_long_regular_run_is_one_ramp():
    ramps = Ramps.of((np.arange(a, a + 1000) * 5 for a in range(0, 10**6, 1000)), 5)
    assert len(ramps.starts) == 1
    assert len(Ramps.count(10**12)) == 10**12
    assert Ramps.count(10**12)[-1] == 10**12 - 1
