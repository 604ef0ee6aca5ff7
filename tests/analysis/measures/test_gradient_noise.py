"""Signal and noise against what they are by construction: from lags where these tell, and from half batches."""

from __future__ import annotations

import numpy as np
import pytest

from gradlog.analysis import analyze, to_json
from gradlog.analysis.measures import gradient_noise
from gradlog.analysis.measures.gradient_noise import HalfBatches
from gradlog.analysis.measures.predictors import Evidence, parse
from gradlog.format.names import HALF_NORM2
from tests.helpers import stores
from tests.helpers.known import evidence

T, D = 400, 64


def turning(noise, rows=T, seed=5):
    """A mean that turns by a tenth of a radian a step, squared norm 16, under independent noise."""
    rng = np.random.default_rng(seed)
    phase = 0.1 * np.arange(rows)[:, None] + np.arange(D)
    mean = 0.5 * np.sqrt(2) * np.sin(phase)
    return mean, mean + noise * rng.standard_normal((rows, D))


def reacting(rate, rows=T, seed=0):
    """Gradients of a quadratic whose steps react to their own noise: theta' = theta - rate (theta + noise)."""
    rng = np.random.default_rng(seed)
    theta, signal, found = np.ones(D), 0.0, []
    for _ in range(rows):
        signal += theta @ theta / rows
        found.append(theta + rng.standard_normal(D))
        theta = theta - rate * found[-1]
    return signal, np.array(found)


def write(tmp_path, X, **scalars):
    return str(stores.write_run(tmp_path / "r.zarr", X.reshape(len(X), -1, D), exact=True, scalars=scalars))


def test_lags_tell_the_signal_of_a_mean_that_moves_on_its_own():
    mean, X = turning(0.1)
    found = gradient_noise.from_lags(evidence(X, parse("last")), D, exact=True, batch=32.0)
    truth = np.square(mean).sum(1).mean()
    assert found["signal"] == pytest.approx(truth, rel=0.05)
    assert found["noise_scale"] == pytest.approx(32 * (np.square(X).sum(1).mean() / found["signal"] - 1))


def test_signal_is_withheld_where_steps_react_to_their_own_noise(tmp_path):
    """At a rate of 0.5 the line through the lags is below zero, though the gradient is as large as its noise."""
    signal, X = reacting(0.5)
    e = evidence(X, parse("last"))
    assert gradient_noise.from_lags(e, D, exact=True)["signal"] < 0.2 * signal
    coherence = gradient_noise.lag_coherence(e, D, exact=True)
    assert gradient_noise.withheld(coherence)
    found = to_json(analyze(write(tmp_path, X), window=100))
    for scope in (found, *found["windows"]):
        assert {scope["noise"][name] for name in gradient_noise.NAMES} == {None}
    assert found["noise"]["source"] is None
    assert found["noise"]["withheld"] in ("lag coherence is not above zero", "lag coherence does not fall with the lag")
    assert found["bounds"]["stationarity"]["last"]["left_noise_free"] is None
    assert not any("undefined" in text and "noise" in text for text in found["warnings"])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((0.5, 0.4, 0.3, 0.2), ""),
        ((1.0, 1.0, 1.0, 1.0), ""),
        ((0.5, 0.4, 0.3, -0.2), "lag coherence is not above zero"),
        ((0.2, 0.3, 0.4, 0.5), "lag coherence does not fall with the lag"),
        ((0.5, 0.4, np.nan, np.nan), "no energy, or no rows 4 steps apart"),
    ],
)
def test_what_lags_must_look_like(values, why):
    coherence = dict.fromkeys(("lag_coherence", "lag_coherence_low"), np.array(values))
    assert gradient_noise.withheld(coherence) == why


def test_short_epochs_withhold_a_small_signal():
    coherence = dict.fromkeys(("lag_coherence", "lag_coherence_low"), np.array([0.3, 0.29, 0.28, 0.27]))
    assert gradient_noise.withheld(coherence, 10) == "epochs of 10 steps hide it"
    assert gradient_noise.withheld(coherence, 100) == ""


def test_lag_coherence_is_the_mean_product_over_the_mean_square(tmp_path):
    _, X = reacting(0.3, 60)
    X = X.astype(np.float32).astype(np.float64)
    ds = analyze(write(tmp_path, X), ["last"])
    for a in (1, 2, 3, 4):
        expected = (X[a:] * X[:-a]).sum(1).mean() / np.square(X).sum(1).mean()
        assert float(ds.lag_coherence.sel(lag=a)) == pytest.approx(expected, rel=1e-5)
    assert to_json(ds)["lag_coherence"]["2"]["value"] == float(ds.lag_coherence.sel(lag=2))


