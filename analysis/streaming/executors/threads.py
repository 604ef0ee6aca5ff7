"""Threads of this process, scheduled by dask so that few values wait for their turn."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Call, Executor, Pane, Reduction, fold, same


class Threads(Executor):
    """As many threads as this process may use cores, or as dask's setting ``num_workers`` says."""

    @property
    def workers(self) -> int:  # type: ignore[override]  # the setting may change at any time
        """See Executor."""
        import dask

        return int(dask.config.get("num_workers", None) or len(os.sched_getaffinity(0)))

    def fold(self, panes: Sequence[Pane], work: Reduction, report: Progress) -> list[Any]:
        """See Executor."""
        import dask.threaded
        from dask.callbacks import Callback

        stop = threading.Event()
        graph: dict[Any, Any] = {}
        results = [_pane(graph, p, pane, partial(work.make, stop=stop), work) for p, pane in enumerate(panes)]
        done, total = itertools.count(1), sum(len(pane.blocks) for pane in panes)

        def posttask(key: Any, *_: Any) -> None:
            if key[0] == "make":
                report(next(done), total)

        with self._pool(stop) as pool, Callback(posttask=posttask), single_threaded():
            return list(dask.threaded.get(graph, results, pool=pool))

    def map(self, function: Callable[..., Any], calls: Sequence[Call], report: Progress) -> list[Any]:
        """See Executor."""
        found = []
        with self._pool() as pool:
            for done, future in enumerate([pool.submit(function, *call) for call in calls], start=1):
                found.append(future.result())
                report(done, len(calls))
        return found

    @contextlib.contextmanager
    def _pool(self, stop: threading.Event | None = None) -> Iterator[ThreadPoolExecutor]:
        """Yield a pool that begins nothing more after this block; tasks that ``stop`` ends early are waited for."""
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="gradlog-analysis")
        try:
            yield pool
        finally:  # also on an interrupt
            if stop is not None:
                stop.set()
            pool.shutdown(wait=stop is not None, cancel_futures=True)


def _pane(graph: dict[Any, Any], p: int, pane: Pane, make: Callable[..., Any], work: Reduction) -> Any:
    """Add the tasks of a pane to a graph; return the key of its value."""
    for b, block in enumerate(pane.blocks):
        graph["make", p, b] = (partial(make, block, *work.shared),)  # no arguments that dask would walk through
    known = []
    for name, value in (("whole", pane.whole), ("group", pane.group)):
        known.append(None if value is None else (name, p))
        graph.update({} if value is None else {(name, p): (partial(same, value),)})
    count = itertools.count()

    def join(left: Any, right: Any) -> Any:
        key = ("join", p, next(count))
        graph[key] = (work.absorb, left, right)  # each is used here alone
        return key

    return fold([("make", p, b) for b in range(len(pane.blocks))], join, known[0], known[1], pane.at)
