"""S3 over real HTTP on loopback: requests as planned in docs/scaling.md, and faults that lose and spoil nothing."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import gradlog
from gradlog.analysis import analyze, analyze_each, analyze_many, open_run
from gradlog.analysis.caching.cache import Cache
from gradlog.analysis.caching.fingerprints import chunk_digests
from gradlog.cli import app
from gradlog.errors import GradlogError, StoreUnavailableError
from tests.helpers.growing_runs import gradients, same_rows
from tests.helpers.http_faults import close_sessions, s3, s3_server

__all__ = ["s3", "s3_server"]

pytestmark = [
    pytest.mark.slow,
    # botocore and aiohttp leave sockets to the collector when a connection is cut under them
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning"),
]

URL = "s3://runs/r.zarr"
FLUSH = 15
"""Requests of a flush: 5 chunks, manifest, 5 arrays' metadata, commit record; a listing and a look at the root before,
and at the root again before the commit record."""

STORAGE = gradlog.Storage(request_pauses=(0.0, 0.01, 0.02))
"""Hardly any waiting between attempts."""


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """One try of the client itself, and a spool folder of our own."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("GRADLOG_SPOOL", str(tmp_path / "spool"))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


def tally(proxy, part):
    return sum(f"/{part}" in path for _, path in proxy.seen)


def test_requests_of_recording(s3):
    like = next(gradients(0, 1))
    log = gradlog.open(URL, like=like, k=16, chunk=16, groups="tensors", on_error="raise")
    rows = list(gradients(0, 81))
    log.step(rows[0])
    assert len(s3.seen) <= 12
    s3.clear()
    for row in rows[1:]:
        log.step(row)
    log.close()
    counts = s3.counts()
    assert counts["PUT"] == 6 * 12 + 6  # six flushes, and the metadata once more to close
    assert len(s3.seen) == 6 * FLUSH + 6 + 2


@pytest.mark.parametrize("chunks", [3, 9])
def test_requests_of_an_analysis(s3, record, chunks):
    record(URL, 0, 16 * chunks)
    s3.clear()
    analyze(URL, cache=False)
    assert sum("sketch/c." in path for method, path in s3.seen if method == "GET") == chunks
    for name in ("step", "flags", "group_norm2", "scalars"):
        assert sum(f"{name}/c." in path for method, path in s3.seen if method == "GET") == chunks
    assert len(s3.seen) <= 5 * chunks + 18
    s3.clear()
    analyze(URL, ["last"], svd="nystrom", passes=3, cache=False)
    assert chunks <= sum("sketch/c." in path for method, path in s3.seen if method == "GET") <= 3 * chunks


def test_requests_of_the_command(s3, record, monkeypatch, tmp_path):
    """The root and the commit record are read once; an answer that is kept asks for nothing else but journals."""
    monkeypatch.setenv("GRADLOG_CACHE", str(tmp_path / "cache"))
    record(URL, 0, 48)
    counts = []
    for _ in range(2):
        s3.clear()
        done = CliRunner().invoke(app.gradlog, ["analyze", URL, "--json", "-q"], catch_exceptions=False)
        assert json.loads(done.stdout)["run"]["steps"] == 48
        assert sum(path.endswith("r.zarr/zarr.json") for method, path in s3.seen if method == "GET") == 1
        assert sum(path.endswith("r0000/zarr.json") for method, path in s3.seen if method == "GET") == 1
        counts.append(len(s3.seen))
    assert counts[0] <= 36
    assert counts[1] <= 4


@pytest.mark.parametrize("kind", ["slow", "error", "cut", "lost", "mixed"])
def test_faults_now_and_then_lose_nothing(s3, record, tmp_path, kind):
    kinds = itertools.cycle(["slow", "error", "cut", "lost"])
    s3.fault = lambda method, path, number: None if number % 4 else next(kinds) if kind == "mixed" else kind
    record(URL, 0, 100, storage=STORAGE)
    assert s3.failed >= 20
    s3.clear()
    s3.fault = lambda method, path, number: None
    record(tmp_path / "local.zarr", 0, 100)
    same_rows(URL, tmp_path / "local.zarr", 100)
    run = open_run(URL)
    segment = run.segments[0].header
    assert segment.status == "closed"
    assert len(chunk_digests(run, segment, Cache(tmp_path / "c"))) == 7


TRAINING = """
import json, sys, warnings
import gradlog, s3fs
from tests.helpers.growing_runs import gradients

storage, s3fs.S3FileSystem.retries = gradlog.Storage(request_pauses=(0.0,), close_wait=0.5), 1
done = {}
for at in json.loads(sys.argv[1]):
    options = {"k": 16, "chunk": 16, "groups": "tensors", "storage": storage}
    log = gradlog.open(f"s3://runs/r{at}.zarr", like=next(gradients(0, 1)), **options)
    acknowledged = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for t, row in enumerate(gradients(0, 40)):
            log.step(row, loss=1 / (1 + t), lr=0.1)
            acknowledged += log.active
        log.close()
    done[at] = [acknowledged, log.reason]
print(json.dumps(done))
"""


