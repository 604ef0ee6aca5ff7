"""A running dask cluster: the way to it, and tasks on it."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gradlog.analysis.common.types import Progress
from gradlog.analysis.streaming.executors.base import Block, Call, Executor, Fold, Pane, Reduction, Value
from gradlog.errors import MissingDependencyError, SchedulerError

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT = 5.0
"""Seconds that a scheduler has to answer."""


class Cluster(Executor):
    """Workers behind a scheduler.

    Parameters
    ----------
    scheduler : str or distributed client
        A client that is given stays open.
    """

    def __init__(self, scheduler: object) -> None:
        self._scheduler = scheduler

    def fold(self, panes: Sequence[Pane[Block, Value]], work: Reduction[Value], report: Progress) -> list[Fold[Value]]:
        """See Executor. The client holds a block's future only until it is done: workers drop what is merged.

        What blocks share are tasks too, not scattered data: what a lost worker held, the scheduler can make again.
        """
        from distributed import as_completed

        total = sum(len(pane.blocks) for pane in panes)
        with connected(self._scheduler) as client:
            submit = partial(client.submit, pure=False)
            alive: set[Future] = set()
            folds: list[Fold[Future]] = []
            try:
                shared = [submit(partial(same, x)) for x in work.shared]
                alive.update(shared)
                folds = [_begun(submit, pane, work, shared, alive) for pane in panes]
                future = None  # there may be no block, only values to be joined
                for done, future in enumerate(as_completed(alive.difference(shared), loop=client.loop), start=1):
                    if future.status == "error":
                        future.result()
                    alive.discard(future)
                    report(done, total)
                del future
                return [Fold(x.at, *client.gather([x.whole, x.group])) for x in folds]
            finally:  # also on an interrupt: what nobody wants any more, workers drop from their queues and forget
                merged = [x for f in folds for x in (f.whole, f.group) if x is not None]
                for future in (*alive, *merged):
                    future.release()  # not ``cancel``: a scheduler breaks off where merges have no owner

    def map(self, function: Callable[..., Value], calls: Sequence[Call], report: Progress) -> list[Value]:
        """See Executor."""
        from distributed import as_completed

        with connected(self._scheduler) as client:
            futures = [client.submit(function, *call, pure=False) for call in calls]
            try:
                for done, future in enumerate(as_completed(futures, loop=client.loop), start=1):
                    if future.status == "error":
                        future.result()
                    report(done, len(futures))
                return list(client.gather(futures))
            finally:
                client.cancel(futures, force=True)


def _begun(
    submit: Callable[..., Future],
    pane: Pane[Block, Value],
    work: Reduction[Value],
    shared: Sequence[Future],
    alive: set[Future],
) -> Fold[Future]:
    """Submit the blocks of a pane, which ``alive`` receives, and what merges them."""
    whole, group = (
        None if value is None else submit(partial(same, value)) for value in (pane.fold.whole, pane.fold.group)
    )
    fold = Fold(pane.fold.at, whole, group)
    for block in pane.blocks:
        task = submit(work.make, block, *shared)
        alive.add(task)
        fold.add(task, partial(submit, work.merge, priority=1))
    return fold


def same(value: Value) -> Value:
    """Return what was given: a task that holds a value."""
    return value


@contextlib.contextmanager
def connected(scheduler: object) -> Iterator[Client]:
    """Yield a distributed client for an address, closed again; or the client that was given.

    Raises
    ------
    SchedulerError
        The address has no port, or nothing answers there within ``CONNECT`` seconds.
    MissingDependencyError
        ``distributed`` is not installed.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise MissingDependencyError("a cluster needs distributed: pip install 'gradlog-zarr[cluster]'") from error
    # the summaries' test matrix may make a task of some MB: it is sent once, as a task of its own
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
        if not isinstance(scheduler, str):
            yield scheduler
            return
        # without a port distributed keeps a half-made client, which complains when the process ends
        if not re.search(r":\d+$|^inproc://", scheduler):
            raise SchedulerError(f"{scheduler}: expected the address of a dask scheduler such as 'tcp://host:8786'")
        client = _within(2 * CONNECT, lambda: Client(scheduler, timeout=CONNECT, set_as_default=False))
        if client is None:
            raise SchedulerError(
                f"{scheduler}: no dask scheduler answers within {CONNECT:g} s; start one with 'dask scheduler' and "
                "workers with 'dask worker', or leave the scheduler out to use threads"
            )
        try:
            yield client
        finally:
            client.close()


def _within(seconds: float, call: Callable[[], Value]) -> Value | None:
    """Call in a thread of its own; None if it fails or is late (a client waits for ever on a mute peer)."""
    found: list[Value] = []

    def attempt() -> None:
        with contextlib.suppress(OSError, ValueError):
            found.append(call())

    thread = threading.Thread(target=attempt, name="gradlog-connect", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None
