"""Which fold a recording takes, and what is said of it in the log, in the store and by ``gradlog info``."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.common.recorded import recorded
from gradlog.recorder.rows.fold import WORTH, fastest
from gradlog.recorder.rows.row_builder import Row
from gradlog.sketching.fold_hash import FoldHash


def record(path, size, **options):
    """A run of two steps of one tensor."""
    with gradlog.open(path, k=8, **options) as log:
        for step in range(2):
            log.step({"w": np.full(size, step + 1, np.float32)})
    return open_run(path)


def folds(run):
    return [segment.get("fold") for segment in run.info["segments"]]


def test_large_models_are_folded_by_compiled_loops_small_ones_by_numpy(tmp_path):
    numba = pytest.importorskip("numba")
    large, small = record(tmp_path / "large.zarr", WORTH), record(tmp_path / "small.zarr", WORTH - 1)
    assert (folds(large), folds(small)) == ([f"numba {numba.__version__}"], ["numpy"])
    expected = FoldHash(8).sketch(np.full(WORTH, 2, np.float32), "w")
    assert large.sketch[1, 0].compute().tobytes() == expected.tobytes()
    assert recorded(large.info)["fold"] == f"numba {numba.__version__}"


def test_exact_runs_are_folded_by_nothing(tmp_path):
    with gradlog.open(tmp_path / "exact.zarr", k="exact") as log:
        log.step({"w": np.ones(3)})
    assert folds(open_run(tmp_path / "exact.zarr")) == [None]


def test_a_run_whose_rows_come_from_a_device_names_no_fold_though_its_parameters_have_one(tmp_path):
    def fill(out, norm2):
        out[:], norm2[:] = 1, 1
        return 0

    params = {"w": np.ones(10, np.float32)}
    with gradlog.open(tmp_path / "run.zarr", like=params, k=8) as log:
        log.parameters(params)
        log.recorder.record(lambda: Row(fill, {}))
    assert folds(open_run(tmp_path / "run.zarr")) == [None]


def test_every_segment_names_its_own(tmp_path):
    record(tmp_path / "run.zarr", 10)
    assert folds(record(tmp_path / "run.zarr", 10, mode="a")) == ["numpy", "numpy"]


RUN = """
import logging, sys
import numpy as np
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
import gradlog
from gradlog.recorder.rows.row_builder import Row
from gradlog.recorder.rows.fold import WORTH
assert "numba" not in sys.modules
with gradlog.open(sys.argv[1], k=8, on_error="raise") as log:
    log.step({"w": np.ones(WORTH, np.float32)})
print("loaded:", sorted(m for m in ("numba", "gradlog.sketching.compiled_fold") if m in sys.modules))
"""


def recorded_elsewhere(tmp_path, env=None):
    """What a fresh process says that records a large model."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "run.zarr")],
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
    )
    assert done.returncode == 0, done.stderr
    assert len(open_run(tmp_path / "run.zarr").steps) == 1
    return done.stdout


def test_numba_is_loaded_when_a_large_recording_begins_and_the_log_says_so(tmp_path):
    numba = pytest.importorskip("numba")
    said = recorded_elsewhere(tmp_path)
    assert f"run.zarr is sketched by numba {numba.__version__} (ready in " in said
    assert "loaded: ['gradlog.sketching.compiled_fold', 'numba']" in said


def test_a_broken_numba_is_said_once_and_numpy_is_used(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('no LLVM on this machine')")
    said = recorded_elsewhere(tmp_path, {"PYTHONPATH": str(tmp_path)})
    assert said.count("numba cannot be used, so numpy sketches (ImportError: no LLVM on this machine)") == 1
    assert "run.zarr is sketched by numpy\n" in said
    assert folds(open_run(tmp_path / "run.zarr")) == ["numpy"]


def test_numba_that_is_switched_off_is_not_used(tmp_path):
    pytest.importorskip("numba")
    assert "is sketched by numpy (NUMBA_DISABLE_JIT is set)" in recorded_elsewhere(tmp_path, {"NUMBA_DISABLE_JIT": "1"})


def test_the_choice_is_made_once():
    assert fastest() is fastest()
