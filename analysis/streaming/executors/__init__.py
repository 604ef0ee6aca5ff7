"""Who computes: one executor per file, all with one interface; ``of`` alone knows the names of schedulers."""

from __future__ import annotations

from gradlog.analysis.streaming.executors.base import Executor
from gradlog.analysis.streaming.executors.dask import Cluster
from gradlog.analysis.streaming.executors.serial import Serial
from gradlog.analysis.streaming.executors.threads import Threads


def of(scheduler: object = None, tasks: int | None = None) -> Executor:
    """Executor that a ``scheduler`` argument means, for so many tasks.

    Parameters
    ----------
    scheduler : None, "threads", "synchronous", address, distributed client or Executor
        Default: threads, or none where a single task or a single core leaves nothing to share.
    tasks : int, optional
    """
    if isinstance(scheduler, Executor):
        return scheduler
    if scheduler not in (None, "threads", "synchronous"):
        return Cluster(scheduler)
    threads = Threads()
    alone = tasks == 1 or threads.workers == 1
    return Serial() if scheduler == "synchronous" or (scheduler is None and alone) else threads
