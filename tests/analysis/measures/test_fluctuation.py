"""Fluctuation within a run, against the formula over rows whose errors are known one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from gradlog.analysis import analyze, to_json
from gradlog.analysis.measures import fluctuation
from gradlog.analysis.streaming import kernel, sections
from tests.helpers import reference, stores
from tests.helpers.walks import smooth

T, NAMES = 700, ("last", "ema(0.9)", "trend", "ar(3)")
FIELDS = ("kappa_run", "kappa_difference_run", "lag_coherence_run", "group_kappa_run", "group_path_share_run")


@pytest.fixture(scope="module")
def rows():
    return smooth(T, groups=2, k=8)


def half(N, D):
    """Wider of two half-widths, from sums over 32 rows and over 64, by the formula of the module."""

    def of(length):
        edges = [*range(0, len(N) - len(N) % length, length)]
        n, d = (np.add.reduceat(x, edges) for x in (N, D))
        r = n - N.sum() / D.sum() * d
        B = len(n)
        return stats.t.ppf(0.975, (B - 1) / 1.5) * np.sqrt(B / (2 * (B - 1)) * np.sum(np.diff(r) ** 2)) / D.sum()

    return max(of(32), of(64))


def test_blocks_of_steps_give_the_half_widths_of_the_formula(tmp_path):
    assert sections.length(1280) == 32
    ds = analyze(str(stores.write_run(tmp_path / "s.zarr", smooth(1280), exact=True)), ["last", "ema(0.5)", "trend"])
    G = smooth(1280).reshape(1280, -1).astype(np.float64)
    D = np.square(G).sum(axis=1)
    paths = {name: np.square(reference.errors(G, name)).sum(axis=1) for name in ds.predictor.values}
    for name, N in paths.items():
        assert float(ds.kappa_run.sel(predictor=name)) == pytest.approx(half(N, D), rel=1e-5)
        assert float(ds.gain_run.sel(predictor=name)) == pytest.approx(
            half(N, D) / float(ds.kappa_null.sel(predictor=name)), rel=1e-5
        )
    between = ds.kappa_difference_run.sel(predictor="last", other="trend")
    assert float(between) == pytest.approx(half(paths["last"] - paths["trend"], D), rel=1e-5)
    own = np.square(reference.errors(G[:, :8], "last")).sum(axis=1)
    share = ds.group_path_share_run.sel(predictor="last", group="g0")
    assert float(share) == pytest.approx(half(own, paths["last"]), rel=1e-5)
    products = np.r_[0, np.sum(G[1:] * G[:-1], axis=1)] * 1280 / 1279
    assert float(ds.lag_coherence_run.sel(lag=1)) == pytest.approx(half(products, D), rel=1e-4)


def flawed(path, rows, chunk):
    """A run with a gap in its steps and a row that is not finite."""
    steps = np.r_[np.arange(300), np.arange(310, T + 10)]
    flags = np.zeros(T, np.uint32)
    flags[450] = 1
    return str(stores.write_run(path, rows, chunk=chunk, steps=steps, flags=flags))


@pytest.mark.parametrize(
    "options",
    [{"window": 45}, {"scheduler": "synchronous"}, {"scheduler": "threads"}, {"kernel": "numba"},
     {"light": True, "svd": "nystrom", "window": 70}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_the_fluctuation_does_not_depend_on_how_the_pass_is_made(tmp_path, rows, options):
    if options.get("kernel") == "numba" and kernel.compiled() is None:
        pytest.fail("numba is part of the test environment")
    plain = analyze(flawed(tmp_path / "a.zarr", rows, 16), NAMES)
    path = flawed(tmp_path / "b.zarr", rows, 17)
    other = analyze(path, NAMES, **options)
    for name in FIELDS:
        np.testing.assert_allclose(other[name], plain[name], rtol=1e-5, err_msg=name)
    assert np.isfinite(plain.kappa_run).all()


def test_both_errors_add_up_in_squares_and_stand_in_the_json(tmp_path, rows):
    ds = analyze(str(stores.write_run(tmp_path / "r.zarr", rows)), NAMES)
    sketch = ds.kappa_high - ds.kappa
    np.testing.assert_allclose(ds.kappa_total**2, ds.kappa_run**2 + sketch**2)
    document = to_json(ds)
    last = document["kappa"]["last"]
    assert last["run_half"] == float(ds.kappa_run.sel(predictor="last"))
    assert last["total_half"] > max(last["run_half"], last["high"] - last["value"])
    assert last["run_withheld"] is None
    gap = document["differences"]["last"]["trend"]
    assert gap["value"] == pytest.approx(last["value"] - document["kappa"]["trend"]["value"])
    assert set(gap) == {"value", "low", "high", "run_half", "total_half"}
    assert document["path_shares"]["by_group_errors"]["g0"]["last"]["run_half"] > 0


def test_the_fluctuation_is_withheld_with_the_reason(tmp_path, rows):
    def reasons(name, X, predictors=("last", "ema(0.99)")):
        document = to_json(analyze(str(stores.write_run(tmp_path / name, X)), predictors))
        assert not any("half" in w for w in document["warnings"])
        return {n: (k["run_half"] is None, k["run_withheld"]) for n, k in document["kappa"].items()}

    short = reasons("short.zarr", rows[:199])
    assert short["last"] == (True, "fewer than 200 steps")
    one = rows.copy()
    one[100:110] *= 100
    assert reasons("one.zarr", one)["last"] == (True, "one block of steps holds over 30 % of the energy")
    plain = reasons("plain.zarr", rows)
    assert plain["last"] == (False, None)
    assert plain["ema(0.99)"] == (True, "the predictor remembers more steps than a block has")
    assert reasons("zero.zarr", np.zeros_like(rows), ["last"])["last"] == (True, "no energy")


def test_a_drifting_energy_is_no_fluctuation():
    """The spread of the remainders, as the jackknife over blocks takes it, counts the drift; differences do not."""
    r = np.random.default_rng(0)
    D = np.linspace(1, 30, 40) * (1 + 0.01 * r.standard_normal(40))
    N = D * np.linspace(0.5, 1.5, 40)
    found = float(fluctuation.half_width(N, D))
    spread = N - N.sum() / D.sum() * D
    assert found < 0.25 * 2 * np.sqrt(40) * np.std(spread) / D.sum()


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_it_covers_the_mean_of_a_stationary_process(phi):
    r = np.random.default_rng(1)
    T, hits = 800, 0
    for _ in range(200):
        x = r.standard_normal(T)
        for t in range(1, T):
            x[t] = phi * x[t - 1] + np.sqrt(1 - phi * phi) * x[t]
        N = (5 + x).reshape(40, -1).sum(axis=1)
        D = np.full(40, T / 40)
        hits += abs(N.sum() / T - 5) <= fluctuation.wider(N, D, T // 40)
    assert 0.88 <= hits / 200 <= 1.0


def test_sections_stay_as_they_are_until_a_run_is_twice_as_long():
    lengths = [sections.length(T) for T in range(200, 200_000, 7)]
    counts = [-(-T // length) for T, length in zip(range(200, 200_000, 7), lengths, strict=True)]
    assert max(counts) <= 40
    assert min(counts[len(range(200, 330, 7)) :]) >= 20
    assert all(b in (a, 2 * a) for a, b in itertools.pairwise(lengths))
