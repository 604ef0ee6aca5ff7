"""Logged numbers against the rows and each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis import audit_run
from tests.helpers import forger
from tests.helpers.audits import texts
from tests.helpers.forger import Rows


def test_clipping_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with gradlog.open(path, k=64, on_error="raise") as log:
        for t in range(20):
            g = np.random.default_rng(t).standard_normal(900)
            norm = float(np.linalg.norm(g.astype(np.float32)))
            log.step(g * min(1, 29 / norm), lr=0.1, clip_norm=norm, clip_coef=min(1, 29 / norm), grad_norm=norm)
    assert texts(audit_run(path), "scalars", "PASS") == ["consistent: clip_coef, clip_norm, grad_norm, lr"]

    def edit(r: Rows) -> None:
        r.column("clip_coef")[5] = 0.5
        r.column("lr")[6] = -0.1

    forger.edit(path, edit)
    found = " ".join(texts(audit_run(path), "scalars", "WARN"))
    assert "lr is negative at steps 6" in found
    assert "clip_norm is not the norm of the recorded gradient at steps 5" in found
