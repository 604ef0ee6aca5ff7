"""The baseline of random order within epochs, against drawing such orders; and how a run tells its epochs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradlog.analysis import analyze, open_run, to_json
from gradlog.analysis.measures.interpretation import verdict
from gradlog.analysis.measures.order_baseline import (
    Order,
    coherence,
    coherences,
    expected_moments,
    kappa_null,
    refitted,
)
from gradlog.analysis.measures.predictors import Linear, parse
from gradlog.analysis.reading.epochs import epochs_of
from gradlog.analysis.streaming.epoch_sums import EpochSums
from tests.helpers import reference, stores
from tests.helpers.known import evidence

NAMES = ("last", "ema(0.9)", "ema(0.5)", "trend")


def without_replacement(epochs, m, seed=0, d=16):
    """Gradients of frozen parameters: in each epoch the batches' noises add up to zero."""
    noise = np.random.default_rng(seed).standard_normal((epochs, m, d))
    return (0.2 + noise - noise.mean(axis=1, keepdims=True)).reshape(-1, d)


def drawn(G, m, error, draws=1500, seed=0):
    """Mean kappa over orders that are random within epochs, and from epoch to epoch."""
    rng = np.random.default_rng(seed)
    parts = G.reshape(-1, m, G.shape[1])
    total = 0.0
    for _ in range(draws):
        order = rng.permuted(np.tile(np.arange(m), (len(parts), 1)), axis=1)
        mixed = np.take_along_axis(parts, order[..., None], axis=1)[rng.permutation(len(parts))]
        total += np.square(error(mixed.reshape(G.shape))).sum() / np.square(G).sum()
    return total / draws


