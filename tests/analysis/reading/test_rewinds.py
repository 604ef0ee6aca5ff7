"""Two writers at one time are told from a job that was rewound."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import audit_run, open_run
from gradlog.analysis.audit.integrity import check
from gradlog.cli.app import run as command
from tests.helpers.small_run import gradient, start


def record(path: Path, steps: range, late: float = 0.0, **options: object) -> None:
    """Record steps; ``late`` seconds are added to their time, as if the job had gone on."""
    with start(path, mode="a", **options) as log:
        if log.state_dict()["step"] > steps.start:
            log.load_state_dict(log.state_dict() | {"step": steps.start})
        for t in steps:
            log.step(gradient(t), loss=0.0, wall_time=time.time() + late)


def test_a_rewind_is_a_rewind(tmp_path: Path) -> None:
    record(tmp_path / "r.zarr", range(20))
    record(tmp_path / "r.zarr", range(10, 30))
    again = open_run(tmp_path / "r.zarr").relogged
    assert (again["steps"], again["identical"], again["writers"]) == (10, 10, [])


def test_two_writers_are_two_writers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.zarr"
    record(path, range(20), late=5.0)
    record(path, range(10, 30))
    again = open_run(path).relogged
    assert (again["steps"], again["writers"]) == (0, [["seg-000000-r0000", "seg-000001-r0000"]])
    assert [line.status for line in audit_run(path).lines if line.check == "writers"] == ["WARN"]
    for words in ("".join(check(path).notes), _info(path, capsys)):
        assert "two writers" in words
        assert "after a rewind" not in words


def test_ranks_of_one_launch_are_one_job(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    logs = [start(path, mode="a", rank=rank) for rank in range(2)]
    for t in range(10):
        for log in logs:
            log.step(gradient(t), wall_time=time.time() + 100)
    for log in logs:
        log.close()
    assert open_run(path).relogged["writers"] == []


def test_without_times_nothing_is_claimed(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    for _ in range(2):
        with gradlog.open(path, like={"w": np.zeros(3)}, k=8, mode="a", on_error="raise") as log:
            for _ in range(3):
                log.step({"w": np.ones(3)}, wall_time=float("nan"))
    assert open_run(path).relogged["writers"] == []


def _info(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert command(["info", str(path)]) == 0
    return capsys.readouterr().out
