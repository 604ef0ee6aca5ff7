"""SIGKILL at random moments: no acknowledged step is lost, no wrong row appears, every open succeeds."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit import Folder, verify

KILLS = 100


def expected(step: int) -> np.ndarray:
    return np.arange(12, dtype=np.float32) * np.float32(step + 1)


def child(path: Path, pipe: int) -> None:
    """Record as fast as it goes, acknowledging each step through the pipe."""
    log = gradlog.open(path, like={"w": np.zeros(12)}, k="exact", chunk=8, mode="a", on_error="raise")
    step = log.state_dict()["step"]
    while True:
        log.step({"w": expected(step)}, loss=float(step))
        os.write(pipe, step.to_bytes(8, "little"))
        step += 1


@pytest.mark.slow
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "r.zarr", -1
    rng = random.Random(0)
    for kill in range(KILLS):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            try:
                child(path, write)
            finally:
                os._exit(1)
        os.close(write)
        first = os.read(read, 8)
        assert first, "the recorder died by itself"
        time.sleep(rng.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        data = first
        while part := os.read(read, 65536):
            data += part
        os.close(read)
        acknowledged = max(acknowledged, int.from_bytes(data[-(len(data) % 8) - 8 :][:8], "little"))
        run = open_run(path)
        assert run.steps.tolist() == list(range(len(run.steps)))
        assert len(run.steps) > acknowledged, f"kill {kill}"
        if kill % 10 == 9:
            rows = run.sketch.compute()[:, 0]
            assert np.array_equal(rows, np.stack([expected(t) for t in run.steps.tolist()]))
    with gradlog.open(path, like={"w": np.zeros(12)}, k="exact", chunk=8, mode="a", on_error="raise") as log:
        log.step({"w": expected(log.state_dict()["step"])})
    assert verify(Folder(path)) == []
    assert len(open_run(path).segments) == KILLS + 1