def test_half_batches_tell_the_signal_at_any_rate(tmp_path):
    """Mean squared gradient and trace of its noise to within their intervals, where lags are off by a factor."""
    signal, X = reacting(0.5, 2000)
    rng = np.random.default_rng(1)
    half = rng.standard_normal(X.shape)  # (g_a - g_b) / 2 is independent of the mean's noise and as large
    scalars = {HALF_NORM2.format(0): np.square(half).sum(1), "batch_size": np.full(len(X), 8.0)}
    ds = analyze(write(tmp_path, X, **scalars), ["last"], window=500)
    assert ds.attrs["signal_source"] == "half batches"
    for name, truth in (("signal", signal), ("noise", D), ("noise_scale", 8 * D / signal)):
        assert float(ds[f"{name}_low"]) < truth < float(ds[f"{name}_high"])
        assert float(ds[name]) == pytest.approx(truth, rel=0.1)
    assert float(ds.window_signal.mean()) == pytest.approx(float(ds.signal))
    assert "half_norm2:0" not in json_scalars(ds)


def json_scalars(ds):
    import json

    return json.loads(ds.attrs["run"])["scalars"]


def test_groups_have_a_signal_of_their_own(tmp_path):
    rng = np.random.default_rng(2)
    mean = np.array([3.0, 0.0])[:, None]
    X = mean / 8 + rng.standard_normal((T, 2, D)) * 0.1
    halves = np.square(rng.standard_normal((T, 2, D)) * 0.1).sum(2)
    scalars = {HALF_NORM2.format(g): halves[:, g] for g in range(2)}
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True, scalars=scalars)
    ds = analyze(str(path), ["last"])
    assert float(ds.group_signal[0]) == pytest.approx(9, rel=0.02)
    assert float(ds.group_signal_low[1]) == 0 <= float(ds.group_signal[1]) < 0.05
    assert float(ds.signal) == pytest.approx(float(ds.energy) / T - float(ds.noise))


@pytest.mark.parametrize("silent", [0, 1])
def test_lags_may_tell_the_signal_of_one_group_and_not_of_another(tmp_path, silent):
    X = np.random.default_rng(4).standard_normal((T, 2, D))
    X[:, 1 - silent] = turning(0.1)[1]
    path = stores.write_run(tmp_path / "r.zarr", X, exact=True)
    ds = analyze(str(path), ["last"], by_group=True)
    assert np.isfinite(ds.group_signal_share_run.values).tolist() == [silent == 1, silent == 0]
    noise = to_json(ds)["by_group"][f"g{silent}"]["noise"]
    assert noise["signal_share"] is None is noise["signal_share_run_half"]


def test_a_share_from_half_batches_is_not_given_the_fluctuation_of_lags(tmp_path):
    ds = analyze(
        write(tmp_path, turning(0.1)[1], **{HALF_NORM2.format(0): np.full(T, float(D))}), ["last"], by_group=True
    )
    assert ds.attrs["signal_source"] == "half batches"
    assert not [name for name in ds if "signal_share_run" in name]


def test_rows_without_halves_are_left_out(tmp_path):
    mean, X = turning(1.0)
    half = np.square(np.random.default_rng(3).standard_normal(X.shape)).sum(1)
    half[::2] = np.nan
    ds = analyze(write(tmp_path, X, **{HALF_NORM2.format(0): half}), ["last"])
    X = X.astype(np.float32).astype(float)
    assert float(ds.signal) == pytest.approx((np.square(X[1::2]).sum(1) - half[1::2]).mean(), rel=1e-5)
    assert float(ds.signal) == pytest.approx(np.square(mean).sum(1).mean(), rel=0.2)


def test_ranks_that_log_their_own_gradients_are_parts_of_the_batch(tmp_path):
    """Signal of the sum of two ranks is <g_a, g_b> over both orders, which needs the sketches of both."""
    rng = np.random.default_rng(4)
    own = 0.3 + rng.standard_normal((2, 300, 1, D))
    head = stores.header(1, D, exact=True, stage="local")
    path = tmp_path / "r.zarr"
    stores.write_root(path, head)
    for rank in range(2):
        stores.write_segment(path, head, own[rank], rank=rank, scalars={"batch_size": np.full(300, 4.0)})
    ds = analyze(str(path), ["last"])
    own = own.astype(np.float32).astype(np.float64)
    crossed = 2 * np.einsum("tgk,tgk->t", own[0], own[1]).mean() * 2
    assert ds.attrs["signal_source"] == "ranks"
    assert float(ds.signal) == pytest.approx(crossed, rel=1e-4)
    assert float(ds.signal_low) < 4 * D * 0.09 < float(ds.signal_high)
    assert float(ds.noise_scale) == pytest.approx(8 * float(ds.noise / ds.signal))


