"""A sample of a run: its stretches remember what was before them, and its errors are told."""

from __future__ import annotations

import numpy as np
import pytest

import gradlog
from gradlog.analysis import analyze, open_run
from gradlog.analysis.reading.parts import parts
from gradlog.analysis.results.options import Options
from gradlog.analysis.results.plan import plan
from gradlog.analysis.results.sample import sampled

PREDICTORS = ["last", "ema(0.9)", "trend", "ar(3)"]
MEASURED = ("kappa", "kappa_null", "rank", "rank_null", "lag_coherence", "path_length", "increment_energy")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("sample") / "r.zarr", np.random.default_rng(0)
    like = {"a": np.zeros(6, np.float32), "b": np.zeros(6, np.float32)}
    way = rng.standard_normal((2, 6)).astype(np.float32)
    with gradlog.open(path, like=like, k="exact", groups="tensors", chunk=64, on_error="raise") as log:
        for t in range(4200):
            a, b = way * np.cos(t / 700) + rng.standard_normal((2, 6), np.float32)
            log.step({"a": a, "b": b}, loss=1.0)
    return path


def test_a_stretch_with_its_history_has_the_numbers_of_a_run_with_burn_in(long_run):
    run = open_run(long_run, steps=(0, 1999))
    expected = analyze(run, PREDICTORS, burn_in=700, svd="gram", cache=False)
    for ranges in ([(700, 2000)], [(700, 1000), (1000, 2000)]):
        found = analyze(parts(run, ranges), PREDICTORS, svd="gram", cache=False)
        for name in MEASURED:
            np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, err_msg=name)


def test_stretches_add_up(long_run):
    run = open_run(long_run)
    found = analyze(parts(run, [(700, 1500), (3000, 4100)]), PREDICTORS, svd="gram", cache=False)
    each = [analyze(parts(run, [r]), PREDICTORS, svd="gram", cache=False) for r in ((700, 1500), (3000, 4100))]
    for name in ("path_length", "increment_energy"):  # but of ar(3), whose weights are fitted
        one, two = (x[name].values.ravel()[:3] for x in each)
        np.testing.assert_allclose(found[name].values.ravel()[:3], one + two, rtol=2e-6, err_msg=name)


def test_a_sample_is_near_the_whole_and_says_what_it_is(long_run):
    whole = analyze(long_run.as_posix(), PREDICTORS, cache=False)
    found = analyze(long_run.as_posix(), PREDICTORS, sample=2048, cache=False)
    assert int(found.rows) == 2048
    assert "a sample of 2,048 of 4,200 steps" in found.attrs["warnings"]
    assert (abs(found.kappa - whole.kappa) < 2 * found.kappa_run).all()


def test_burn_in_comes_before_the_sample(long_run):
    run = sampled(open_run(long_run), Options.of(sample=2048, burn_in=20).scope)
    assert run.steps[0] >= 20
    assert plan(run, Options.of("last", sample=2048, burn_in=20)).whole.start == 0


def test_what_goes_with_no_sample(long_run):
    path = str(long_run)
    with pytest.raises(ValueError, match=r"at least 2,048 rows, got 100"):
        analyze(path, sample=100, cache=False)
    with pytest.raises(ValueError, match="no windows"):
        analyze(path, sample=2048, window=100, cache=False)
    with pytest.raises(ValueError, match="svd='rows'"):
        analyze(path, sample=2048, svd="rows", cache=False)
    for more in (2200, 10**30):
        assert int(analyze(path, "last", sample=more, cache=False).rows) == 4200
