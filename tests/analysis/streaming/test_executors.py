"""What every executor keeps to: one order, one value, and nothing left behind by an error or an interrupt."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest

from gradlog.analysis.streaming import executors
from gradlog.analysis.streaming.executors.base import FAN, Executor, Fold, Pane, Reduction
from gradlog.analysis.streaming.executors.dask import Cluster
from gradlog.analysis.streaming.executors.serial import Serial
from gradlog.analysis.streaming.executors.threads import Threads
from gradlog.errors import SchedulerError

# A client that is closed while it talks leaves its socket to the garbage collector, which may come in here.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
    gc.collect()


@pytest.fixture(params=["serial", "threads", "cluster"])
def executor(request) -> Executor:
    if request.param == "cluster":
        return Cluster(request.getfixturevalue("client"))
    return {"serial": Serial(), "threads": Threads()}[request.param]


def letter(block, prefix, stop=None):
    if block == "!":
        raise ValueError("this block")
    return prefix + block


def bracket(left, right):
    return f"({left}{right})"


def fold(parts):
    found = Fold()
    for part in parts:
        found.add(part, bracket)
    return found


WORK = Reduction(letter, (".",), bracket, bracket)
PANES = [list("abcdefghijklmnopqrstuvwxyz"), ["A"], list("0123456789")[:FAN]]


def quiet(done, total):
    """Report nowhere."""


def left_on(executor, client):
    """Tasks that the executor left, once it had the time to drop them."""
    gc.collect()
    deadline = time.monotonic() + 20
    if isinstance(executor, Cluster):
        count = lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))  # noqa: E731
    else:
        count = lambda: sum(t.name.startswith("gradlog-analysis") for t in threading.enumerate())  # noqa: E731
    while count() and time.monotonic() < deadline:
        time.sleep(0.02)
    return count()


def test_blocks_are_joined_in_the_same_order(executor):
    found = executor.fold([Pane(blocks, Fold()) for blocks in PANES], WORK, quiet)
    assert found == [fold([f".{block}" for block in blocks]) for blocks in PANES]


@pytest.mark.parametrize("known", [0, 3, FAN, 2 * FAN + 5, 26])
def test_a_fold_goes_on_from_what_is_known(executor, known):
    blocks = PANES[0]
    made = [f".{block}" for block in blocks]
    assert executor.fold([Pane(blocks[known:], fold(made[:known]))], WORK, quiet) == [fold(made)]


def test_blocks_are_counted(executor):
    told = []
    executor.fold([Pane(blocks, Fold()) for blocks in PANES], WORK, lambda *x: told.append(x))
    total = sum(map(len, PANES))
    assert sorted(told) == [(done, total) for done in range(1, total + 1)]


def test_calls_keep_their_order_and_are_counted(executor):
    told = []
    assert executor.map(pow, [(2, n) for n in range(9)], lambda *x: told.append(x)) == [2**n for n in range(9)]
    assert told == [(done, 9) for done in range(1, 10)]


def test_the_error_of_a_block_or_call_is_raised_and_leaves_nothing(executor, request):
    client = request.getfixturevalue("client") if isinstance(executor, Cluster) else None
    with pytest.raises(ValueError, match="this block"):
        executor.fold([Pane(list("abc!defgh"), Fold())], WORK, quiet)
    with pytest.raises(ValueError, match="this block"):
        executor.map(letter, [("a", "."), ("!", "."), ("b", ".")], quiet)
    assert left_on(executor, client) == 0
    assert [x.value(bracket) for x in executor.fold([Pane("ab", Fold())], WORK, quiet)] == ["(.a.b)"]


def test_an_interrupt_leaves_nothing(executor, request):
    client = request.getfixturevalue("client") if isinstance(executor, Cluster) else None

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.fold([Pane(PANES[0], Fold())], WORK, interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.map(letter, [(block, ".") for block in PANES[0]], interrupt)
    assert left_on(executor, client) == 0


def test_threads_tell_a_block_under_way_to_stop():
    begun, stopped = threading.Event(), []

    def make(block, stop=None):
        if block == "slow":
            begun.set()
            stopped.append(stop.wait(20))
        else:
            begun.wait(20)
        return block

    def interrupt(done, total):
        raise KeyboardInterrupt

    import dask

    with dask.config.set(num_workers=2), pytest.raises(KeyboardInterrupt):
        Threads().fold([Pane(["slow", "fast"], Fold())], Reduction(make, (), bracket, bracket), interrupt)
    assert stopped == [True]


def test_threads_run_only_a_few_blocks_ahead_of_the_one_that_is_joined_next():
    import dask

    begun, seen, changed = [], [], threading.Condition()

    def make(block, stop=None):
        with changed:
            begun.append(block)
            changed.notify_all()
            if block == 0:
                changed.wait_for(lambda: len(begun) >= 4, 20)
                seen.append(len(begun))
        return str(block)

    with dask.config.set(num_workers=2):
        (found,) = Threads().fold([Pane(range(40), Fold())], Reduction(make, (), bracket, bracket), quiet)
    assert seen == [4]
    assert found == fold(list(map(str, range(40))))


def test_cores_are_counted_on_systems_without_affinity_too(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "process_cpu_count", os.cpu_count, raising=False)  # as Python defines it there
    assert executors.of("threads").workers >= 1


def test_names_of_schedulers_mean_executors():
    import dask

    with dask.config.set(num_workers=2):
        assert executors.of(None).workers == executors.of("threads", 1).workers == 2
        assert isinstance(executors.of(None, 1), Serial)
        assert isinstance(executors.of("synchronous", 9), Serial)
        assert isinstance(executors.of("tcp://127.0.0.1:1", 1), Cluster)
    with dask.config.set(num_workers=1):
        assert isinstance(executors.of(None, 9), Serial)
        assert isinstance(executors.of("threads", 9), Threads)
    own = Serial()
    assert executors.of(own, 9) is own


@pytest.mark.parametrize("address", ["nonsense", "tcp://nonsense", "tcp://[::1]"])
def test_an_address_without_a_port_is_refused_before_a_client_is_made(address):
    with pytest.raises(SchedulerError, match="8786"):
        executors.of(address, 1).map(pow, [(2, 1)], lambda done, total: None)
