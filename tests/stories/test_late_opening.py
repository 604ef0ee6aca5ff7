"""A run that is opened while its object store does not answer: its rows wait, and get there without harm to others."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gradlog
from gradlog.analysis import open_run
from gradlog.analysis.audit.integrity import check
from gradlog.cli import app
from gradlog.errors import GradlogWarning, StoreUnavailableError
from gradlog.storage import spool, tickets
from tests.helpers.growing_runs import gradients, same_rows
from tests.helpers.http_faults import s3, s3_server
from tests.helpers.small_run import flushers

__all__ = ["s3", "s3_server"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]

URL, BESIDE = "s3://runs/r.zarr", "s3://runs/r-2.zarr"
OPTIONS = {"k": 16, "chunk": 16, "groups": "tensors"}
STORAGE = gradlog.Storage(request_pauses=(), flush_pauses=(0.05, 0.1), step_wait=0.2)
"""Short pauses."""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """One try of the client itself, and a spool folder of our own."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))


@pytest.fixture
def silence(s3):
    """Switch the store off and on."""

    def switch(off):
        s3.fault = lambda method, path, number: "slow" if off else None

    return switch


def start(silence, url=URL, storage=STORAGE, **options):
    """Open a run while the store is down, which is said."""
    silence(True)
    with pytest.warns(GradlogWarning, match="does not answer.*training goes on, rows wait in the spool") as told:
        log = gradlog.open(url, like=next(gradients(0, 1)), storage=storage, **OPTIONS, **options)
    assert len(told) == 1
    assert log.active
    assert "does not answer" in log.outage
    return log


def log_rows(log, begin, end, numbered=False):
    for t, row in enumerate(gradients(begin, end), begin):
        log.step(row, t if numbered else None, loss=1 / (1 + t), lr=0.1)


def objects(path):
    """Every object of a run, and its bytes."""
    import s3fs

    files = s3fs.S3FileSystem()
    files.invalidate_cache()
    return {name: files.cat_file(name) for name in files.find(path.removeprefix("s3://"))}


def spooled(tmp_path):
    return [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]


def whole(record, tmp_path, url, rows, statuses):
    """Require that the store has every row, and the spool no file."""
    record(tmp_path / "local.zarr", 0, rows)
    same_rows(url, tmp_path / "local.zarr", rows)
    assert [s.header.status for s in open_run(url).segments] == statuses
    assert check(url).problems == []
    assert spooled(tmp_path) == []


def test_the_first_rows_wait_until_the_store_answers(s3, record, silence, tmp_path):
    log = start(silence)
    log.parameters(next(gradients(0, 1)))
    log_rows(log, 0, 70)
    assert (log.rows, log.pending) == (70, 70)
    state = log.state_dict()
    silence(False)
    while log.outage:
        time.sleep(0.01)
    log_rows(log, 70, 80)
    log.close()
    assert log.reason == ""
    whole(record, tmp_path, URL, 80, ["closed"])
    assert open_run(URL).segments[0].snapshot_steps.tolist() == [0]
    with gradlog.open(URL, like=next(gradients(0, 1)), mode="a", on_error="raise", **OPTIONS) as log:
        log.load_state_dict(state)
        assert log.recorder.recording.next == 70


def test_a_run_that_turns_out_to_be_there_is_not_touched(s3, record, silence, tmp_path):
    record(URL, 0, 20)
    before = objects(URL)
    log = start(silence, mode="w")
    with pytest.warns(GradlogWarning, match=f"recorded beside it, to {BESIDE}"):
        log_rows(log, 0, 20)
        silence(False)
        log.close()
    assert (log.path, log.reason) == (BESIDE, "")
    assert objects(URL) == before
    whole(record, tmp_path, BESIDE, 20, ["closed"])


def test_rows_that_the_loop_numbers_go_on_in_the_run(s3, record, silence, tmp_path):
    with gradlog.open(URL, like=next(gradients(0, 1)), on_error="raise", **OPTIONS) as log:
        log_rows(log, 0, 20)
        state = log.state_dict()
    log = start(silence, mode="a")
    log_rows(log, 20, 30, numbered=True)
    silence(False)
    log.close()
    log = start(silence, mode="a")
    assert log.state_dict() == {}  # nobody knows yet of which run
    log.load_state_dict({**state, "step": 30})
    log_rows(log, 30, 40)
    assert log.state_dict() == {**state, "step": 40}
    silence(False)
    log.close()
    whole(record, tmp_path, URL, 40, ["closed"] * 3)
    log = start(silence, mode="a")
    log.load_state_dict({**state, "uuid": "0" * 32, "step": 40})
    log_rows(log, 40, 50)
    silence(False)
    with pytest.warns(GradlogWarning, match="recorded beside it"):
        log.close()
    assert open_run(BESIDE).steps.tolist() == list(range(40, 50))


def test_an_answer_that_is_lost_makes_no_second_run(s3, record, silence, tmp_path):
    """The root, then the claim of the segment, is written; neither is answered, nor is anything behind it."""
    for at in (1, 2):
        seen = 0

        def fault(method, path, number, at=at):
            nonlocal seen
            if method != "PUT" or seen >= at:
                return "lost" if seen >= at else None
            seen += 1
            return "lost" if seen == at else None

        url = f"s3://runs/n{at}.zarr"
        log = start(silence, url)
        log_rows(log, 0, 5)
        s3.fault = fault
        while seen < at:
            time.sleep(0.005)
        flusher = log.recorder.recording.queue._flusher
        refusal = flusher.refusal
        while flusher.refusal is refusal:  # so that nothing but the store knows of the claim
            time.sleep(0.005)
        silence(False)
        log.close()
        assert (log.reason, log.path) == ("", url)
        assert [s.header.status for s in open_run(url).segments] == ["closed"]
        assert open_run(url).steps.tolist() == list(range(5))
    assert spooled(tmp_path) == []


