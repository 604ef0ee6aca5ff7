"""The passes of a plan over the rows, and what they leave: the sums of every scope."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from gradlog.analysis.caching.cache import resolve
from gradlog.analysis.caching.summaries import Memo
from gradlog.analysis.common.types import Float64
from gradlog.analysis.directions.autocorrelation import LAGS
from gradlog.analysis.directions.stretches import Stretches, stretches, unfit
from gradlog.analysis.events.events import Events, described, with_directions
from gradlog.analysis.events.find import PIECE, Watch
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results import half_batches
from gradlog.analysis.results.half_batches import Table
from gradlog.analysis.results.plan import AnalysisPlan
from gradlog.analysis.streaming import executors, schedule, sections
from gradlog.analysis.streaming.executors.dask import Cluster
from gradlog.analysis.streaming.in_range import in_range
from gradlog.analysis.streaming.recipe import SUMS
from gradlog.analysis.streaming.scalar_sums import ScalarSums, by_pane
from gradlog.analysis.streaming.sections import Section
from gradlog.analysis.streaming.totals import Totals, contributions


@dataclasses.dataclass(frozen=True)
class Collected:
    """What the passes left.

    Attributes
    ----------
    panes : list of Totals
        Sums of the rows between the plan's cuts.
    grams : Totals
        Grams of the whole run, where its panes have none.
    scalar_sums : list of ScalarSums
        Sums of norms and scalars between the cuts.
    halves : Table or None
        Where two gradients at one theta are known.
    sections : list of Section
    events : Events
        With their directions where these are asked for.
    stretches : Stretches or None
        For the directions of training, where they are asked for and the run has them.
    kernels : list of str
        What added up the columns.
    memo : Memo or None
        Summaries kept from earlier passes, for further ones.
    """

    panes: list[Totals]
    grams: Totals
    scalar_sums: list[ScalarSums]
    halves: Table | None
    sections: list[Section]
    events: Events
    stretches: Stretches | None
    kernels: list[str]
    memo: Memo | None


def execute(run: Run, plan: AnalysisPlan) -> tuple[Run, AnalysisPlan, Collected]:
    """Read the rows. Run and plan come back as they were, or scaled where rows exceed the range of float32 products."""
    recorded, watch = run, Watch(run)
    all_rows = run.whole is run  # stretches far apart have no common course to leave
    of_panes = by_pane(run, plan.cuts, watch.names, watch.add if all_rows else None)
    run, scale = in_range(run, of_panes)
    spec = dataclasses.replace(plan.spec, scale=scale)
    compute = plan.options.compute
    # A cluster would send every summary that is kept to this process: there only a cache that was named keeps them.
    far = compute.cache is True and isinstance(executors.of(compute.scheduler), Cluster)
    folder = None if far else resolve(compute.cache)
    memo = Memo(folder, run) if folder and scale == 1 and all_rows else None
    grams: Totals = {}
    kernels = frozenset[str]()
    for recipe, cuts in plan.passes:
        summaries = schedule.compute(
            run.rows, run.contiguous_ranges, cuts, recipe, compute.scheduler, compute.progress, memo
        )
        kernels = kernels.union(*(s.kernels for s in summaries))
        own = sections.totals(summaries)
        panes = contributions(summaries)
        if not recipe.columns:
            grams = {name: x for name, x in panes[-1].items() if name in SUMS and SUMS[name].triangle}
    if all_rows:
        watch.finish(_change_norms(run, plan.cuts, panes))
    halves = half_batches.table(run, [(r.start, r.stop) for r in plan.flat], plan.epochs.steps)
    events, parted = described(watch), None
    if plan.options.scope.directions:
        events = with_directions(recorded, events)
        parted = None if unfit(recorded) else stretches(recorded, None, LAGS, compute.scheduler)
    collected = Collected(panes, grams, of_panes, halves, own, events, parted, sorted(kernels), memo)
    return run, dataclasses.replace(plan, spec=spec), collected


def _change_norms(run: Run, cuts: Sequence[int], panes: Sequence[Totals]) -> Iterator[Float64]:
    """Norm of the difference from the row before, in pieces and in any unit; NaN where none came before."""
    begin = run.contiguous_ranges[:, 0]
    for (start, stop), pane in zip(pairwise(cuts), panes, strict=True):
        done = 0
        for low in range(start, stop, PIECE):
            finite = run.finite[low : min(low + PIECE, stop)]
            norms = np.full(len(finite), np.nan)
            norms[finite] = np.sqrt(pane["path"][done : done + np.count_nonzero(finite)])
            norms[begin[(begin >= low) & (begin < low + len(finite))] - low] = np.nan
            done += int(np.count_nonzero(finite))
            yield norms