def orders(G, m, draws, seed=0):
    """Rows in orders that are random within epochs of m, and from epoch to epoch; m = 0: in any order."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        if m:
            epochs = rng.permutation(G.reshape(-1, m, G.shape[1]))
            yield np.stack([rng.permutation(e) for e in epochs]).reshape(G.shape)
        else:
            yield rng.permutation(G)


def best_of_class(G, name):
    """Kappa of a predictor that is fitted to these rows."""
    if name == "best-ema":
        found = [np.square(reference.errors(G, f"ema({b})")).sum() for b in np.linspace(0, 0.999, 60)]
        return min(found) / np.square(G).sum()
    w = reference.ar_weights(G, [(0, len(G))], int(name[3:-1]))
    return np.square(reference.errors(G, "linear", w)).sum() / np.square(G).sum()


@pytest.mark.parametrize("m", [0, 4, 6])
@pytest.mark.parametrize("name", ["ar(1)", "ar(3)", "ar(6)", "best-ema"])
def test_a_predictor_in_hindsight_is_compared_with_one_fitted_to_steps_in_random_order(name, m):
    """Against rows that are really permuted and fitted anew each time, a little better than what is best on average."""
    walk = 0.4 * np.cumsum(np.random.default_rng(3).standard_normal((48, 300)), axis=0)
    G = walk + without_replacement(48 // (m or 4), m or 4, d=300)
    p = parse(name)[0]
    fitted = p.fit(evidence(G, [p]))
    order, c = Order(np.array([[0, 48]]), np.array([0]), m), both(G, m or 48)
    null = float(kappa_null(refitted(fitted, *c, order), *c, order))
    assert null == pytest.approx(np.mean([best_of_class(R, name) for R in orders(G, m, 40)]), rel=0.02)
    assert null < float(kappa_null(fitted, *c, order)) + 1e-12


@pytest.mark.parametrize(("first", "stop", "phase"), [(0, 40, 0), (7, 33, 3), (30, 40, 4), (0, 3, 1)])
def test_expected_products_of_lags_are_those_of_every_row(first, stop, phase):
    m, lags, c_in, c_out = 5, 7, 0.3, 0.1
    expected = np.zeros((lags + 1, lags + 1))
    for t, i, j in itertools.product(range(first, stop), range(lags + 1), range(lags + 1)):
        if max(i, j) <= t:
            same = (t - i + phase) // m == (t - j + phase) // m
            expected[i, j] += 1.0 if i == j else c_in if same else c_out
    order = Order(np.array([[first, stop]]), np.array([phase]), m)
    np.testing.assert_allclose(expected_moments(lags, c_in, c_out, order), expected / (stop - first), atol=1e-12)


def test_frozen_parameters_in_epochs_of_unknown_length_do_not_let_hindsight_help(tmp_path):
    """ar(8) finds the epochs; where they are not known it is not said to be helped, where they are it has no gain."""
    X = without_replacement(150, 4, d=64)[:, None]
    path = str(stores.write_run(tmp_path / "r.zarr", X))
    unknown, known = (to_json(analyze(path, ["ar(8)"], steps_per_epoch=s))["kappa"]["ar(8)"] for s in (None, 4))
    assert unknown["gain"] > 0.05
    assert verdict(unknown) == "epoch unknown"
    assert abs(known["gain"]) < 0.01
    assert verdict(known) in ("no difference", "too small to matter")


def both(G, m):
    """c_in and c_out of epochs of m rows."""
    sums = G.reshape(-1, m, G.shape[1]).sum(1)
    power, square, epochs = np.square(G).sum(), np.square(G.sum(0)).sum(), np.square(sums).sum()
    return coherences(power, square, epochs, len(G), len(sums) * m**2)


@pytest.mark.parametrize("m", [3, 6])
def test_baseline_is_the_mean_over_orders_within_epochs(m):
    rng = np.random.default_rng(1)
    G = without_replacement(24 // m, m, d=5) + np.repeat(rng.standard_normal((24 // m, 5)), m, axis=0)
    order = Order(np.array([[0, 24]]), np.array([0]), m)
    for p in [*parse(",".join(NAMES)), Linear("linear", (0.6, -0.3, 0.5, 0.1))]:
        error = lambda R, p=p: reference.errors(R, p.name, getattr(p, "weights", ()))  # noqa: E731
        expected = drawn(G, m, error)
        assert float(kappa_null(p.fit(evidence(G, [p])), *both(G, m), order)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ["last", "ema(0.9)", "trend", "linear"])
@pytest.mark.parametrize(("first", "stop", "phase"), [(0, 40, 0), (0, 40, 2), (7, 33, 3), (30, 40, 4), (0, 3, 1)])
def test_sums_of_weights_are_those_of_every_row(name, first, stop, phase):
    """Any part of a chain, whose first row stands anywhere in its epoch, against a loop over rows."""
    m, weights = 5, (0.6, -0.3, 0.5, 0.1, 0.2, -0.4, 0.3)
    p = Linear("linear", weights) if name == "linear" else parse(name)[0]
    fitted = p.fit(evidence(np.random.default_rng(0).standard_normal((50, 3)), [p]))
    same = lambda i, j: (i + phase) // m == (j + phase) // m  # noqa: E731
    expected = []
    for t in range(first, stop):
        past = np.eye(stop + 1)[: t + 1]
        w = -reference.errors(past, name, weights)[t][:t]  # weight on each earlier row
        own = sum(-2 * w[i] for i in range(t) if same(i, t))
        pairs = sum(w[i] * w[j] for i in range(t) for j in range(t) if i != j and same(i, j))
        expected.append(own + pairs)
    order = Order(np.array([[first, stop]]), np.array([phase]), m)
    change = kappa_null(fitted, 0.1, 0.0, order) - kappa_null(fitted, 0.0, 0.0, order)
    assert float(change) == pytest.approx(0.1 * np.mean(expected), abs=1e-9)


def test_frozen_parameters_in_epochs_show_no_order_once_epochs_are_known(tmp_path):
    """Gain of ``last`` is -1 / m without epochs, and the verdict is withheld; with them there is no difference."""
    for m in (5, 10):
        X = without_replacement(400 // m, m, seed=m, d=64)[:, None]
        path = str(stores.write_run(tmp_path / f"{m}.zarr", X))
        unknown, known = (to_json(analyze(path, NAMES, steps_per_epoch=s)) for s in (None, m))
        assert unknown["kappa"]["last"]["gain"] == pytest.approx(-1 / m, abs=0.02)
        assert {verdict(unknown["kappa"][n]) for n in ("last", "trend")} == {"epoch unknown"}
        assert abs(known["kappa"]["last"]["gain"]) < 0.02
        assert {verdict(known["kappa"][n]) for n in NAMES} <= {"no difference", "too small to matter"}
        assert known["epochs"] == {"steps": m, "source": "steps_per_epoch", "unknown": ""}


def test_batches_drawn_anew_are_judged_without_epochs(tmp_path):
    X = without_replacement(40, 10, d=64)[:, None]
    path = str(stores.write_run(tmp_path / "r.zarr", X))
    found = to_json(analyze(path, ["last"], steps_per_epoch=0))
    assert verdict(found["kappa"]["last"]) == "hurts"
    assert found["kappa"]["last"]["gain_epochs"] is None


def test_a_bounce_is_no_matter_of_epochs(tmp_path):
    X = np.where(np.arange(200) % 2, 1.0, -1.0)[:, None, None] + np.random.default_rng(0).standard_normal((200, 1, 32))
    found = to_json(analyze(str(stores.write_run(tmp_path / "r.zarr", X)), ["last"]))
    assert verdict(found["kappa"]["last"]) == "hurts"


def test_one_epoch_is_the_old_baseline(tmp_path):
    X = without_replacement(1, 60, d=32)[:, None]
    path = str(stores.write_run(tmp_path / "r.zarr", X))
    a, b = (analyze(path, NAMES, steps_per_epoch=s) for s in (0, 1000))
    np.testing.assert_allclose(a.kappa_null, b.kappa_null, rtol=1e-7)  # sums of columns are float32 over 32 rows


def sums_of(X, number):
    """Sum of squared sums by epoch, and of squared counts."""
    found = [X[number == e] for e in np.unique(number)]
    return sum(np.square(x.sum(0)) for x in found), sum(len(x) ** 2 for x in found)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 20), st.lists(st.integers(0, 40), max_size=6))
def test_epoch_sums_are_the_same_however_rows_are_cut(rows, m, first, cuts):
    X = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
    number = (np.arange(rows) + first) // m
    edges = sorted({0, rows, *(min(c, rows) for c in cuts)})
    whole = EpochSums.none(3)
    for a, b in itertools.pairwise(edges):
        whole = whole.merge(EpochSums.of(X[a:b], number[a:b]))
    for found in (whole, EpochSums.none(3).merge(whole), whole.merge(EpochSums.none(3))):
        squares, pairs = found.closed()
        expected, count = sums_of(X.astype(np.float64), number)
        np.testing.assert_allclose(squares, expected, rtol=1e-12, atol=1e-12)
        assert pairs == count


def test_windows_prefixes_cache_and_schedulers_agree_on_epochs(tmp_path):
    """Epochs that windows and gaps cut apart; the whole run's numbers do not depend on them."""
    X = without_replacement(30, 7, d=8).reshape(-1, 2, 4)
    steps = np.delete(np.arange(len(X) + 3), [50, 51, 100])
    path = str(stores.write_run(tmp_path / "r.zarr", X, steps=steps, chunk=8))
    ask = {"predictors": NAMES, "steps_per_epoch": 7}
    plain = analyze(path, **ask)
    cut = analyze(path, window=33, prefixes=4, cache=tmp_path / "cache", scheduler="synchronous", **ask)
    again = analyze(path, window=33, prefixes=4, cache=tmp_path / "cache", **ask)
    for name in ("kappa_null", "gain", "gain_low"):
        np.testing.assert_allclose(cut[name], plain[name], rtol=1e-6, atol=1e-7)  # cuts move sums of float32
        np.testing.assert_array_equal(again[name], cut[name])
        np.testing.assert_array_equal(again[f"window_{name}"], cut[f"window_{name}"])
    G = X.reshape(len(X), -1).astype(np.float32).astype(np.float64)
    expected, pairs = sums_of(G, steps // 7)
    c_in, c_out = coherences(np.square(G).sum(), np.square(G.sum(0)).sum(), expected.sum(), len(G), float(pairs))
    chains = open_run(path).contiguous_ranges
    order = Order(np.stack([0 * chains[:, 0], chains[:, 1] - chains[:, 0]], 1), steps[chains[:, 0]] % 7, 7)
    for p in parse("last,trend"):
        assert float(plain.kappa_null.sel(predictor=p.name)) == pytest.approx(
            float(kappa_null(p.fit(evidence(G, [p])), c_in, c_out, order)), rel=1e-5
        )


@pytest.mark.parametrize(
    ("epoch", "steps", "start"),
    [
        (np.arange(30) // 6, 6, 6),
        ((np.arange(30) + 2) // 6, 6, 4),
        (np.arange(30) / 6, 6, 6),  # what is done before the step
        ((np.arange(30) + 1) / 6, 6, 6),  # after it
        (np.zeros(30), 30, 0),
    ],
)
def test_the_logged_epoch_tells_how_many_steps_it_has(tmp_path, epoch, steps, start):
    path = stores.write_run(tmp_path / "r.zarr", np.ones((30, 1, 8)), scalars={"epoch": epoch})
    found = epochs_of(open_run(path))
    assert (found.steps, found.start % steps) == (steps, start % steps)


@pytest.mark.parametrize(
    ("epoch", "why"),
    [(np.sqrt(np.arange(30)) // 1, "the logged epochs differ in length"), (np.full(30, np.nan), "no epoch was logged")],
)
def test_epochs_that_a_log_does_not_tell_are_not_guessed(tmp_path, epoch, why):
    path = stores.write_run(tmp_path / "r.zarr", np.ones((30, 1, 8)), scalars={"epoch": epoch})
    assert epochs_of(open_run(path)).why == why


def test_steps_per_epoch_may_be_given_or_noted_and_must_be_a_number_of_rows(tmp_path):
    path = stores.write_run(tmp_path / "r.zarr", np.ones((10, 1, 8)), every=4)
    run = open_run(path)
    assert epochs_of(run, 8).steps == 8
    assert "no multiple" in epochs_of(run, 9).why
    assert epochs_of(run).why == "no epoch was logged"
    run.header.provenance.update(notes={"steps_per_epoch": 12})
    with pytest.raises(ValueError, match="steps_per_epoch"):
        epochs_of(run, -1)
    assert 10 < epochs_of(run, 10**30).steps < 2**62


@pytest.mark.parametrize("value", [True, -4, 2.5, 10**30, math.inf, math.nan, "8", [8]])
def test_a_note_that_is_no_number_of_steps_is_passed_over(tmp_path, value):
    path = stores.write_run(tmp_path / "r.zarr", np.ones((10, 1, 8)))
    run = open_run(path)
    run.info["provenance"]["notes"] = {"steps_per_epoch": value}
    assert epochs_of(run).why == "no epoch was logged"
    run.info["provenance"]["notes"] = {"steps_per_epoch": 8.0}
    assert epochs_of(run).steps == 8


def test_coherence_within_and_between_make_up_the_whole():
    G = without_replacement(6, 4)
    c_in, c_out = both(G, 4)
    pairs, inside = 24 * 23, 6 * 4 * 3
    c = coherence(np.square(G).sum(), np.square(G.sum(0)).sum(), 24)
    assert (inside * c_in + (pairs - inside) * c_out) / pairs == pytest.approx(c)


def test_the_report_and_the_terminal_say_what_random_order_keeps_to(tmp_path):
    from gradlog.analysis.results.findings import findings
    from gradlog.cli.analyze_text import report

    X = without_replacement(60, 5, d=64)[:, None]
    path = str(stores.write_run(tmp_path / "r.zarr", X))
    run = open_run(path)
    known = findings(to_json(analyze(run, ["last"], steps_per_epoch=5)))
    assert "Shuffled steps stay in their epochs of 5 steps." in known[0].text
    unknown = to_json(analyze(path, ["last"]))
    assert findings(unknown)[0].text.endswith("Order effect: epoch unknown: last.")
    assert findings(unknown)[0].next_step.startswith("say how long an epoch is: --steps-per-epoch N")
    shown = " ".join(" ".join(report(path, unknown)).split())
    assert "say how long one is with --steps-per-epoch" in shown
