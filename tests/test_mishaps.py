"""Mishaps at the seams: between chunks, between hooks, between processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit import Folder, verify
from gradlog.errors import GradlogWarning

ROW = {"w": np.ones(6)}


def start(path: Path, **options: object) -> gradlog.Logger:
    return gradlog.open(path, like=ROW, **{"k": "exact", "chunk": 4, "on_error": "raise", **options})


def test_scalars_that_only_one_chunk_has(tmp_path: Path) -> None:
    with start(tmp_path / "r.zarr") as log:
        for t in range(12):
            log.step(ROW, **({f"s{i}": float(i) for i in range(20)} if t == 1 else {}))
    expected = np.full(12, np.nan)
    expected[1] = 19
    assert np.array_equal(open_run(tmp_path / "r.zarr").scalar_columns["s19"], expected, equal_nan=True)
    assert verify(Folder(tmp_path / "r.zarr")) == []


def test_a_failure_inside_one_of_several_hooks(tmp_path: Path) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([w], lr=0.1)
    log = gradlog.attach(optimizer, tmp_path / "r.zarr", k="exact")
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    w.data = torch.ones(4)
    with pytest.warns(GradlogWarning, match="training goes on: GradientError"):
        for _ in range(3):
            w.grad = torch.ones(4)
            optimizer.step()
    assert torch.allclose(w.detach(), torch.full((4,), 0.7))
    log.close()
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_a_fused_optimizer_under_a_grad_scaler(tmp_path: Path) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([w], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradlog.attach(optimizer, tmp_path / "r.zarr", k="exact", on_error="raise"):
        scaler.scale((w * torch.tensor([1.0, 2.0, 3.0])).sum()).backward()
        scaler.step(optimizer)
    assert open_run(tmp_path / "r.zarr").sketch.compute()[0, 0].tolist() == [1, 2, 3]


def test_killed_while_a_folder_had_no_metadata_yet(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    path.mkdir()
    (path / "zarr.json.1-1.partial").write_bytes(b"{")
    with start(path, mode="a") as log:
        log.step(ROW)
    (path / "seg-000001-r0000").mkdir()
    with start(path, mode="a") as log:
        log.step(ROW)
    assert open_run(path).steps.tolist() == [0, 1]


def test_a_run_that_is_replaced_while_it_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    old = start(path, on_error="warn")
    for _ in range(3):
        old.step(ROW)
    with start(path, mode="w") as new:
        new.step({"w": np.full(6, 7.0)})
        with pytest.warns(GradlogWarning, match="training goes on"):
            for _ in range(9):
                old.step(ROW)
    old.close()
    assert open_run(path).sketch.compute()[:, 0, 0].tolist() == [7]
    assert verify(Folder(path)) == []


def test_no_journal_is_deleted_that_was_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    child = os.fork()
    if child == 0:
        try:
            log = start(path)
            log._recording._flusher._commit = lambda block: time.sleep(60)
            for _ in range(7):
                log.step(ROW)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    segment = path / "seg-000000-r0000"
    first = bytearray((segment / ".journal-000000").read_bytes())
    first[200] ^= 1
    (segment / ".journal-000000").write_bytes(first)
    second = (segment / ".journal-000001").read_bytes()
    start(path, mode="a").close()
    assert len(open_run(path).steps) == 2
    assert (segment / ".torn-000000").read_bytes() == bytes(first)
    assert (segment / ".torn-000001").read_bytes() == second
