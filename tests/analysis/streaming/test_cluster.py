"""A real dask scheduler and workers in processes of their own, on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gradlog.analysis import analyze, analyze_many, open_run
from gradlog.analysis.reading import rows
from gradlog.analysis.streaming.executors import dask
from gradlog.cli import main
from gradlog.errors import SchedulerError
from tests.helpers.wire import Relay

pytestmark = [
    pytest.mark.slow,
    # A client that is closed while it talks leaves its socket to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).resolve().parents[3]


class Cluster:
    """``dask scheduler`` and ``dask worker`` as a user starts them, one thread a worker, no nanny."""

    def __init__(self, workers: int, folder: Path) -> None:
        self._folder, self._processes = folder, []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.workers = [self.add() for _ in range(workers)]

    def add(self) -> subprocess.Popen[bytes]:
        return self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host",
                           "127.0.0.1", "--local-directory", str(self._folder))  # fmt: skip

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments]
        process = subprocess.Popen(command, env=env, cwd=self._folder, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    from distributed import Client

    started = Cluster(2, tmp_path_factory.mktemp("cluster"))
    try:
        with Client(started.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """40 MB of sketches in 10,000 rows of 4 x 256, recorded as a run is."""
    import gradlog

    path = tmp_path_factory.mktemp("runs") / "big.zarr"
    rng = np.random.default_rng(0)
    like = {name: np.zeros(256, np.float32) for name in "abcd"}
    with gradlog.open(path, like=like, k="exact", groups="tensors", chunk=256, on_error="raise") as log:
        for t in range(10_000):
            row = rng.standard_normal((4, 256)).astype(np.float32) + np.sin(t / 50).astype(np.float32)
            log.step(dict(zip(like, row, strict=True)))
    return path


def small_blocks(patch):
    patch.setattr(rows, "BLOCK_BYTES", 1)
    patch.setattr(rows, "BUFFER_BYTES", 1)


@pytest.fixture
def blocks_of_a_chunk(monkeypatch):
    """Decided in this process, where the graph is made; workers read buffers of their own size."""
    small_blocks(monkeypatch)


FEW = {"predictors": ["last"], "by_group": False, "null_rank": False}
"""What takes little time once the rows are summed up."""


@pytest.fixture(scope="module")
def plain(big):
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        return analyze(str(big), scheduler="threads", **FEW)


def close(one, other):
    for name, variable in other.data_vars.items():
        if variable.dtype.kind == "f":
            scale = float(np.abs(np.nan_to_num(variable.values)).max(initial=0.0))
            np.testing.assert_allclose(one[name], variable, rtol=1e-12, atol=1e-12 * scale, err_msg=name)


def test_same_numbers_as_threads(cluster, big, blocks_of_a_chunk):
    close(analyze(str(big), scheduler=cluster.address), analyze(str(big), scheduler="threads"))


def test_a_client_that_was_lent_goes_on(cluster, big, plain, blocks_of_a_chunk):
    """Its connection, its other results, and a second analysis; nothing of ours is left on the workers."""
    from distributed import Client

    with Client(cluster.address, timeout=30, set_as_default=False) as client:
        own = client.submit(sum, [1, 2])
        for _ in range(2):
            close(analyze(str(big), scheduler=client, **FEW), plain)
        connection = client.id
        assert own.result() == 3
        until = time.monotonic() + 20
        while (left := set(client.who_has())) != {own.key} and time.monotonic() < until:
            time.sleep(0.1)
        assert left == {own.key}
        assert client.run_on_scheduler(lambda dask_scheduler: connection in dask_scheduler.clients)


def test_no_chunk_passes_the_client(cluster, big, blocks_of_a_chunk):
    """What the client sends and receives does not grow with the rows: of 40 MB, one summary and 40 small tasks."""
    with Relay("127.0.0.1", cluster.port) as wire:
        run = open_run(str(big))
        analyze(run, ["last", "ema(0.9)"], by_group=False, null_rank=False, scheduler=f"tcp://127.0.0.1:{wire.port}")
        stored = 4 * 1024 * 10_000
        gram = 8 * 1024**2
        assert 10_000 < wire.up < 2**20
        sections = 3 * 2**20  # at most 40, however long the run is
        assert gram < wire.down < gram + sections < stored / 3


def test_a_task_is_small_and_opens_the_store_itself(big):
    from distributed.protocol import serialize
    from distributed.protocol.pickle import dumps

    run = open_run(str(big))
    run.rows.read(0, 300)
    assert run.rows._open
    assert len(dumps(run.rows)) < 2000
    header, frames = serialize(run.rows)
    assert sum(map(len, frames)) < 2000
    assert "pickle" in str(header)


def test_a_worker_killed_in_mid_run_is_survived(cluster, big, plain, blocks_of_a_chunk):
    from distributed import Client

    with Client(cluster.address, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        killed = []

        def kill(done, total):
            if done == 5 and not killed:
                victim = cluster.workers.pop()
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                killed.append(total)

        found = analyze(str(big), scheduler=client, progress=kill, **FEW)
        assert killed[0] > 20
        close(found, plain)
        cluster.workers.append(cluster.add())
        client.wait_for_workers(2, timeout=60)


def test_workers_drop_what_is_merged(cluster, big, blocks_of_a_chunk):
    """At no time does a worker hold more than a part of the eighty summaries that were made."""
    from distributed import Client

    held = []
    with Client(cluster.address, timeout=30, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)

        def watch(done, total):
            held.extend(client.run(lambda dask_worker: len(dask_worker.data)).values())

        analyze(str(big), scheduler=client, progress=watch, **FEW)
        assert 1 < max(held) <= 40  # as the scheduler happens to order them: about 10, now and then 25
        deadline = time.monotonic() + 20
        while any(client.run(lambda dask_worker: len(dask_worker.data)).values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(client.run(lambda dask_worker: len(dask_worker.data)).values())


def test_memory_of_a_worker_is_bounded(tmp_path, big):
    """A worker's peak stays within its imports, a buffer and a few summaries, whatever the length of the run.

    The one worker of its own cluster: beside others a scheduler may leave it without a task, and its peak says nothing.
    """
    from distributed import Client

    peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024  # noqa: E731
    alone = Cluster(1, tmp_path)
    try:
        with Client(alone.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
            (before,) = client.run(peak).values()
            analyze(str(big), scheduler=client, **FEW)
            (after,) = client.run(peak).values()
    finally:
        alone.close()
    summary = 2 * 8 * 1024**2 / 2**20  # MiB: two Grams
    assert 0 < after - before < 150 + 10 * summary


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(dask, "CONNECT", 1.0)


def test_nobody_answers(capsys, big, impatient):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(SchedulerError, match=r"no dask scheduler answers within 1 s"):
        analyze(str(big), scheduler=f"tcp://127.0.0.1:{port}")
    with pytest.raises(SystemExit) as done:
        main(["analyze", str(big), "--no-cache", "--scheduler", f"tcp://127.0.0.1:{port}"])
    assert time.monotonic() - start < 20
    assert done.value.code == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gradlog: tcp:")]
    assert len(said) == 1
    assert "dask scheduler" in said[0]


def test_a_listener_that_never_speaks_is_given_up_on(big, impatient):
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(SchedulerError):
        analyze(str(big), scheduler=f"tcp://127.0.0.1:{mute.getsockname()[1]}")


def test_an_address_of_no_known_kind(big):
    with pytest.raises(SchedulerError):
        analyze(str(big), scheduler="carrier-pigeon://here")


def test_a_run_that_workers_cannot_see_says_so(cluster, big, tmp_path, blocks_of_a_chunk):
    """A chunk that goes away under way is an error with a name, not fill values."""
    import shutil

    copy = shutil.copytree(big, tmp_path / "copy.zarr")
    run = open_run(str(copy))
    run.rows.read(0, 1)
    shutil.rmtree(copy)
    from gradlog.errors import GradlogError

    with pytest.raises(GradlogError):
        analyze(run, ["last"], scheduler=cluster.address)


def test_an_archive_is_a_task_a_run(cluster, tmp_path, record):
    for i in range(5):
        record(tmp_path / f"r{i}.zarr", 0, 60, seed=i)
    (tmp_path / "r9.zarr").mkdir()
    (tmp_path / "r9.zarr" / "zarr.json").write_text("{")
    here = analyze_many(tmp_path, cache=False)
    there = analyze_many(tmp_path, cache=False, scheduler=cluster.address)
    xr.testing.assert_allclose(there.drop_vars("run_attrs"), here.drop_vars("run_attrs"), rtol=1e-12)
    assert [f["type"] for f in json.loads(there.attrs["failed"])] == ["CorruptRunError"]
