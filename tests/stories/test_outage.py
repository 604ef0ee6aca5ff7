"""An object store that stops answering in mid-run, over real HTTP: every acknowledged row gets there in the end."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.cli import app
from gradlog.errors import GradlogWarning, StoreUnavailableError
from gradlog.sketching.projector import projector
from gradlog.storage import spool
from tests.helpers.growing_runs import gradients, same_rows
from tests.helpers.http_faults import s3, s3_server
from tests.helpers.small_run import flushers

__all__ = ["s3", "s3_server"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]

URL = "s3://runs/r.zarr"
OPTIONS = {"k": 16, "chunk": 16, "groups": "tensors"}
STORAGE = gradlog.Storage(request_pauses=(0.0,), flush_pauses=(0.05, 0.1), step_wait=0.2)
"""Short pauses."""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """One try of the client itself, and a spool folder of our own."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def silence(s3):
    """Switch the store off and on."""

    def switch(off, kind="slow"):
        s3.fault = lambda method, path, number: kind if off else None

    return switch


def start(url=URL, storage=STORAGE, **options):
    return gradlog.open(url, like=next(gradients(0, 1)), storage=storage, **OPTIONS, **options)


def log_rows(log, start, stop):
    for t, row in enumerate(gradients(start, stop), start):
        log.step(row, loss=1 / (1 + t), lr=0.1)


def refused(log):
    """Wait until the store has refused; the next row that is logged tells of it."""
    while not log.outage:
        time.sleep(0.01)


def committed(log, chunks):
    """Wait until the store has taken so many chunks, and the thread that wrote them knows that it answers."""
    while log.rows - log.pending < 16 * chunks or log.outage:
        time.sleep(0.01)


def spooled(tmp_path):
    return sum(path.stat().st_size for path in (tmp_path / "spool").rglob(".journal-*"))


def arrived(record, tmp_path, rows, statuses, url=URL):
    """Require that the store has every row and the spool none, and that the segments ended so."""
    record(tmp_path / "local.zarr", 0, rows)
    same_rows(url, tmp_path / "local.zarr", rows)
    assert [s.header.status for s in open_run(url).segments] == statuses
    assert check(url).problems == []
    assert not list((tmp_path / "spool").rglob(".*-*"))


def same_parameters(steps):
    """Before each of these steps the parameters were what the gradient of that step is."""
    segment = open_run(URL).segments[0]
    assert segment.header.snapshots == len(steps)
    assert segment.snapshot_steps.tolist() == steps
    header = open_run(URL).header
    theta, norm2 = np.empty((2, 16), np.float32), np.empty(2)
    for step, found in zip(steps, segment.snapshots, strict=True):
        row = next(gradients(step, step + 1))
        projector(header.sketch, header.tensors, 2).project([row["a"], row["b"]], theta, norm2)
        np.testing.assert_array_equal(found, theta)


@pytest.mark.parametrize("kind", ["slow", "cut"])
def test_an_outage_in_the_middle_loses_nothing(s3, record, silence, tmp_path, kind):
    log = start()
    log_rows(log, 0, 20)
    silence(True, kind)
    with pytest.warns(GradlogWarning, match="does not answer.*training goes on") as told:
        log_rows(log, 20, 40)
        refused(log)
        log_rows(log, 40, 150)
    assert len(told) == 1
    assert log.rows - log.pending <= 32
    assert len(list((tmp_path / "spool").rglob(".journal-*"))) >= 8
    silence(False)
    log_rows(log, 150, 160)
    log.annotate(loss=1 / 160)
    log.close()
    assert log.reason == ""
    arrived(record, tmp_path, 160, ["closed"])
    assert app.run(["audit", URL]) == 0


