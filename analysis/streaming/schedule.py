"""Dask graphs, built only here: coarse blocks of rows, one summary each, folded in step order.

A block is many contiguous chunks. Its task opens the store itself, reads into one buffer and returns a summary, never
rows. The fold depends on the rows alone, so every scheduler adds in the same order and gives the same numbers.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Progress
from gradlog.analysis.reading.rows import RowSource, block_rows, buffer_rows
from gradlog.analysis.streaming import sections
from gradlog.analysis.streaming.dask_client import connected
from gradlog.analysis.streaming.kernel import Workspace, summarise
from gradlog.analysis.streaming.summary import Recipe, Summary, merge
from gradlog.errors import CorruptRunError

if TYPE_CHECKING:
    from gradlog.analysis.caching.summaries import Memo

Fragment = tuple[int, int, bool]
"""Rows [start, stop) without a gap inside, and whether a gap stands before."""

FAN = 8
"""Blocks that are folded before they meet the others."""


class Pane(NamedTuple):
    """Blocks to be folded, and what a fold goes on from; those summaries may be used up."""

    blocks: list[list[Fragment]]
    whole: Summary | None = None
    group: Summary | None = None
    at: int = 0


def plan(chains: NDArray[np.int64], start: int, stop: int, rows: int) -> list[list[Fragment]]:
    """Cut view rows [start, stop) into blocks of fragments, at multiples of ``rows``."""
    edges = [start, *range((start // rows + 1) * rows, stop, rows), stop]
    found = []
    for low, high in itertools.pairwise(edges):
        first, last = np.searchsorted(chains[:, 1], low, "right"), np.searchsorted(chains[:, 0], high)
        inside = chains[first:last].tolist()
        found.append([(max(a, low), min(b, high), a >= low) for a, b in inside])
    return found


def summarise_block(
    source: RowSource, fragments: list[Fragment], recipe: Recipe, stop: threading.Event | None = None
) -> Summary:
    """Read a block's rows and summarise them; the body of a task. Ends early once ``stop`` is set."""
    whole, work = Summary(recipe), Workspace(recipe)
    size, section = buffer_rows(source), recipe.section or len(source)
    rows = np.empty((min(size, max((b - a for a, b, _ in fragments), default=0)), source.n), np.float32)
    with single_threaded():
        for first, last, fresh in fragments:
            if fresh:
                whole.absorb(sections.gap(recipe, first))
            part = None
            for low, high in itertools.pairwise(_edges(first, last, size)):
                if stop is not None and stop.is_set():
                    return whole
                X = source.read(low, high, rows[: high - low])
                number = source.epoch_numbers(low, high, recipe.epoch) if recipe.epoch else None
                for start, end in itertools.pairwise(_edges(low, high, section)):
                    here = slice(start - low, end - low)
                    piece = summarise(X[here], recipe, whole, work, None if number is None else number[here])
                    part = piece if part is None else part.absorb(piece, work.grams)
                    if end % section == 0 or end == last:
                        part.sections = sections.of(part, end - 1)
                        whole.absorb(part, work.grams)
                        part = None
        work.settle(whole.sums)
        work.grams.finish(whole.sums)
    if not all(np.isfinite(x).all() for x in (whole.sums["energy"], whole.r)):
        raise CorruptRunError(f"rows {fragments[0][0]}..{fragments[-1][1]}: NaN or inf in rows not flagged as such")
    return whole


