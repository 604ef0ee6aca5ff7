"""Sketches of parameters that a run kept, against checkpoints: the right one, one step off, and another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run

SHAPES = {"a.w": (40, 30), "b.w": (50,)}


def parameters(t: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {name: x - np.float32(1e-3 * t) * np.sign(x) for name, x in start.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.zarr"
    with gradlog.open(path, like=parameters(0), k=32, chunk=8, on_error="raise") as log:
        for t in range(20):
            if t % 10 == 0:
                log.parameters(parameters(t))
            log.step({name: np.sign(x) for name, x in parameters(t).items()}, lr=1e-3)
        log.parameters(parameters(20))
    for t in (0, 9, 10, 20):
        np.savez(tmp_path / f"{t}.npz", **parameters(t))
    return path


def lines(path: Path, *checkpoints: tuple[int, Path]) -> dict[str, str]:
    report = audit_run(path, checkpoints=checkpoints)
    return {line.text.split(":")[0]: line.status for line in report.lines if line.check == "snapshots"}


def test_a_checkpoint_is_known_again(run: Path, tmp_path: Path) -> None:
    assert gradlog.analysis.open_run(run).info["snapshots"] == [0, 10, 20]
    found = lines(run, (0, tmp_path / "0.npz"), (10, tmp_path / "10.npz"), (20, tmp_path / "20.npz"))
    assert found == {"0.npz": "PASS", "10.npz": "PASS", "20.npz": "PASS"}


def test_a_checkpoint_of_another_step_is_not(run: Path, tmp_path: Path) -> None:
    assert lines(run, (10, tmp_path / "9.npz"), (5, tmp_path / "0.npz")) == {"9.npz": "FAIL", "0.npz": "SKIP"}


def test_a_changed_sketch_of_parameters_is_damage(run: Path, tmp_path: Path) -> None:
    chunk = run / "seg-000000-r0000/theta/c.1.0.0"
    data = bytearray(chunk.read_bytes())
    data[7] ^= 1
    chunk.write_bytes(data)
    report = audit_run(run)
    assert any("theta/c.1.0.0" in line.text for line in report.lines if line.status == "FAIL")


def test_compaction_keeps_them(run: Path, tmp_path: Path) -> None:
    from gradlog.storage.compact import compact

    compact(run)
    assert not audit_run(run).failed
    assert lines(run, (10, tmp_path / "10.npz")) == {"10.npz": "PASS"}
