"""Creating, continuing, replacing and rewinding a run; what is refused at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradlogWarning, RunExistsError, SpecMismatchError
from tests.helpers.small_run import environment, gradient, start


def test_modes(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path) as log:
        log.step(gradient(0))
    with pytest.raises(RunExistsError, match='mode="a"'):
        start(path)
    with pytest.raises(SpecMismatchError, match="sketch="):
        start(path, mode="a", k=9)
    with pytest.raises(SpecMismatchError, match=r"parameter|tensors|groups"):
        gradlog.open(path, like={"z": np.zeros(3)}, k=8, chunk=16, mode="a", on_error="raise")
    with start(path, mode="a") as log:
        log.step(gradient(1))
    assert open_run(path).steps.tolist() == [0, 1]
    with start(path, mode="w") as log:
        log.step(gradient(0))
    assert open_run(path).info["steps"] == 1


@pytest.mark.parametrize("bad", [{"k": 0}, {"mode": "x"}, {"stage": "?"}, {"every": 0}, {"sketch_bits": 24}])
def test_wrong_arguments_raise_at_once(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        gradlog.open(tmp_path / "r.zarr", **bad)


def test_a_second_logger_of_the_same_process_takes_over_and_the_first_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    one = start(path, mode="a", on_error="warn")
    for t in range(20):
        one.step(gradient(t))
    two = start(path, mode="a")
    two.step(gradient(20))
    with pytest.warns(GradlogWarning, match="goes on from here, in seg-000001-r0000"):
        one.step(gradient(20))
    two.step(gradient(21))
    one.close()
    two.close()
    assert open_run(path).steps.tolist() == list(range(22))
    assert [s.header.status for s in open_run(path, "all").segments] == ["failed", "closed"]
    assert examine(Folder(path)).problems == []


def test_a_checkpoint_rewinds_and_keeps_the_abandoned_branch(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with start(path) as log:
        for t in range(20):
            log.step(gradient(t))
        state = log.state_dict()
        for t in range(20, 40):
            log.step(gradient(t))
    with start(path, mode="a") as log:
        log.load_state_dict(state)
        for t in range(20, 25):
            log.step(gradient(1000 + t))
    assert open_run(path).steps.tolist() == list(range(25))
    assert len(open_run(path, view="all").steps) == 45


def test_exit_without_close_is_closed_and_disabled_is_nothing(tmp_path: Path) -> None:
    script = "import gradlog, numpy as np\nlog = gradlog.open('r.zarr', k=8)\nfor t in range(5): log.step(np.ones(9))\n"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment())
    assert open_run(tmp_path / "r.zarr").info["status"] == "closed"
    shutil.rmtree(tmp_path / "r.zarr")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, env=environment(GRADLOG_DISABLED="1"))
    assert not (tmp_path / "r.zarr").exists()
