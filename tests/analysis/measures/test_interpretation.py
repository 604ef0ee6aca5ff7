"""Verdicts about predictors, and whose theorem the bounds are."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradlog
from gradlog.analysis import analyze, to_json
from gradlog.analysis.measures.interpretation import SENTENCES
from tests.helpers import reference


def record(path, rows, optimizer=None):
    notes = {} if optimizer is None else {"optimizer": optimizer}
    with gradlog.open(path, like={"w": rows[0]}, k="exact", notes=notes, on_error="raise") as log:
        for row in rows:
            log.step({"w": row}, loss=1.0, lr=0.1)
    return str(path)


def correlated(phi: float, T=3000, d=200, seed=0):
    """AR(1) rows of unit variance."""
    r = np.random.default_rng(seed)
    rows = r.standard_normal((T, d))
    for t in range(1, T):
        rows[t] = phi * rows[t - 1] + np.sqrt(1 - phi * phi) * rows[t]
    return rows


@pytest.mark.parametrize(
    ("phi", "words"),
    [(0.3, {"last": "helps", "ema(0.99)": "helps"}), (0.012, {"last": "too small to matter"}),
     (-0.3, {"last": "hurts", "ar(2)": "epoch unknown"}),  # epochs of 4 would let ar(2) gain 12 %, ``last`` lose 25 %
     (-0.5, {"last": "hurts", "trend": "hurts", "ar(2)": "helps"})],
)  # fmt: skip
def test_one_path_helps_one_predictor_and_hurts_another(tmp_path, phi, words):
    document = to_json(analyze(record(tmp_path / "r.zarr", correlated(phi)), list(words)))
    assert {name: k["verdict"] for name, k in document["kappa"].items()} == words
    assert document["verdicts"]["looked_at"] == 2 * len(words)  # the run, and its only group


def test_the_floor_is_the_gain_of_a_small_correlation_with_the_prediction(tmp_path):
    """Against the norms of gradients and predictions themselves."""
    rows = correlated(0.0, T=400)
    ds = analyze(record(tmp_path / "r.zarr", rows), ["zero", "last", "ema(0.99)", "trend"])
    for name in ("last", "ema(0.99)", "trend"):
        errors = reference.errors(rows, name)
        predictions = rows - errors
        scale = 2 * np.sqrt(np.square(predictions).sum() / np.square(rows).sum())  # Cauchy and Schwarz
        here = ds.sel(predictor=name)
        assert float(here.gain_floor) == pytest.approx(0.02 * scale / float(here.kappa_null), rel=0.1)
    assert float(ds.gain_floor.sel(predictor="zero")) == 0


def test_every_scope_has_its_verdicts_and_they_are_counted(tmp_path):
    document = to_json(analyze(record(tmp_path / "r.zarr", correlated(0.2, T=200)), ["zero", "last"], window=100))
    scopes = [document, *document["windows"], *document["by_group"].values()]
    scopes += [g for w in document["windows"] for g in w["by_group"].values()]
    assert all(s["kappa"]["zero"]["verdict"] == "reference" for s in scopes)
    words = [s["kappa"]["last"]["verdict"] for s in scopes]
    assert set(words) <= set(SENTENCES)
    assert document["verdicts"]["looked_at"] == len(words) == 6


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [(None, "Which optimizer this run had was not logged."), ("AdamW", "optimizer, AdamW, is another"),
     ("SGD, momentum 0.9", "is another"), ("SGD", "optimizer, SGD, is the row zero")],
)  # fmt: skip
def test_bounds_say_when_the_optimizer_is_not_the_theorem_s(tmp_path, optimizer, said):
    ds = analyze(record(tmp_path / "r.zarr", correlated(0.0, T=20), optimizer), ["last"])
    assert said in to_json(ds)["bounds"]["about"]
    assert json.loads(ds.attrs["bound_inputs"])["optimizer"] == (optimizer or "")
