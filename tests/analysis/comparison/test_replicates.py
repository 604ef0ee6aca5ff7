"""Configurations over seeds: means, spreads, differences, and what is said of them."""

from __future__ import annotations

import types

import numpy as np
import pytest
import scipy.stats

from gradlog.analysis.comparison.replicates import holm, mean_of, replicates, welch
from gradlog.errors import UnusableInputError


def measured(label, kappa, half=0.0, sketch_seed=0, kind="fold-hash/1", **notes):
    entry = {"value": kappa, "low": kappa - half, "high": kappa + half}
    document = {"kappa": {"zero": entry, "last": entry}, "run": {"seed": sketch_seed, "kind": kind}}
    return types.SimpleNamespace(label=label, notes=notes, document=document)


def sweep(values, **extra):
    """One run for each optimizer and seed, with a random map of its own."""
    return [
        measured(f"{name}-{seed}", x, sketch_seed=i * 100 + seed, optimizer=name, seed=seed, **extra)
        for i, (name, found) in enumerate(values.items())
        for seed, x in enumerate(found)
    ]


def test_holm_is_scipys():
    p = np.random.default_rng(0).random(9) ** 2
    order = np.argsort(p)
    slow = np.empty(9)
    for rank, i in enumerate(order):
        slow[i] = min(1, max((9 - r) * p[order[r]] for r in range(rank + 1)))
    np.testing.assert_allclose(holm(p), slow, rtol=1e-9)
    assert np.isnan(holm([0.5, float("nan")])[1])
    assert holm([0.5, float("nan")])[0] == 0.5


def test_the_mean_and_its_interval_are_students():
    x = np.random.default_rng(1).normal(1.4, 0.03, 6)
    found = mean_of(x)
    low, high = scipy.stats.t.interval(0.95, 5, x.mean(), scipy.stats.sem(x))
    np.testing.assert_allclose([found.value, found.sd, found.low, found.high], [x.mean(), x.std(ddof=1), low, high])
    assert mean_of(x, 0.1).high - found.value == pytest.approx(np.hypot(high - x.mean(), 0.1))


def test_shared_seeds_are_paired_and_others_are_welchs():
    rng = np.random.default_rng(2)
    common = rng.normal(0, 0.3, 5)  # what a seed does to both optimizers
    a, b = 1.4 + common + rng.normal(0, 0.01, 5), 1.5 + common + rng.normal(0, 0.01, 5)
    found = replicates(sweep({"adamw": a, "momentum": b}), ["zero", "last"], ["optimizer"])
    (paired,) = found.differences
    expected = scipy.stats.ttest_rel(a, b)
    ends = expected.confidence_interval()
    np.testing.assert_allclose([paired.value, paired.low, paired.high], [(a - b).mean(), ends.low, ends.high])
    assert paired.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert paired.seeds == 5
    assert paired.sentence.startswith("adamw - momentum, last: -0.")
    assert "5 paired seeds" in paired.sentence

    rows = sweep({"adamw": a, "momentum": b[:4]})
    for row in rows[5:]:
        row.notes["seed"] += 10
    (apart,) = replicates(rows, ["last"], ["optimizer"]).differences
    expected = scipy.stats.ttest_ind(a, b[:4], equal_var=False)
    assert apart.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert apart.seeds == 0
    assert welch(a, b[:4])[1] == pytest.approx(expected.df)


def test_intervals_of_differences_cover_over_many_experiments():
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        common = rng.normal(0, 0.1, 4)
        a, b = 1 + common + rng.normal(0, 0.02, 4), 1.1 + common + rng.normal(0, 0.02, 4)
        (d,) = replicates(sweep({"a": a, "b": b}), ["last"], ["optimizer"]).differences
        held += d.low <= -0.1 <= d.high
    assert 0.91 <= held / 300 <= 0.985


def test_configurations_are_inferred_where_all_but_the_seed_agrees():
    found = replicates(sweep({"adamw": [1.0, 1.1], "sgd": [2.0, 2.2]}, batch=32), ["last"])
    assert [(c.label, c.seeds) for c in found.configurations] == [
        ("optimizer=adamw", ("0", "1")),
        ("optimizer=sgd", ("0", "1")),
    ]
    assert found.warnings == ()
    assert replicates(sweep({"adamw": [1.0], "sgd": [2.0]}), ["last"]) is None
    assert replicates([measured("a", 1.0), measured("b", 2.0)], ["last"]) is None


def test_the_first_notes_that_tell_configurations_apart_name_them():
    rows = sweep({"adamw": [1.0, 1.1], "sgd": [2.0, 2.2]})
    for row in rows:
        row.notes["betas" if row.notes["optimizer"] == "adamw" else "momentum"] = 0.9
    assert [c.label for c in replicates(rows, ["last"]).configurations] == ["optimizer=adamw", "optimizer=sgd"]
    rows[0].notes["lr"] = rows[1].notes["lr"] = 0.1
    rows.append(measured("other", 1.0, optimizer="adamw", betas=0.9, lr=0.2, seed=0))
    labels = [c.label for c in replicates(rows, ["last"]).configurations]
    assert labels == ["optimizer=adamw, betas=0.9, lr=0.1", "optimizer=sgd", "optimizer=adamw, betas=0.9, lr=0.2"]


def test_one_map_for_all_widens_the_interval_and_is_said():
    own = [measured(f"r{s}", 1 + s / 10, half=0.2, sketch_seed=s, seed=s) for s in range(4)]
    shared = [measured(f"r{s}", 1 + s / 10, half=0.2, sketch_seed=7, seed=s) for s in range(4)]
    exact = [measured(f"r{s}", 1 + s / 10, kind="exact/1", seed=s) for s in range(4)]
    narrow, wide, true = (replicates(rows, ["last"]).configurations[0].kappa["last"] for rows in (own, shared, exact))
    assert (narrow.low, narrow.high) == (true.low, true.high)
    assert wide.high - wide.value == pytest.approx(np.hypot(narrow.high - narrow.value, 0.2))
    assert any("share a sketch seed" in text for text in replicates(shared, ["last"]).warnings)
    assert replicates(own, ["last"]).warnings == replicates(exact, ["last"]).warnings == ()


def test_what_cannot_be_told_apart_is_said():
    rows = sweep({"adamw": [1.0, 1.1, 1.2], "sgd": [2.0]})
    rows[2].notes["seed"] = 1
    rows[1].notes["lr"] = 0.1
    found = replicates(rows, ["last"], ["optimizer"])
    assert found.differences == ()
    said = " | ".join(found.warnings)
    for part in ("sgd: a single run", "adamw: several runs have the same seed", "differ in more than seed: lr"):
        assert part in said
    with pytest.raises(UnusableInputError, match="no note 'task'"):
        replicates(rows, ["last"], ["task"])
