"""Memory is predicted and kept to, and grows with the length of the run by steps and flags alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import stores

MEASURE = """
import re, sys
from gradlog.analysis import analyze, open_run
ds = analyze(open_run(sys.argv[1]), scheduler="threads")
# VmHWM starts afresh at exec; ru_maxrss would still hold the size of the process that forked this one
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
print(ds.attrs["predicted_memory"], peak)
"""


def predicted_and_peak(path: Path) -> tuple[int, int]:
    """Bytes, of an analysis in a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(path)]
    root = Path(__file__).parents[3]
    predicted, peak = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.split()
    return int(predicted), int(peak)


def test_predicted_memory_is_not_exceeded_and_does_not_grow_with_the_run(tmp_path):
    peaks = []
    for T in (8192, 65536):
        X = np.random.default_rng(0).standard_normal((T, 2, 64), np.float32)
        predicted, peak = predicted_and_peak(stores.write_run(tmp_path / f"{T}.zarr", X, chunk=2048))
        assert peak <= predicted
        assert predicted < 1.8 * peak
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 40e6  # the rows alone are 34 MB


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_memory_than_their_steps_flags_and_errors(tmp_path):
    """Rows of 32 bytes: what would be kept of each beside a step, flags and an error, such as two norms, would show."""
    peaks = []
    for T in (50_000, 500_000):
        X = np.random.default_rng(0).standard_normal((T, 1, 8), np.float32)
        path = stores.write_run(tmp_path / f"{T}.zarr", X, chunk=8192, scalars={"loss": np.ones(T), "lr": np.ones(T)})
        del X
        predicted, peak = predicted_and_peak(path)
        assert peak <= predicted
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20e6 + 40 * 450_000
