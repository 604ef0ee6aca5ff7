"""A running dask cluster: the way to it, and independent calls on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gradlog.analysis.common.types import Progress
from gradlog.errors import MissingDependencyError, SchedulerError

CONNECT = 5.0
"""Seconds that a scheduler has to answer."""


@contextlib.contextmanager
def connected(scheduler: Any) -> Iterator[Any]:
    """Yield a distributed client for an address, closed again; or the client that was given.

    Raises
    ------
    SchedulerError
        Nothing answers there within ``CONNECT`` seconds.
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


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Call in a thread of its own; None if it fails or is late (a client waits for ever on a mute peer)."""
    found: list[Any] = []

    def attempt() -> None:
        with contextlib.suppress(OSError, ValueError):
            found.append(call())

    thread = threading.Thread(target=attempt, name="gradlog-connect", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def spread(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], scheduler: Any, report: Progress
) -> list[Any]:
    """Results of independent calls on a cluster, one task each; the first error raises."""
    from distributed import as_completed

    with connected(scheduler) as client:
        futures = [client.submit(function, *call, pure=False) for call in calls]
        try:
            for done, future in enumerate(as_completed(futures, loop=client.loop), start=1):
                if future.status == "error":
                    future.result()
                report(done, len(futures))
            return list(client.gather(futures))
        finally:
            client.cancel(futures, force=True)