def test_two_outages_are_told_twice_and_training_waits_for_neither(s3, record, silence, tmp_path):
    log = start(storage=dataclasses.replace(STORAGE, step_wait=3600.0))
    for begin in (0, 64):
        log_rows(log, begin, begin + 1)  # of which the second one sees that the store is back
        silence(True)
        with pytest.warns(GradlogWarning, match="does not answer") as told:
            log_rows(log, begin + 1, begin + 17)
            refused(log)
            log_rows(log, begin + 17, begin + 64)
        assert len(told) == 1
        silence(False)
        committed(log, (begin + 63) // 16)
    log.close()
    arrived(record, tmp_path, 128, ["closed"])


@pytest.mark.parametrize("way", ["recover", "open"])
def test_an_outage_to_the_end_leaves_the_spool_and_says_how_to_upload_it(s3, record, silence, tmp_path, capsys, way):
    before = flushers()
    log = start(storage=dataclasses.replace(STORAGE, close_wait=0.3))
    log_rows(log, 0, 20)
    committed(log, 1)
    silence(True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        log_rows(log, 20, 100)
        log.parameters(next(gradients(100, 101)))
        log.close()
    command = f"GRADLOG_SPOOL={tmp_path}/spool gradlog recover {URL}"
    assert command in str(told[-1].message)
    assert log.reason.startswith("StoreUnavailableError")
    while not flushers() <= before:
        time.sleep(0.01)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        gradlog.recover(URL, storage=STORAGE)
    silence(False)
    assert len(open_run(URL).steps) == 16
    if way == "recover":
        assert app.run(["recover", URL]) == 0
        assert "seg-000000-r0000  recovered, 84 rows recovered" in capsys.readouterr().out
        arrived(record, tmp_path, 100, ["recovered"])
        assert app.run(["recover", URL]) == 0
        assert "0 rows" in capsys.readouterr().out
    else:
        record(URL, 100, 110)
        arrived(record, tmp_path, 110, ["recovered", "closed"])
    same_parameters([100])


KILLED = """
import os, signal, sys, time
import gradlog, s3fs
from tests.helpers.growing_runs import gradients

storage = gradlog.Storage(request_pauses=(0.0,), flush_pauses=(0.05,), step_wait=0.1)
s3fs.S3FileSystem.retries = 1
log = gradlog.open(sys.argv[1], like=next(gradients(0, 1)), k=16, chunk=16, groups="tensors", storage=storage)
for t, row in enumerate(gradients(0, 70)):
    if t % 23 == 0:
        log.parameters(row)
    log.step(row, loss=1 / (1 + t), lr=0.1)
    print(t, flush=True)
    while t == 20 and log.rows - log.pending < 16 or t == 40 and not log.outage:
        time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_an_outage_loses_nothing(s3, record, silence, tmp_path):
    def fault(method, path, number):  # for good, from the second flush's manifest on: its chunks are there
        nonlocal out
        out = out or "manifest/000001" in path
        return "error" if out else None

    out = False
    s3.fault = fault
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", KILLED, URL], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == [str(t) for t in range(70)]
    silence(False)
    assert open_run(URL).info["snapshots"] == [0]
    assert [(r.rows, r.status) for r in gradlog.recover(URL)] == [(54, "recovered")]
    arrived(record, tmp_path, 70, ["recovered"])
    same_parameters([0, 23, 46, 69])


def test_the_spool_is_bounded_and_what_it_cannot_hold_is_a_known_gap(s3, silence, tmp_path, monkeypatch):
    log = start()
    size = spool.chunk_bytes(log.header, 3)
    log.close()
    monkeypatch.setenv("GRADLOG_SPOOL_SIZE", str(5 * size))
    log = start("s3://runs/b.zarr")
    silence(True)
    with pytest.warns(GradlogWarning) as told:
        log_rows(log, 0, 20)
        refused(log)  # before the spool is full
        log_rows(log, 20, 200)
    assert [str(w.message).count("the spool is full") for w in told] == [0, 1]
    assert 3 * size < spooled(tmp_path) <= 5 * size + 4096
    silence(False)
    committed(log, 5)
    log_rows(log, 200, 210)
    log.close()
    run = open_run("s3://runs/b.zarr")
    assert run.steps.tolist() == [*range(80), *range(200, 210)]
    assert run.segments[0].header.dropped == ((80, 199, "the spool is full"),)
    assert check("s3://runs/b.zarr").problems == []


def test_without_a_journal_memory_is_all_there_is(s3, silence):
    log = start(journal=False, storage=dataclasses.replace(STORAGE, close_wait=0.3))
    silence(True)
    with pytest.warns(GradlogWarning) as told:
        log_rows(log, 0, 60)
        log.close()
    assert "without a journal the last 32 rows are lost" in str(told[-1].message)


def test_a_snapshot_that_was_taken_in_an_outage_is_kept(s3, silence, tmp_path):
    log = start()
    log.parameters(next(gradients(0, 1)))
    log_rows(log, 0, 16)
    silence(True)
    with pytest.warns(GradlogWarning):
        log_rows(log, 16, 60)
        refused(log)
        log.step(next(gradients(60, 61)))
    log.parameters(next(gradients(0, 1)))
    silence(False)
    log.close()
    run = open_run(URL)
    assert run.segments[0].snapshot_steps.tolist() == [0, 61]
    assert len(run.steps) == 61
    assert check(URL).problems == []


def test_nobody_at_the_address(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        STORAGE.open("s3://runs/other.zarr").get("zarr.json")


def test_a_size_that_is_none(s3, monkeypatch):
    monkeypatch.setenv("GRADLOG_SPOOL_SIZE", "much")
    with pytest.raises(ValueError, match="expected a size such as"):
        start(on_error="raise")
