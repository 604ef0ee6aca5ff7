"""Whatever fails, the recorder ends and the training goes on; what was committed stays readable."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.errors import GradientError, GradlogWarning, StepOrderError, StoreUnavailableError
from gradlog.storage.sink import LocalSink
from tests.helpers.small_run import flushers, gradient, start


def test_bad_gradients_raise_when_asked_to(tmp_path: Path) -> None:
    cases = [
        ({"a": {"w": np.zeros((4, 5))}}, GradientError, r"a\.w: expected a gradient of shape \(5, 4\), got \(4, 5\)"),
        ({"d": np.zeros(3)}, GradientError, "'d' is no parameter of this run"),
    ]
    for i, (bad, error, text) in enumerate(cases):
        with start(tmp_path / f"{i}.zarr") as log:
            log.step(gradient(0))
            with pytest.raises(error, match=text):
                log.step(bad)
        info = open_run(tmp_path / f"{i}.zarr").info
        assert info["steps"] == 1
        assert info["status"] == "failed"
    with start(tmp_path / "order.zarr") as log:
        log.step(gradient(0), step=5)
        with pytest.raises(StepOrderError, match="expected at least 6, got 5"):
            log.step(gradient(1), step=5)


def test_the_first_failure_warns_once_and_training_goes_on(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr", on_error="warn")
    for t in range(20):
        log.step(gradient(t))
    with pytest.warns(GradlogWarning, match="recording ended, training goes on: GradientError") as caught:
        for _ in range(5):
            log.step({"c": np.zeros(3)})
    assert len(caught) == 1
    assert not log.active
    log.close()
    assert open_run(tmp_path / "r.zarr").info["steps"] == 20


def test_nothing_raises_even_when_warnings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "precious.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start(tmp_path / "r.zarr", on_error="warn") as log:
            log.step(gradient(0))
    assert "no gradlog run" in log.reason
    assert os.listdir(tmp_path / "r.zarr") == ["precious.txt"]


@pytest.mark.parametrize("way", ["gone", "full"])
def test_a_disk_that_fails_ends_the_recording_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    path = tmp_path / "r.zarr"
    log = start(path, on_error="warn")
    for t in range(20):
        log.step(gradient(t))
    if way == "gone":
        path.rename(tmp_path / "taken away")
    else:

        def full(self: LocalSink, key: str, data: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(LocalSink, "put", full)
    with pytest.warns(GradlogWarning, match="training goes on"):
        for t in range(20, 100):
            log.step(gradient(t))
        log.close()
    if way == "gone":
        assert not path.exists()
    else:
        monkeypatch.undo()
        steps = open_run(path).steps
        assert len(steps) >= 20
        assert steps.tolist() == list(range(len(steps)))


def test_a_real_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        log = start(disk / "r.zarr", k=64, on_error="warn")
        with pytest.warns(GradlogWarning, match="No space left"), log:
            for t in range(3000):
                log.step(gradient(t))
        steps = open_run(disk / "r.zarr").steps
        assert len(steps) > 100
        assert steps.tolist() == list(range(len(steps)))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_a_close_that_gave_up_did_not_commit_can_be_recovered(tmp_path: Path) -> None:
    gate, asked, before = threading.Event(), list[str](), flushers()

    class Store(gradlog.Storage):
        def open(self, path: str | os.PathLike[str], durable: bool = False) -> LocalSink:
            return RefusesThenIsSlow(path)

    class RefusesThenIsSlow(LocalSink):
        def put(self, key: str, data: object) -> None:
            if threading.current_thread() not in before and threading.current_thread().name == "gradlog-flush":
                asked.append(key)
                if len(asked) == 1:
                    raise StoreUnavailableError("no answer")
                assert gate.wait(30)
            super().put(key, data)

    log = start(tmp_path / "r.zarr", on_error="warn", storage=Store(close_wait=0.05, flush_pauses=(600.0,)))
    for t in range(20):
        log.step(gradient(t))
    while not log.outage:
        time.sleep(0.01)
    with pytest.warns(GradlogWarning, match="the disk took nothing"):
        log.close()
    gate.set()
    for thread in flushers() - before:
        thread.join(30)
    assert [one.status for one in gradlog.recover(tmp_path / "r.zarr")] == ["recovered"]
    assert open_run(tmp_path / "r.zarr").steps.tolist() == list(range(20))


def test_a_stuck_disk_costs_rows_but_not_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, put, before = threading.Event(), LocalSink.put, flushers()

    def waits(self: LocalSink, key: str, data: object) -> None:
        if threading.current_thread().name == "gradlog-flush":
            assert stuck.wait(30)
        put(self, key, data)

    monkeypatch.setattr(LocalSink, "put", waits)
    log = start(tmp_path / "r.zarr", on_error="warn", storage=gradlog.Storage(step_wait=0.05))
    with pytest.warns(GradlogWarning, match="the disk did not keep up") as caught:
        for t in range(50):
            log.step(gradient(t))
    assert len(caught) == 1
    stuck.set()
    log.close()
    assert flushers() <= before
    run = open_run(tmp_path / "r.zarr")
    assert run.steps.tolist() == list(range(32))
    assert run.segments[0].header.dropped == ((32, 49, "the disk did not keep up"),)


def test_fork_pickle_and_copy_leave_the_original_alone(tmp_path: Path) -> None:
    log = start(tmp_path / "r.zarr")
    log.step(gradient(0))
    for twin in (pickle.loads(pickle.dumps(log)), copy.deepcopy(log)):
        twin.step(gradient(1))
        twin.close()
        assert not twin.active
    child = os.fork()
    if child == 0:
        log.step(gradient(1))
        log.close()
        os._exit(0)
    os.waitpid(child, 0)
    log.step(gradient(1))
    log.close()
    assert open_run(tmp_path / "r.zarr").steps.tolist() == [0, 1]