def test_a_noise_scale_has_an_open_end_where_the_signal_may_be_zero():
    energy, product = np.full(40, 40.0), np.where(np.arange(40) % 2, -3.0, 5.0)
    found = gradient_noise.from_half_batches(HalfBatches(np.full(40, 10.0), energy, energy - product), batch=32.0)
    assert found["signal_share_low"] == 0 < found["signal_share"]
    assert found["noise_scale"] == pytest.approx(32 * (1 / found["signal_share"] - 1))
    assert found["noise_scale_low"] == pytest.approx(32 * (1 / found["signal_share_high"] - 1))
    assert np.isnan(found["noise_scale_high"])


def test_no_squared_norm_is_negative():
    halves = HalfBatches(np.full(40, 10.0), np.full(40, 10.0), np.linspace(10, 12, 40))
    found = gradient_noise.from_half_batches(halves, batch=32.0)
    assert min(v for v in found.values() if not np.isnan(v)) == 0 == found["signal"]
    assert np.isnan(found["noise_scale"])


def test_no_share_is_above_one():
    halves = HalfBatches(np.full(40, 10.0), np.full(40, 40.0), np.where(np.arange(40), 0.0, 8.0))
    found = gradient_noise.from_half_batches(halves, batch=32.0)
    assert 0.9 < found["signal_share_low"] < found["signal_share"] == 1 - 8 / 1600 < found["signal_share_high"] == 1
    assert found["noise_scale_low"] == 0


@pytest.mark.parametrize("drift", [0.0, 1.0])
def test_intervals_from_half_batches_cover_the_mean_squared_gradient(drift):
    """Nominal 95 %, of 300 runs: with and without a gradient that shrinks by much over the run."""
    rng = np.random.default_rng(6)
    size = np.exp(-drift * 3 * np.linspace(0, 1, T))
    hits = 0
    for _ in range(300):
        a, b = 0.3 * size[:, None] + rng.standard_normal((2, T, 20))
        energy, noise = np.square((a + b) / 2).sum(1), np.square((a - b) / 2).sum(1)
        parts = [x.reshape(40, -1).sum(1) for x in (np.ones(T), energy, noise)]
        found = gradient_noise.from_half_batches(HalfBatches(*parts))
        hits += found["signal_low"] <= (20 * np.square(0.3 * size)).mean() <= found["signal_high"]
    assert 0.92 <= hits / 300 <= 0.995


def test_evidence_without_neighbours_has_no_lag_coherence():
    totals = {"rows": 3.0, "lag_pairs": np.zeros(4), "energy": np.ones(8), "lag": np.zeros((4, 8))}
    found = gradient_noise.lag_coherence(Evidence(totals, ()), 8, exact=True)
    assert np.isnan(found["lag_coherence"]).all()


def test_in_epochs_the_signal_is_that_of_the_data(tmp_path):
    """Batches without replacement from 40 samples: disjoint halves lean away from each other, by what m tells."""
    rng = np.random.default_rng(7)
    samples = 0.2 + rng.standard_normal((40, D))
    batches = np.concatenate([rng.permutation(40).reshape(5, 8) for _ in range(200)])
    a, b = samples[batches[:, :4]].mean(1), samples[batches[:, 4:]].mean(1)
    scalars = {HALF_NORM2.format(0): np.square((a - b) / 2).sum(1)}
    path = write(tmp_path, (a + b) / 2, **scalars)
    truth = np.square(samples.mean(0)).sum()
    spread = np.square(samples - samples.mean(0)).sum() / 40
    known, unknown = (analyze(path, ["last"], steps_per_epoch=m) for m in (5, None))
    assert float(known.signal) == pytest.approx(truth, rel=0.02)
    assert float(known.noise) == pytest.approx(spread / 8 * (40 - 8) / 39, rel=0.02)
    assert float(unknown.signal) == pytest.approx(truth - spread / 39, rel=0.05)
    said = [any("what is left of an epoch" in w for w in to_json(ds)["warnings"]) for ds in (known, unknown)]
    assert said == [True, False]
