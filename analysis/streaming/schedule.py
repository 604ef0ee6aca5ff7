"""One pass over the rows: cut into coarse blocks, one summary each, folded in step order by an executor.

A block is many contiguous chunks. Its task opens the store itself, reads into one buffer and returns a summary, never
rows.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Progress
from gradlog.analysis.reading.rows import RowSource, block_rows, buffer_rows
from gradlog.analysis.streaming import executors, sections
from gradlog.analysis.streaming.executors.base import Fold, Pane, Reduction
from gradlog.analysis.streaming.kernel import Workspace, summarise
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.summary import Summary, merge
from gradlog.errors import CorruptRunError

if TYPE_CHECKING:
    from gradlog.analysis.caching.summaries import Memo

Fragment = tuple[int, int, bool]
"""Rows [start, stop) without a gap inside, and whether a gap stands before."""

RowPane = Pane[list[Fragment], Summary]
"""Blocks of fragments between two cuts."""


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
    fragments: list[Fragment], source: RowSource, recipe: Recipe, stop: threading.Event | None = None
) -> Summary:
    """Read a block's rows and summarise them; the body of a task. Ends early once ``stop`` is set."""
    whole, work = Summary(recipe), Workspace(recipe)
    size, section = buffer_rows(source), recipe.section or len(source)
    rows = np.empty((min(size, max((b - a for a, b, _ in fragments), default=0)), source.n), np.float32)
    with single_threaded():
        for first, last, fresh in fragments:
            if fresh:
                whole.absorb(sections.gap(recipe, first))
                if len(before := source.before(first)):
                    whole.absorb(sections.history(before, recipe, first, whole))
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
    scheduler: object = None,
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
    scheduler
        See ``executors.of``.
    progress : callable, optional
        Called with (blocks done, blocks in all) as tasks complete.
    memo : Memo, optional
        Summaries kept from earlier passes; only what they lack is read.
    """
    rows = block_rows(source)
    panes: list[RowPane] = [Pane(plan(chains, a, b, rows), Fold()) for a, b in itertools.pairwise(cuts)]
    done, total = itertools.count(1), sum(len(pane.blocks) for pane in panes)
    tell = progress or (lambda done, total: None)
    work = Reduction(summarise_block, (source, recipe), Summary.absorb, merge)

    def fold(panes: list[RowPane]) -> list[Fold[Summary]]:
        """Fold some of the panes, or of their blocks; progress is told of all."""
        executor = executors.of(scheduler, sum(len(pane.blocks) for pane in panes))
        return executor.fold(panes, work, lambda *_: tell(next(done), total)) if panes else []

    tell(0, total)
    if memo is None:
        return [pane.value(Summary.absorb) for pane in fold(panes)]
    found = memo.summaries(source, [list(pane.blocks) for pane in panes], recipe, fold)
    if next(done) <= total:  # some were known
        tell(total, total)
    return found