def test_an_outage_in_the_middle_of_a_flush(s3, record, tmp_path):
    """From a request of the second flush on nothing answers for good. Training ends well, and the spool has each row.

    Every other request of the flush in turn, a run each, all recorded by one process that is gone when its runs go on.
    """
    requests: dict[int, int] = {}

    def outage(method, path, number):
        run = re.search(r"r(\d+)\.zarr", path)
        if run is None:  # a listing of the bucket, before there is a run
            return None
        at = int(run[1])
        if "manifest/000000.json" in path:
            # five arrays' metadata, the root, and the commit record end the first flush
            requests[at] = -7
        elif at in requests:
            requests[at] += 1
        return "error" if requests.get(at, 0) >= at else None

    s3.fault = outage
    record(tmp_path / "local.zarr", 0, 60)
    places = range(1, FLUSH + 1, 2)
    code = [sys.executable, "-c", TRAINING, json.dumps(list(places))]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(code, check=True, capture_output=True, text=True, env=env, timeout=300)
    s3.fault = lambda method, path, number: None
    for at, (acknowledged, reason) in json.loads(done.stdout).items():
        url = f"s3://runs/r{at}.zarr"
        assert reason.startswith("StoreUnavailableError")
        assert acknowledged == 40
        assert open_run(url).steps.tolist() == list(range(16))
        record(url, 40, 60)
        same_rows(url, tmp_path / "local.zarr", 60)


@pytest.mark.parametrize("kind", ["slow", "cut"])
def test_reading_under_faults_gives_the_same_numbers_or_none(s3, record, kind, monkeypatch):
    record(URL, 0, 60)
    plain = analyze(URL)
    close_sessions()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")  # the client's own retries, as by default
    s3.clear()
    s3.fault = lambda method, path, number: None if number % 6 else kind
    found = analyze(URL)
    assert s3.failed > 3
    xr.testing.assert_identical(found.drop_attrs(deep=False), plain.drop_attrs(deep=False))
    close_sessions()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.fault = lambda method, path, number: kind if "sketch/c.3" in path else None
    with pytest.raises(StoreUnavailableError, match=r"s3://.*(reduce|Unavailable|closed)"):
        analyze(URL)


@pytest.mark.parametrize("kind", ["slow", "cut"])
def test_a_store_that_refuses_is_not_called_damaged(s3, record, kind, capsys):
    record(URL, 0, 60)
    for part in ("", "zarr.json", "seg-000000-r0000/zarr.json", "step/c.1", "list-type", "sketch/c.1"):
        close_sessions()
        s3.fault = lambda method, path, number, part=part: kind if part in path else None
        for verb in ("analyze", "info", "audit"):
            if (verb, part) == ("info", "sketch/c.1"):
                continue  # reads no sketches
            assert app.run([verb, URL]) == 3, (verb, part)
            said = capsys.readouterr()
            assert "FAIL" not in said.out
            assert "does not answer" in said.err


def test_a_missing_object_is_an_error_and_not_zeros(s3, record):
    import s3fs

    record(URL, 0, 100)
    s3fs.S3FileSystem().rm("runs/r.zarr/seg-000000-r0000/sketch/c.2.0.0")
    with pytest.raises(GradlogError, match="missing"):
        analyze(URL)


def test_a_bucket_is_an_archive(s3, record, tmp_path):
    for i in range(3):
        record(f"s3://runs/deep/r{i}.zarr", 0, 60, seed=i)
        record(tmp_path / "deep" / f"r{i}.zarr", 0, 60, seed=i)
    there, here = analyze_many("s3://runs"), analyze_many(tmp_path / "deep")
    assert there.run.values.tolist() == [f"s3://runs/deep/r{i}.zarr" for i in range(3)]
    np.testing.assert_array_equal(there.kappa, here.kappa)
    s3.clear()
    again = analyze_many("s3://runs/deep/*.zarr")
    assert tally(s3, "sketch/c.") == tally(s3, "manifest/") == tally(s3, "step/c.") == 0
    assert len(s3.seen) <= 3 * 12 + 6
    np.testing.assert_array_equal(again.kappa, there.kappa)
    assert [f.type for f in analyze_each("s3://elsewhere").failed] == ["FileNotFoundError"]


def test_a_run_that_grew_in_a_bucket_costs_its_new_chunks(s3, record, small_blocks):
    record(URL, 0, 320)
    analyze_many(URL)
    record(URL, 320, 400)
    s3.clear()
    found = analyze_many(URL)
    assert float(found.rows[0]) == 400
    gets = [path for method, path in s3.seen if method == "GET"]
    assert sum("sketch/c." in path for path in gets) == 5
    assert sum("manifest/" in path for path in gets) == 5
    np.testing.assert_array_equal(found.kappa[0], analyze(URL).kappa)
