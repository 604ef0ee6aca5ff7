"""Rows that are too much alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis import audit_run
from tests.helpers import forger
from tests.helpers.audits import texts
from tests.helpers.forger import Rows


def test_a_row_copied_with_noise_and_sign(path: Path) -> None:
    def copy(r: Rows) -> None:
        noise = np.random.default_rng(1).standard_normal(r.sketch[20].shape)
        r.sketch[70] = -r.sketch[20] + 1e-4 * noise * np.abs(r.sketch[20]).max()
        r.norm2[70] = r.norm2[20]

    forger.edit(path, copy)
    assert "steps 20 and 70 hold near-identical rows, one -1 times the other" in texts(audit_run(path), "rows", "WARN")


def test_slow_gradients_are_no_copies(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=64, on_error="raise") as log:
        x, y = np.random.default_rng(0).standard_normal((2, 900))
        for t in range(80):
            log.step(x + 1e-4 * t * y)
    assert not texts(audit_run(tmp_path / "r.zarr"), "rows")


def test_constant_gradients_are_told_once(tmp_path: Path) -> None:
    with gradlog.open(tmp_path / "r.zarr", k=16, on_error="raise") as log:
        for _ in range(50):
            log.step(np.arange(100.0))
    found = texts(audit_run(tmp_path / "r.zarr"), "rows", "WARN")
    assert 1 < len(found) <= 21
