"""Two runs that hold the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradlog
from gradlog.analysis import audit_run, open_run
from gradlog.errors import CorruptRunError
from tests.helpers import forger
from tests.helpers.audits import texts
from tests.helpers.forger import Rows, Training


def test_two_runs(tmp_path: Path, path: Path) -> None:
    other, training = tmp_path / "fork.zarr", Training()
    with gradlog.open(other, k=16, chunk=16, groups="tensors", like=training.start(), on_error="raise") as log:
        for t, _, g, _ in training.walk():
            if g is not None:
                log.step(g if t < 50 else {n: x * (2 + t) for n, x in g.items()})
    forger.record(tmp_path / "stranger.zarr", Training(7))
    assert "both begin with the same 50 rows, to step 49; then they part at step 50" in texts(
        audit_run(path, other), "shared"
    )
    assert texts(audit_run(path, tmp_path / "stranger.zarr"), "shared", "PASS")
    assert "both are copies of one run" in texts(audit_run(path, path), "shared")[0]

    def splice(r: Rows) -> None:
        donor = forger.load(tmp_path / "stranger.zarr")[1][0]
        r.norm2[60:80], r.sketch[60:80] = donor.norm2[10:30], donor.sketch[10:30]

    forger.edit(path, splice)
    found = texts(audit_run(path, tmp_path / "stranger.zarr"), "shared", "WARN")
    assert found == ["20 further rows are in both, such as step 60 here and 10 there"]


def test_a_second_run_that_is_damaged_fails(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "other.zarr"
    forger.record(other, Training(1))
    (other / "seg-000000-r0000" / "step" / "c.1").write_bytes(b"nothing")
    report = audit_run(path, other)
    assert report.failed
    assert not texts(report, "shared", "PASS", "WARN")


def test_a_run_that_no_reader_opens_fails_whatever_is_asked_beside(tmp_path: Path, path: Path) -> None:
    """Every digest fits, but the steps go back: each check that reads the run is a finding, and the others go on."""
    other = tmp_path / "other.zarr"
    forger.record(other, Training(1))

    def back(r: Rows) -> None:
        r.step[:] = r.step[::-1].copy()

    forger.edit(other, back)
    with pytest.raises(CorruptRunError, match="do not increase"):
        open_run(other)
    assert "do not increase" in texts(audit_run(path, other), "shared")[0]
    report = audit_run(other, path, replay=lambda step: {})
    assert "do not increase" in texts(report, "replay")[0]
    assert "do not increase" in texts(report, "shared")[0]
