"""Figures for papers show the numbers of the result, on the axes they are given."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pytest
from matplotlib.figure import Figure

from gradlog.analysis import analyze
from gradlog.analysis.report import plots
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
    np.testing.assert_array_equal(lines(ax)["shuffled"].get_xdata(), shown["kappa_null"])
    assert ax.get_xlabel()


def test_tail_and_spectrum(result, ax):
    plots.tail(result, ax)
    np.testing.assert_array_equal(lines(ax)["certified r*"].get_xdata(), result["rank_high"])
    np.testing.assert_array_equal(lines(ax)["logged matrix"].get_ydata(), result["tail_energy"])
    other = Figure().subplots()
    plots.spectrum(result, other, label="a run")
    assert other.get_xscale() == other.get_yscale() == "log"


def test_over_time(result, ax):
    plots.kappa_over_time(result, ax)
    np.testing.assert_array_equal(lines(ax)["last"].get_ydata(), result["window_kappa"].sel(predictor="last"))
    other = Figure().subplots()
    plots.rank_over_time(result, other)
    np.testing.assert_array_equal(lines(other)["eps = 0.1"].get_ydata(), result["window_rank_high"].sel(eps=0.1))
    for draw in (plots.kappa_over_time, plots.rank_over_time):
        with pytest.raises(ValueError, match="window="):
            draw(result[["kappa"]], ax)


def test_shares(run_path, ax):
    shares = group_time(analyze(str(run_path), window=30))
    plots.group_shares(shares, ax)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["g0", "g1", "g2"]


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