def _edges(first: int, last: int, size: int) -> list[int]:
    """Both ends of a range of rows, and the multiples of ``size`` between them."""
    return [first, *range((first // size + 1) * size, last, size), last]


def compute(
    source: RowSource,
    chains: NDArray[np.int64],
    cuts: Sequence[int],
    recipe: Recipe,
    scheduler: Any = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
) -> list[Summary]:
    """Summaries of the panes between consecutive cuts, from one pass over the rows.

    Parameters
    ----------
    source, chains
        Of the run.
    cuts : sequence of int
        Ascending view rows, first 0, last the number of rows.
    recipe : Recipe
    scheduler : None, "threads", "synchronous", address or distributed client
        Default: threads when there is more than one block.
    progress : callable, optional
        Called with (blocks done, blocks in all) as tasks complete.
    memo : Memo, optional
        Summaries kept from earlier passes; only what they lack is read.
    """
    rows = block_rows(source)
    panes = [Pane(plan(chains, a, b, rows)) for a, b in itertools.pairwise(cuts)]
    tally = Tally(progress, sum(len(pane.blocks) for pane in panes))
    make = partial(_summaries, source, recipe, scheduler, tally)
    if memo is None:
        return make(panes)
    found = memo.summaries(source, [pane.blocks for pane in panes], recipe, buffer_rows(source), make)
    tally.finish()
    return found


class Tally:
    """Progress of one pass in several parts, of which some may not be needed."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._report, self._total = progress or (lambda done, total: None), total
        self._before = self._at = 0
        self._report(0, total)

    def __call__(self, done: int, total: int) -> None:
        """Blocks of a part that are done: 0 begins the next part."""
        if done == 0:
            self._before = self._at
            return
        self._at = self._before + done
        self._report(self._at, self._total)

    def finish(self) -> None:
        """Count blocks that were known as done."""
        if self._at < self._total:
            self._report(self._total, self._total)


def _summaries(source: RowSource, recipe: Recipe, scheduler: Any, report: Progress, panes: list[Pane]) -> list[Summary]:
    if not panes:
        return []
    total = sum(len(pane.blocks) for pane in panes)
    report(0, total)
    if scheduler == "synchronous" or (scheduler is None and (total == 1 or workers() == 1)):
        return _in_order(source, panes, recipe, report)
    if scheduler in (None, "threads"):
        return _threaded(source, panes, recipe, report, total)
    return _distributed(source, panes, recipe, report, total, scheduler)


def workers(scheduler: Any = None) -> int:
    """Tasks that run at once in this process."""
    if scheduler not in (None, "threads"):
        return 1
    import dask

    pinned = dask.config.get("num_workers", None)
    return int(pinned or len(os.sched_getaffinity(0)))


def fold(
    parts: Iterable[Any], join: Callable[[Any, Any], Any], whole: Any = None, group: Any = None, at: int = 0
) -> Any:
    """Reduce in order: every ``FAN`` neighbours from the left, then these groups from the left.

    Two joined ones wait at a time, however many parts there are; and of a cluster's merges only one in ``FAN`` has to
    wait for all that come before. A fold can go on from the ``whole`` of the groups before and the ``group`` of the
    first ``at`` parts of the next one.
    """
    for count, part in enumerate(parts, start=at + 1):
        group = part if group is None else join(group, part)
        if count % FAN == 0:
            whole, group = group if whole is None else join(whole, group), None
    if group is None:
        return whole
    return group if whole is None else join(whole, group)


def _in_order(source: RowSource, panes: list[Pane], recipe: Recipe, report: Progress) -> list[Summary]:
    done, total = itertools.count(1), sum(len(pane.blocks) for pane in panes)

    def summaries(pane: Pane) -> Iterator[Summary]:
        for block in pane.blocks:
            yield summarise_block(source, block, recipe)
            report(next(done), total)

    return [fold(summaries(pane), Summary.absorb, *pane[1:]) for pane in panes]


def _threaded(source: RowSource, panes: list[Pane], recipe: Recipe, report: Progress, total: int) -> list[Summary]:
    import dask
    import dask.threaded
    from dask.callbacks import Callback

    stop = threading.Event()
    graph: dict[Any, Any] = {}
    block_keys = set()
    results = []
    for p, pane in enumerate(panes):
        keys: list[Any] = []
        for b, block in enumerate(pane.blocks):
            key = f"summarise-{p}-{b}"
            graph[key] = (_Task(summarise_block, source, block, recipe, stop),)
            block_keys.add(key)
            keys.append(key)
        counter = itertools.count()

        def join(left: str, right: str, p: int = p, counter: Any = counter) -> str:
            key = f"merge-{p}-{next(counter)}"
            graph[key] = (Summary.absorb, left, right)  # each is used here alone
            return key

        before = []
        for name, summary in (("whole", pane.whole), ("group", pane.group)):
            key = f"{name}-{p}"
            graph.update({} if summary is None else {key: (_Task(_same, summary),)})
            before.append(None if summary is None else key)
        results.append(fold(keys, join, before[0], before[1], pane.at))
    done = 0

    def posttask(key: Any, *_: Any) -> None:
        nonlocal done
        if key in block_keys:
            done += 1
            report(done, total)

    pool = ThreadPoolExecutor(workers(), thread_name_prefix="gradlog-analysis")
    try:
        with Callback(posttask=posttask), single_threaded():
            return list(dask.threaded.get(graph, results, pool=pool))
    finally:  # also on an interrupt: no thread outlives this call by more than the buffer it is at
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


class _Task:
    """A call without dask-visible arguments, so that dask does not walk through them."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __call__(self) -> Any:
        return self.function(*self.args)


def _distributed(
    source: RowSource,
    panes: list[Pane],
    recipe: Recipe,
    report: Progress,
    total: int,
    scheduler: Any,
) -> list[Summary]:
    """One task a block. The client holds a block's future only until it is done: workers drop what is merged.

    Source and recipe are tasks too, not scattered data: what a lost worker held, the scheduler knows how to make again.
    """
    from distributed import as_completed

    with connected(scheduler) as client:
        submit = partial(client.submit, pure=False)
        alive: set[Any] = set()
        results: list[Any] = []
        try:
            shared = [submit(_Task(_same, x)) for x in (source, recipe)]
            alive.update(shared)
            for pane in panes:
                tasks = [submit(summarise_block, shared[0], block, shared[1]) for block in pane.blocks]
                alive.update(tasks)
                known = [None if x is None else submit(_Task(_same, x)) for x in (pane.whole, pane.group)]
                results.append(fold(tasks, lambda x, y: submit(merge, x, y, priority=1), known[0], known[1], pane.at))
            del tasks
            for done, future in enumerate(as_completed(alive.difference(shared), loop=client.loop), start=1):
                if future.status == "error":
                    future.result()
                alive.discard(future)
                report(done, total)
            del future
            return list(client.gather(results))
        finally:  # also on an interrupt: what nobody wants any more, workers drop from their queues and forget
            for future in (*alive, *results):  # not ``cancel``: a scheduler breaks off where merges have no owner
                future.release()


def _same(value: Any) -> Any:
    return value
