"""What a repetition of the training needs to know."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis import audit_run


def test_provenance_is_a_checklist(tmp_path: Path) -> None:
    notes = {"seed": 3, "data": {"sha256": "ab" * 32}}
    with gradlog.open(tmp_path / "r.zarr", k=8, notes=notes, on_error="raise") as log:
        log.step(np.ones(20))
    report = audit_run(tmp_path / "r.zarr")
    there = next(x.facts["recorded"] for x in report.lines if x.check == "provenance" and x.status == "PASS")
    assert {"seed of the training", "digest or revision of the data", "library versions"} <= set(there)
