"""A reader beside a writer, or beside several, sees a sound run at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradlog.analysis import open_run
from tests.helpers.small_run import gradient, start


def test_a_reader_sees_every_step_of_a_live_run(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr") as log:
        for t in range(50):
            log.step(gradient(t), loss=float(t))
            if t in (0, 15, 16, 49):
                run = open_run(tmp_path / "r.zarr")
                assert run.steps.tolist() == list(range(t + 1))
                assert run.info["status"] == "recording"
                assert run.scalar_columns["loss"].tolist() == list(map(float, range(t + 1)))


def test_reading_in_a_loop_while_a_process_writes(tmp_path: Path) -> None:
    script = (
        "import gradlog, numpy as np, sys\n"
        "with gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k=8, chunk=16, on_error='raise') as log:\n"
        "    for t in range(4000): log.step({'w': np.full(30, t + 1.0)})\n"
    )
    path = tmp_path / "r.zarr"
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        opened, last = 0, -1
        while writer.poll() is None:
            if not (path / "seg-000000-r0000" / "zarr.json").exists():
                continue
            run = open_run(path)
            if not len(run.steps):
                continue
            assert run.steps.tolist() == list(range(len(run.steps)))
            assert len(run.steps) > last
            opened, last = opened + 1, len(run.steps) - 1
        assert writer.returncode == 0
    assert opened > 5
    np.testing.assert_allclose(open_run(path).group_norm2[:, 0], 30 * np.arange(1.0, 4001) ** 2, rtol=1e-6)


@pytest.mark.slow
def test_reading_in_a_loop_while_three_ranks_write(tmp_path: Path) -> None:
    """Ranks start, run and end at different times; what is shown is a prefix of the steps that all of them hold."""
    script = (
        "import gradlog, numpy as np, sys, time\n"
        "rank = int(sys.argv[2])\n"
        "time.sleep(0.1 * rank)\n"
        "log = gradlog.open(sys.argv[1], like={'w': np.zeros(30)}, k='exact', chunk=16, rank=rank, mode='a',\n"
        "                   stage='local', on_error='raise')\n"
        "for t in range(1000):\n"
        "    log.step({'w': np.full(30, (t + 1.0) * 10**rank)})\n"
        "    time.sleep(0.002)\n"
        "log.close()\n"
    )
    path = tmp_path / "r.zarr"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(rank)]) for rank in range(3)]
    opened = 0
    while any(writer.poll() is None for writer in writers):
        if not (path / "zarr.json").exists():
            continue
        run = open_run(path)
        opened += 1
        present = sum(10**segment.header.rank for segment in run.segments)
        assert run.steps.tolist() == list(range(len(run.steps)))
        if len(run.steps):
            rows = run.rows.read(0, len(run.steps))[:, 0]
            assert np.array_equal(rows, (np.arange(len(rows)) + 1) * present)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert opened > 5
    assert open_run(path).sketch.compute()[-1, 0, 0] == 1000 * 111
