"""A few runs of ``make calibrate``: conclusions that are often wrong fail here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.programs import load

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def calibrate():
    return load(ROOT / "benchmarks" / "calibrate.py")


@pytest.mark.slow
@pytest.mark.parametrize("only", ["false verdicts", "holds kappa", "both errors", "certified range"])
def test_a_few_runs_are_within_their_ranges(calibrate, only):
    lines, wrong = calibrate.table(runs=3, only=only)
    assert wrong == []
    assert len(lines) > 2


def test_a_share_out_of_its_range_is_noticed(calibrate):
    case = calibrate.Case("", lambda rng, seed: {}, least=0.93)
    assert calibrate.allowed(case, 95, 100)
    assert calibrate.allowed(case, 88, 100)  # 0.93 less three standard errors of a hundred runs
    assert not calibrate.allowed(case, 80, 100)
    assert not calibrate.allowed(case, 0, 0)


def test_streams_are_what_they_say(calibrate):
    rng = np.random.default_rng(0)
    rows = calibrate.frozen_epochs(rng, 5)
    sums = rows.reshape(-1, 5, rows.shape[1]).sum(axis=1)
    np.testing.assert_allclose(sums, sums[0] + np.zeros_like(sums), rtol=1e-9)  # every epoch sees the same samples
    walk = calibrate.autoregressive(rng, 0.5, 2000)
    assert walk.var() == pytest.approx(1 / (1 - 0.25), rel=0.02)


def test_the_page_takes_the_table(calibrate, tmp_path):
    page = tmp_path / "calibration.md"
    page.write_text(calibrate.PAGE.read_text())
    calibrate.write(["| a |", "|---|", "| 1 |"], 7, page)
    text = page.read_text()
    assert "| 1 |\n<!-- end of table -->" in text
    assert "--runs 7" in text
