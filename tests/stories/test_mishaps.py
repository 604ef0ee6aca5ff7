"""Mishaps at the seams: between chunks, between hooks, between processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.files import Folder
from gradlog.analysis.audit.integrity import examine
from gradlog.errors import GradlogWarning
from gradlog.storage.sink import LocalSink
from tests.helpers.small_run import HangingDisk, flushers, open_files

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
    assert examine(Folder(tmp_path / "r.zarr")).problems == []


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
    assert examine(Folder(path)).problems == []


def test_no_journal_is_deleted_that_was_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    child = os.fork()
    if child == 0:
        try:
            log = start(path, storage=HangingDisk(chunk=0))
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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may take away."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_becomes_read_only(disk: Path) -> None:
    # No journal: the kernel refuses the remount while a file is open for writing.
    log = start(disk / "r.zarr", on_error="warn", journal=False)
    for _ in range(10):
        log.step(ROW)
    while log.rows - log.pending < 8:
        time.sleep(0.01)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.warns(GradlogWarning, match="training goes on"):
        for _ in range(10):
            log.step(ROW)
        log.close()
    assert open_run(disk / "r.zarr").steps.tolist() == list(range(8))


def test_a_disk_with_a_bad_sector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = LocalSink.put

    def bad(self: LocalSink, key: str, data: object) -> None:
        if key.endswith("/c.2.0.0"):
            raise OSError(5, "Input/output error")
        put(self, key, data)

    monkeypatch.setattr(LocalSink, "put", bad)
    log = start(tmp_path / "r.zarr", on_error="warn")
    with pytest.warns(GradlogWarning, match="Input/output error") as caught:
        for _ in range(100):
            log.step(ROW)
            time.sleep(0.0005)
        log.close()
    assert len(caught) == 1
    run = open_run(tmp_path / "r.zarr")
    assert len(run.steps) >= 12
    assert run.info["status"] == "failed"
    assert "Input/output error" in run.segments[0].header.reason


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_the_training_loop_fails(tmp_path: Path, stop: type[BaseException]) -> None:
    def train() -> None:
        with start(tmp_path / "r.zarr") as log:
            for _ in range(6):
                log.step(ROW)
            raise stop

    with pytest.raises(stop):
        train()
    info = open_run(tmp_path / "r.zarr").info
    assert (info["status"], info["reason"]) == ("failed", f"training ended by {stop.__name__}")
    assert len(open_run(tmp_path / "r.zarr").steps) == 6


@pytest.mark.slow
def test_nothing_grows(tmp_path: Path) -> None:
    """Memory, threads and open files after 1,000 steps are those after 10,000, half of them without a gradient."""

    def state() -> tuple[int, int, int]:
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(flushers() - before), len(open_files(tmp_path))

    before = flushers()
    tracemalloc.start()
    try:
        log = start(tmp_path / "r.zarr", chunk=64)
        with pytest.warns(GradlogWarning, match="no parameter had a gradient"):
            log.step({"w": None})
        for t in range(1, 10_000):
            log.step(ROW if t % 2 else {"w": None}, loss=1.0)
            if t == 1000:
                memory, threads, files = state()
        after = state()
        log.close()
    finally:
        tracemalloc.stop()
    assert after[0] < memory + 50_000
    assert after[1] <= threads
    assert after[2] <= files + 2  # a chunk may be on its way
    segment = open_run(tmp_path / "r.zarr").segments[0].header
    assert len(segment.dropped) == 64
    assert segment.dropped[-1][1] == 9_998
    assert flushers() <= before
    assert open_files(tmp_path) == []


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with start(tmp_path / "r.zarr") as log:
        log.step(ROW)
    with start(tmp_path / "r.zarr", mode="a") as log:
        log.step(ROW)
    assert open_run(tmp_path / "r.zarr").steps.tolist() == [0, 1]
    assert len(open_run(tmp_path / "r.zarr").segments) == 2


def test_only_rank_0_replaces_a_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 0"):
        start(tmp_path / "r.zarr", mode="w", rank=1)
