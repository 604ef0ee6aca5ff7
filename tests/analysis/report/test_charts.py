"""What the charts are made of: binned series, shares by group and time, axes, labels, verdicts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.analysis import analyze, open_run
from gradlog.analysis.common.text import PAGE, abbreviate, printable
from gradlog.analysis.measures.interpretation import sentence
from gradlog.analysis.reading.binning import binned, gradient_norm, scalar
from gradlog.analysis.report.axes import Axis, exact, linear, logarithmic, tick_text
from gradlog.analysis.report.figure import Band, Dots, Figure, Line
from gradlog.analysis.report.svg import apart, svg
from gradlog.analysis.results.group_time import group_time
from tests.helpers import reference, stores

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=60), st.integers(1, 20))
def test_binning_keeps_extremes_and_order(values, bins):
    column = np.array(values)
    found = binned(np.arange(len(column)), column, bins)
    assert len(found.first) == min(bins, len(column))
    assert found.first[0] == 0
    assert found.last[-1] == len(column) - 1
    assert (found.first[1:] == found.last[:-1] + 1).all()
    for first, last, middle, low, high in zip(
        found.first, found.last, found.middle, found.low, found.high, strict=True
    ):
        inside = [x for x in values[first : last + 1] if not np.isnan(x)]
        if inside:
            assert (low, high, middle) == (min(inside), max(inside), np.median(inside))
        else:
            assert np.isnan([low, high, middle]).all()


def test_short_columns_stay_as_they_are(run_path):
    run = open_run(str(run_path))
    assert gradient_norm(run).rows == 1
    assert scalar(run, "loss").middle[0] == 3
    assert scalar(run, "accuracy") is None
    assert binned(np.arange(1000), np.zeros(1000)).rows > 1


@pytest.mark.parametrize("predictor", ["last", "ema(0.9)", "trend"])
def test_shares_by_group_and_window_are_those_of_a_loop(tmp_path, predictor):
    rng = np.random.default_rng(5)
    G = rng.standard_normal((53, 3, 4)).cumsum(0)
    run = open_run(str(stores.write_run(tmp_path / "run.zarr", G.astype(np.float32), exact=True)))
    found = group_time(analyze(run, ["zero", predictor], window=10, burn_in=3), predictor)
    errors = reference.errors(G.astype(np.float32).astype(float).reshape(53, 12), predictor) ** 2
    edges = [3, 13, 23, 33, 43, 53]
    assert found.first.tolist() == edges[:-1]
    assert found.last.tolist() == [e - 1 for e in edges[1:]]
    for w in range(5):
        path = errors[edges[w] : edges[w + 1]].sum(0).reshape(3, 4).sum(1)
        np.testing.assert_allclose(found.path[w], path, rtol=1e-5)
        np.testing.assert_allclose(found.share[w], path / path.sum(), rtol=1e-5)
    np.testing.assert_array_equal(found.low, found.share)


def test_shares_of_a_sketch_carry_intervals(run_path):
    run = open_run(str(run_path))
    found = group_time(analyze(run, window=16))
    np.testing.assert_allclose(found.share.sum(axis=1), 1)
    assert ((found.low <= found.share) & (found.share <= found.high)).all()
    assert (found.low < found.high).all()
    with pytest.raises(ValueError, match="window=N"):
        group_time(analyze(run))
    with pytest.raises(ValueError, match="no predictor 'trend', only last"):
        group_time(analyze(run, "last", window=16), "trend")


def test_intervals_of_shares_cover_the_truth():
    """Two groups of equal error, sketched many times: nominal 95 %."""
    rng = np.random.default_rng(0)
    from gradlog.analysis.common.jackknife import jackknife

    inside = 0
    for _ in range(300):
        own, other = (np.square(rng.standard_normal((20, 64))).sum(0) for _ in range(2))
        _, low, high = jackknife(np.divide, own, own + other)
        inside += low <= 0.5 <= high
    assert inside > 270


@given(FINITE, FINITE)
def test_linear_ticks_are_round_and_inside(a, b):
    axis = linear("x", [a, b])
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(axis.low - 1e-9 * abs(axis.low) <= t <= axis.high + 1e-9 * abs(axis.high) for t in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(1e-12, 1e12), st.floats(1.001, 1e12))
def test_log_ticks_are_inside(low, ratio):
    axis = logarithmic("x", [low, low * ratio])
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 9
    assert all(axis.low * 0.999 <= t <= axis.high * 1.001 for t in ticks)


def test_axes_without_data_and_of_a_constant():
    assert linear("x", [np.nan]).ticks()
    assert logarithmic("x", [0.0, -1.0]).ticks()
    assert linear("x", [5.0, 5.0]).low < 5 < linear("x", [5.0, 5.0]).high
    assert exact("x", [3, 3]).high > 3
    assert Axis("x", 0, 10).place([-5, 5, 20], 100, 200).tolist() == [100, 150, 200]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1500.0, "1500"), (2e4, "20k"), (3e6, "3M"), (1e-6, "10⁻⁶"), (-0.05, "-0.05")]
)
def test_tick_texts(value, text):
    assert tick_text(value) == text


@given(st.lists(st.floats(0, 200), max_size=10))
def test_labels_are_pushedapart(places):
    found = apart(sorted(places), 14, 0, 200)
    assert all(b - a >= 14 - 1e-9 for a, b in pairwise(found))
    assert all(p <= 200 for p in found)


def test_lines_break_where_values_are_missing():
    figure = Figure("t", 'a "quoted" <name>', Axis("x", 0, 3), Axis("y", 0, 1))
    figure.add(
        Line([0, 1, 2, 3], [0, np.nan, 1, 1], "s0"),
        Band([0, 1, 2, 3], [0, np.nan, 0, 0], [1, 1, 1, 1], "s0"),
        Dots([0, 1], [0.5, np.nan], "s0", ["<&>", ""]),
    )
    drawing = ET.fromstring(svg(figure))
    paths = [p.attrib["d"] for p in drawing.iter("path") if "line" in p.attrib["class"]]
    assert paths[0].count("M") == 2
    assert len([p for p in drawing.iter("path") if "band" in p.attrib["class"]]) == 2
    assert [t.text for t in drawing.iter("title")] == ["<&>"]
    assert drawing.attrib["aria-label"] == 'a "quoted" <name>'


def test_text_is_made_harmless():
    assert printable("a\x00\u202e\nb") == "a\\x00\\u202e\\nb"
    assert printable("مرحبا é 漢") == "مرحبا é 漢"
    assert abbreviate("transformer", 6) == "tra…er"
    assert PAGE.percent(-0.5, 0, sign=True) == "−50 %"
    assert PAGE.percent(float("nan")) == "–"


def test_verdicts_in_words():
    kappa = {"value": 0.5, "low": 0.4, "high": 0.6, "null": 2.0, "gain": 0.75, "gain_low": 0.7, "gain_high": 0.8}
    assert sentence(kappa) == "temporal order helps this predictor"
    assert (
        sentence({**kappa, "gain": 0.09, "gain_low": -0.01}) == "temporal order makes no difference to this predictor"
    )
    assert (
        sentence({**kappa, "gain": -0.6, "gain_low": -0.7, "gain_high": -0.5}) == "temporal order hurts this predictor"
    )
    for unknown in ("gain", "gain_low", "gain_high"):
        assert sentence({**kappa, unknown: None}) == "no shuffled value or interval to judge by"
