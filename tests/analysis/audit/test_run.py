"""All checks of a run: compacted, live and empty ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import gradlog
from gradlog.analysis import audit_run
from gradlog.storage.compact import compact
from tests.helpers.audits import texts


def test_a_compacted_run_reads_the_same(path: Path) -> None:
    before = [(x.status, x.text) for x in audit_run(path).lines if x.check not in ("limits", "provenance")]
    compact(path)
    assert [(x.status, x.text) for x in audit_run(path).lines if x.check not in ("limits", "provenance")] == before


def test_a_run_that_is_being_recorded(tmp_path: Path) -> None:
    log = gradlog.open(tmp_path / "r.zarr", k=8, chunk=8, on_error="raise")
    for t in range(13):
        log.step(np.random.default_rng(t).standard_normal(30))
    report = audit_run(tmp_path / "r.zarr")
    log.close()
    assert not report.failed
    assert "13 rows" in texts(report, "steps", "PASS")[0]
    assert "status is 'recording'" in texts(report, "lineage", "WARN")[0]


def test_an_empty_run(tmp_path: Path) -> None:
    gradlog.open(tmp_path / "r.zarr", k=8, like=np.zeros(20), on_error="raise").close()
    report = audit_run(tmp_path / "r.zarr")
    assert not report.failed
    json.dumps(report.to_json(), allow_nan=False)
