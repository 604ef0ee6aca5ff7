"""Noise scale by group, against signal and noise of known size: in Dataset and JSON, in a sentence, in the figures."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.report import figures
from gradlog.analysis.report.figures.noise_by_group import noise_by_group, noise_by_group_over_time
from gradlog.analysis.report.study import study
from gradlog.analysis.results.findings import batch_by_group, findings
from gradlog.format.names import HALF_NORM2
from tests.helpers import stores

STEPS, K, BATCH = 400, 16, 32
SHARES = np.array([0.2, 0.5, 0.8])
TRUTH = BATCH * (1 / SHARES - 1)


def write(path, steps=STEPS, seed=0):
    """Three groups with a signal of these shares of the squared norm, and the noise of two halves of each batch."""
    rng = np.random.default_rng(seed)
    signal = np.sqrt(SHARES / K)[:, None] * np.ones(K)
    halves = signal + np.sqrt(2 * (1 - SHARES) / K)[:, None] * rng.normal(size=(2, steps, 3, K))
    apart = np.square((halves[0] - halves[1]) / 2).sum(axis=2)
    scalars = {HALF_NORM2.format(g): apart[:, g] for g in range(3)} | {"batch_size": np.full(steps, float(BATCH))}
    return stores.write_run(path, halves.mean(axis=0), scalars=scalars)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(write(tmp_path_factory.mktemp("run") / "run.zarr"))


@pytest.fixture(scope="module")
def measured(run):
    return study(run, "run", cache=False)


@pytest.mark.parametrize("light", [False, True])
def test_it_is_known_by_group_and_window(run, light):
    ds = analyze(run, "last", window=100, light=light, null_rank=False, svd="nystrom", cache=False)
    assert (ds.group_noise_scale_low.values < TRUTH).all()
    assert (ds.group_noise_scale_high.values > TRUTH).all()
    np.testing.assert_allclose(ds.window_group_noise_scale.mean("window"), TRUTH, rtol=0.25)
    assert ds.window_group_noise_scale.shape == (4, 3)


def test_windows_of_groups_are_in_the_document(run):
    windows = to_json(analyze(run, "last", window=200, null_rank=False, cache=False))["windows"]
    found = [[g["noise"]["noise_scale"] for g in w["by_group"].values()] for w in windows]
    np.testing.assert_allclose(found, [TRUTH, TRUTH], rtol=0.25)


def test_the_recommendation_speaks_of_groups_that_are_surely_on_one_side(measured):
    assert batch_by_group(measured.document, BATCH) == {"below": ["g0"], "above": ["g2"], "": ["g1"]}
    text = next(f.text for f in findings(measured.document) if f.figure == "noise_scale" and "batch of" in f.text)
    assert text.startswith("The batch of 32 lies at the noise scale, ")
    saved = 50 * (1 - measured.document["noise"]["signal_share"])
    assert saved == pytest.approx(50 * (1 - SHARES.mean()), rel=0.1)
    assert f"would need {saved:.0f} %" in text
    assert text.endswith("It lies below that of g0 and above that of g2.")


def test_no_recommendation_follows_from_lags(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 2, K))
    signal = rows[0]
    for row in rows:  # it changes slowly
        signal = 0.9 * signal + 0.5 * rng.normal(size=signal.shape)
        row += signal
    run = open_run(stores.write_run(tmp_path / "run.zarr", rows, scalars={"batch_size": np.full(300, 8.0)}))
    document = to_json(analyze(run, "last", null_rank=False, cache=False))
    assert document["noise"]["source"] == "lags"
    assert document["noise"]["noise_scale"] is not None
    assert all("batch of" not in f.text for f in findings(document))


def test_the_figures_show_each_group(measured):
    (bars,) = noise_by_group([measured])
    assert list(bars.y) == ["g0", "g1", "g2"]
    assert bars.note == (
        " The batch size of 32 lies below that of g0; above that of g2; not told apart from that of g1."
    )
    in_time = noise_by_group_over_time([measured])
    assert [f.title for f in in_time] == [f"Noise scale of g{g}" for g in range(3)]
    assert len({f.y for f in in_time}) == 1
    assert noise_by_group_over_time([measured, measured]) == []
    assert len(noise_by_group([measured, measured])) == 2
    names = [chart.name for chart in figures.charts(many=False)]
    assert names.index("noise_scale") < names.index("noise_by_group") < names.index("noise_by_group_over_time")
