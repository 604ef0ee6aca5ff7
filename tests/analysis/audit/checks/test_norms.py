"""Sketches against the exact norms beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run
from gradlog.analysis.audit.checks import norms
from gradlog.sketching.fold_hash import FoldHash
from tests.helpers import forger
from tests.helpers.audits import texts
from tests.helpers.forger import Rows, Training


def test_columns_are_those_of_the_map() -> None:
    S = FoldHash(k=16, seed=3, m=64)
    found = [int(np.flatnonzero(S.sketch(np.eye(200)[j], "w"))[0]) for j in range(200)]
    assert S.columns("w", 200).tolist() == found


def test_a_tiny_group_is_compared_to_rounding(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(
        path, k=256, groups="tensors", like={"a": np.zeros(3), "b": np.zeros(9)}, on_error="raise"
    ) as log:
        for t in range(20):
            rng = np.random.default_rng(t)
            log.step({"a": rng.standard_normal(3), "b": rng.standard_normal(9)})
    assert not audit_run(path).failed

    def nudge(r: Rows) -> None:
        r.sketch[7, 0] *= 1.001

    forger.edit(path, nudge)
    assert "group 'a': the sketches of steps 7 contradict" in texts(audit_run(path), "norms", "FAIL")[0]


def test_a_row_under_a_gradient_of_zeros(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=8, groups="tensors", on_error="raise") as log:
        for t in range(5):
            log.step({"a": np.ones(900) * t, "b": np.zeros(900)})

    def fill(r: Rows) -> None:
        r.sketch[2, 1, 0] = 1

    forger.edit(tmp_path / "r.zarr", fill)
    assert "group 'b': the sketches of steps 2" in texts(audit_run(tmp_path / "r.zarr"), "norms", "FAIL")[0]


def test_exact_rows_are_compared_to_rounding(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training(), k="exact")
    assert not audit_run(tmp_path / "r.zarr").failed

    def nudge(r: Rows) -> None:
        r.sketch[30] *= 1.001

    forger.edit(tmp_path / "r.zarr", nudge)
    assert len(texts(audit_run(tmp_path / "r.zarr"), "norms", "FAIL")) == len(forger.SHAPES)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_sketches_scaled_throughout(path: Path, factor: float) -> None:
    def scale(r: Rows) -> None:
        r.sketch *= factor

    forger.edit(path, scale)
    assert texts(audit_run(path), "norms", "FAIL")


def test_one_group_shrunk_throughout_may_be_a_pair_that_cancels(path: Path) -> None:
    def shrink(r: Rows) -> None:
        r.sketch[:, 0] *= 0.3

    forger.edit(path, shrink)
    report = audit_run(path)
    assert not texts(report, "norms", "FAIL")
    assert texts(report, "norms", "WARN")


def test_updates_whose_norms_are_those_of_the_sketch_are_skipped(tmp_path: Path) -> None:
    forger.record(tmp_path / "r.zarr", Training(), what="update")

    def own(r: Rows) -> None:
        r.norm2 = np.square(r.sketch.astype(float)).sum(2)

    forger.edit(tmp_path / "r.zarr", own)
    assert texts(audit_run(tmp_path / "r.zarr"), "norms", "SKIP")


def test_the_limits_have_the_false_alarm_rate_that_they_claim() -> None:
    """Chi-square limits at a level that a simulation reaches: one in a hundred rows of spread vectors outside."""
    S = FoldHash(k=64)
    rng = np.random.default_rng(0)
    law = norms.chi2(64 / (1 + (3 * 64 + 6) / S.spec.m))
    low, high = law.ppf(0.005) / 64, law.isf(0.005) / 64
    r = []
    for _ in range(4000):
        x = rng.standard_normal(1500).astype(np.float32)
        r.append(np.sum(S.sketch(x, "w").astype(float) ** 2) / np.sum(x.astype(float) ** 2))
    outside = np.mean((np.array(r) < low) | (np.array(r) > high))
    assert 0.005 < outside < 0.02
