"""However rows are cut, whoever computes, whenever it is interrupted: the same result, and nothing left behind."""

from __future__ import annotations

import gc
import signal
import threading
import time

import numpy as np
import pytest

from gradlog.analysis import analyze, to_json
from tests.helpers import stores
from tests.helpers.walks import smooth


def test_results_do_not_depend_on_how_rows_are_cut_into_tasks(tmp_path, monkeypatch):
    from gradlog.analysis.reading import rows

    path = stores.write_run(tmp_path / "r.zarr", smooth(300), chunk=8)
    whole = analyze(str(path), window=64)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)
    seen = []
    pieces = analyze(str(path), window=64, scheduler="threads", progress=lambda *x: seen.append(x))
    serial = analyze(str(path), window=64, scheduler="synchronous")
    assert seen[0] == (0, 38)
    assert sorted(seen)[-1] == (38, 38)
    for name in ("kappa", "window_kappa", "group_kappa", "tail_energy", "signal", "kappa_low"):
        np.testing.assert_array_equal(pieces[name], serial[name])
        np.testing.assert_allclose(pieces[name], whole[name], rtol=2e-5, atol=1e-7)


def test_the_compiled_loops_give_the_same_result_and_say_so(tmp_path):
    pytest.importorskip("numba")
    path = str(stores.write_run(tmp_path / "r.zarr", smooth(700, k=24), chunk=64))
    plain, compiled = (analyze(path, window=100, kernel=kernel) for kernel in ("numpy", "numba"))
    assert (plain.attrs["kernel"], compiled.attrs["kernel"]) == ("numpy", "numba")
    assert analyze(path).attrs["kernel"] == "numpy"  # too short to be worth loading the loops
    for name in plain.data_vars:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_numba_numpy_steps_in_and_is_named(tmp_path, monkeypatch):
    from gradlog.analysis.streaming import kernel

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(40)))
    monkeypatch.setattr(kernel, "compiled", lambda: None)
    monkeypatch.setattr(kernel, "WORTH", 1)
    assert to_json(analyze(path))["kernel"] == "numpy"
    with pytest.raises(ValueError, match="extra 'fast'"):
        analyze(path, kernel="numba")


def threads():
    """Of this process, without those of recordings that some test left to the collector."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("gradlog-")}


def test_an_interrupted_analysis_leaves_no_thread_and_no_limit_behind(tmp_path, monkeypatch):
    from threadpoolctl import threadpool_info

    from gradlog.analysis.reading import rows

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(4000, k=64), chunk=64))
    analyze(path, scheduler="threads")  # starts what the libraries keep for good
    before = threads(), [x["num_threads"] for x in threadpool_info()]
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)
    seen = []

    def interrupt(done, total):
        seen.append(done)
        if done == 5:
            signal.raise_signal(signal.SIGINT)

    for scheduler in ("threads", "synchronous"):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            analyze(path, scheduler=scheduler, progress=interrupt)
        assert 5 in seen
        assert max(seen) < 63 == -(-4000 // 64)
        assert threads() <= before[0]
        assert [x["num_threads"] for x in threadpool_info()] == before[1]
    assert analyze(path, scheduler="threads").sizes["group"] == 2


def test_blas_threads_come_back_whichever_thread_leaves_last():
    from threadpoolctl import threadpool_info

    from gradlog.analysis.common.blas_threads import single_threaded

    before = [x["num_threads"] for x in threadpool_info()]
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with single_threaded():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=stay)
    with single_threaded():
        other.start()
        inside.wait(10)
        assert {x["num_threads"] for x in threadpool_info()} == {1}
    assert {x["num_threads"] for x in threadpool_info()} == {1}
    leave.set()
    other.join()
    assert [x["num_threads"] for x in threadpool_info()] == before


@pytest.mark.slow
# A client that is closed while it talks leaves its socket to the garbage collector, which may come in here.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_analysis_leaves_nothing_on_a_cluster(tmp_path, monkeypatch):
    from distributed import Client, LocalCluster

    from gradlog.analysis.reading import rows

    path = str(stores.write_run(tmp_path / "r.zarr", smooth(20000, k=64), chunk=256))
    monkeypatch.setattr(rows, "BLOCK_BYTES", 1)
    monkeypatch.setattr(rows, "BUFFER_BYTES", 1)

    def interrupt(done, total):
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    with (
        LocalCluster(1, threads_per_worker=2, processes=True, dashboard_address=":0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        left = lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))  # noqa: E731
        held = lambda: sum(client.run(lambda dask_worker: len(dask_worker.data)).values())  # noqa: E731
        for scheduler in (client, cluster.scheduler_address):
            with pytest.raises(KeyboardInterrupt):
                analyze(path, scheduler=scheduler, progress=interrupt)
            gc.collect()
            deadline = time.monotonic() + 20
            while (left() or held()) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert (left(), held()) == (0, 0)
        assert len(client.scheduler_info()["workers"]) == 1
        assert float(analyze(path, ["last"], scheduler=client).rows) == 20000
    gc.collect()
