"""Figures for papers show the numbers of the result, on the axes they are given."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlog.analysis import analyze
from gradlog.analysis.report import plots
from gradlog.analysis.report.figure import Line
from gradlog.analysis.report.figures import charts, dimension
from gradlog.analysis.report.on_axes import draw
from gradlog.analysis.report.page import CHAPTERS
from gradlog.analysis.report.study import Analysis
from gradlog.analysis.report.svg import svg
from gradlog.analysis.results.group_time import group_time


@pytest.fixture(scope="module")
def result(run_path):
    return analyze(str(run_path), window=30)


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax):
    return {str(line.get_label()): line for line in ax.lines}


def test_kappa_is_drawn_where_it_is(result, ax):
    assert plots.kappa(result, ax) is ax
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == [p for p in result["predictor"].values if p != "zero"]
    shown = result.sel(predictor=names)
    np.testing.assert_array_equal(lines(ax)["as recorded"].get_xdata(), shown["kappa"])
    np.testing.assert_array_equal(lines(ax)["same steps, shuffled"].get_xdata(), shown["kappa_null"])
    assert ax.get_xlabel()


def test_tail_and_spectrum(result, ax):
    plots.tail(result, ax)
    np.testing.assert_array_equal(lines(ax)["certified r*"].get_xdata(), result["rank_high"])
    drawn = lines(ax)["logged matrix"].get_ydata()
    left_out = result["tail_energy"].values[: len(drawn)]
    np.testing.assert_array_equal(drawn[left_out > 0.004], left_out[left_out > 0.004])
    other = Figure().subplots()
    plots.spectrum(result, other, label="a run")
    assert other.get_xscale() == other.get_yscale() == "log"


def test_over_time(result, ax):
    plots.kappa_over_time(result, ax)
    np.testing.assert_array_equal(lines(ax)["last"].get_ydata(), result["window_kappa"].sel(predictor="last"))
    other = Figure().subplots()
    plots.rank_over_time(result, other)
    np.testing.assert_array_equal(lines(other)["eps 0.1"].get_ydata(), result["window_rank_high"].sel(eps=0.1))
    for draws in (plots.kappa_over_time, plots.rank_over_time):
        with pytest.raises(ValueError, match="window="):
            draws(result[["kappa"]], ax)


def test_shares(run_path, ax):
    shares = group_time(analyze(str(run_path), window=30))
    plots.group_shares(shares, ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["g0", "g1", "g2"]


def test_two_runs_on_the_same_axes_are_told_apart_and_both_fit(result, ax):
    far = result.assign({name: result[name] * 3 for name in ("kappa", "kappa_low", "kappa_high", "kappa_null")})
    alone = plots.kappa(result, Figure().subplots(), label="near").get_xlim()
    plots.kappa(result, ax, label="near")
    plots.kappa(far, ax, "black", label="far")
    assert {"near", "far", "near same steps, shuffled", "far same steps, shuffled"} <= lines(ax).keys()
    assert lines(ax)["far"].get_color() == "black"
    assert ax.get_xlim()[0] <= alone[0]
    assert ax.get_xlim()[1] > 2 * alone[1]


def test_the_page_and_the_axes_show_the_same_figure(result, ax):
    (figure,) = dimension.rank_over_time([Analysis("", result, result)])
    curves = [mark for mark in figure.marks if isinstance(mark, Line) and not mark.dashed]
    draw(figure, ax)
    assert [text for _, _, text in figure.names] == [x for x in lines(ax) if x.startswith("eps")]
    for mark, (_, _, text) in zip(curves, figure.names, strict=True):
        np.testing.assert_array_equal(lines(ax)[text].get_ydata(), mark.y)
    assert svg(figure).count('class="name') == len(curves)


@pytest.mark.parametrize("many", [False, True])
def test_every_figure_of_the_page_says_how_to_read_it(many):
    found = charts(many)
    assert len({chart.name for chart in found}) == len(found) >= 3
    assert all(chart.caption.endswith(".") for chart in found)
    assert {chart.section for chart in found} <= {name for name, _ in CHAPTERS}


def test_the_current_axes_serve_by_default(result):
    import matplotlib.pyplot as plt

    plt.close("all")  # those of other tests
    ax = plots.kappa(result)
    assert ax is plt.gca()
    plt.close("all")


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_same_result_gives_the_same_file(result, tmp_path, suffix):
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    plots.save(result, one)
    plots.save(result, two)
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size > 4000
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf"):
        plots.save(result, tmp_path / "figure.gif")