KILLED = """
import os, signal, sys
import gradlog, s3fs
from tests.helpers.growing_runs import gradients

storage = gradlog.Storage(request_pauses=(), flush_pauses=(0.05,), step_wait=0.1)
s3fs.S3FileSystem.retries = 1
log = gradlog.open(sys.argv[1], like=next(gradients(0, 1)), k=16, chunk=16, groups="tensors", storage=storage)
for t, row in enumerate(gradients(0, 40)):
    log.step(row, loss=1 / (1 + t), lr=0.1)
    print(t, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def abandoned(silence, begin, end, numbered=True):
    """Rows of a process whose store never answered."""
    before = flushers()
    log = start(silence, mode="a", storage=dataclasses.replace(STORAGE, close_wait=0.0))
    log_rows(log, begin, end, numbered)
    with pytest.warns(GradlogWarning, match=f"{end - begin} rows wait in the spool.*gradlog recover {URL}"):
        log.close()
    while not flushers() <= before:
        time.sleep(0.01)


def test_who_ends_before_the_store_ever_answered_loses_nothing(s3, record, silence, tmp_path, capsys):
    silence(True)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", KILLED, URL], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split() == [str(t) for t in range(40)]
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        gradlog.recover(URL, storage=STORAGE)
    abandoned(silence, 40, 50)
    silence(False)
    assert app.run(["recover", URL]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"seg-00000{i}-r0000  recovered, {n} rows recovered" for i, n in enumerate((40, 10))]
    whole(record, tmp_path, URL, 50, ["recovered"] * 2)
    abandoned(silence, 50, 60)
    silence(False)
    record(URL, 60, 70)  # opening the run does the same
    whole(record, tmp_path, URL, 70, ["recovered"] * 3 + ["closed"])
    abandoned(silence, 0, 20, numbered=False)
    silence(False)
    before = objects(URL)
    assert app.run(["recover", URL]) == 0
    assert f"20 rows recovered, in {BESIDE}" in capsys.readouterr().out
    assert objects(URL) == before
    whole(record, tmp_path, BESIDE, 20, ["recovered"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_kill_between_the_claim_and_the_end_of_the_ticket(s3, record, silence, tmp_path, monkeypatch):
    log = start(silence, storage=dataclasses.replace(STORAGE, close_wait=0.0))
    log_rows(log, 0, 40)
    with monkeypatch.context() as patch:
        patch.setattr(tickets.Ticket, "discard", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        silence(False)
        while log.recorder.recording.queue._flusher.alive:  # its thread ends there, as the process would
            time.sleep(0.01)
    monkeypatch.setattr("gradlog.recorder.recovery.still_writes", lambda *args: False)
    monkeypatch.setattr("gradlog.storage.recover.still_writes", lambda *args: False)
    assert [(r.segment, r.rows, r.path) for r in gradlog.recover(URL)] == [("seg-000000-r0000", 40, "")]
    whole(record, tmp_path, URL, 40, ["recovered"])
    silence(True)
    with pytest.warns(GradlogWarning, match="recording ended"):
        log.close()


def test_the_spool_is_bounded_before_the_first_answer_too(s3, silence, tmp_path, monkeypatch):
    log = start(silence, "s3://runs/size.zarr")
    size = spool.chunk_bytes(log.header, 3)
    log.close()
    assert spooled(tmp_path) == []  # no row, no run
    monkeypatch.setenv("GRADLOG_SPOOL_SIZE", str(5 * size))
    log = start(silence)
    with pytest.warns(GradlogWarning, match="the spool is full"):
        log_rows(log, 0, 200)
    silence(False)
    log.close()
    run = open_run(URL)
    assert run.steps.tolist() == list(range(80))
    assert run.segments[0].header.dropped == ((80, 199, "the spool is full"),)
    assert check(URL).problems == []


def test_without_a_journal_or_in_a_folder_an_error_is_one_at_once(s3, silence, tmp_path):
    silence(True)
    with pytest.warns(GradlogWarning, match="recording ended.*does not answer"):
        assert not gradlog.open(URL, like=next(gradients(0, 1)), storage=STORAGE, journal=False, **OPTIONS).active
    (tmp_path / "file").write_text("")
    with pytest.raises(gradlog.GradlogError):
        gradlog.open(tmp_path / "file", like=next(gradients(0, 1)), on_error="raise")


def test_a_ticket_that_is_damaged_or_of_a_living_process_is_left_alone(s3, silence, tmp_path, caplog):
    log = start(silence, storage=dataclasses.replace(STORAGE, flush_pauses=(3600.0,)))
    first = log.outage
    log_rows(log, 0, 20)
    while log.outage is first:
        time.sleep(0.01)
    silence(False)
    assert [(r.status, r.rows, r.live) for r in gradlog.recover(URL, True, storage=STORAGE)] == [("recording", 0, True)]
    (place,) = (tmp_path / "spool").rglob(tickets.NAME)
    (place.parent.parent / "seg-000001-r0000").mkdir()
    for damage in (b"{}", b"[", place.read_bytes()):  # the last is that of another folder
        (place.parent.parent / "seg-000001-r0000" / tickets.NAME).write_bytes(damage)
        assert len(tickets.waiting(URL)) == 1
        assert "passed over" in caplog.records[-1].getMessage()
    log.close()
    assert open_run(URL).n_steps == 20
