"""Threads of this process, a few blocks ahead of the one that is joined next."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Call, Value
from gradlog.analysis.streaming.executors.serial import Serial


class Threads(Serial):
    """As many threads as this process may use cores, by the system and its container, or as ``num_workers`` of dask."""

    @property
    def workers(self) -> int:
        """See Executor."""
        import dask
        from dask.system import cpu_count

        return int(dask.config.get("num_workers", None) or cpu_count())

    def results(
        self, make: Callable[..., Value], calls: Sequence[Call], report: Progress, stop: threading.Event | None = None
    ) -> Generator[Value]:
        """See Serial. Calls that ``stop`` ends early are waited for; others are left to end by themselves."""
        make = make if stop is None else partial(make, stop=stop)
        ahead = self.workers + self.workers // 2 + 1
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="gradlog-analysis")
        waiting: deque[Future[Value]] = deque()
        running: set[Future[Value]] = set()
        begun = done = 0
        try:
            with single_threaded():
                while done < len(calls):
                    while begun < len(calls) and len(waiting) < ahead:
                        waiting.append(pool.submit(make, *calls[begun]))
                        running.add(waiting[-1])
                        begun += 1
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                        report(done := done + 1, len(calls))
                    while waiting and waiting[0].done():
                        yield waiting.popleft().result()
        finally:  # also on an interrupt
            if stop is not None:
                stop.set()
            pool.shutdown(wait=stop is not None, cancel_futures=True)
