"""The passes of a plan over the rows, and what they leave: the sums of every scope."""

from __future__ import annotations

import dataclasses

from gradlog.analysis.caching.cache import resolve
from gradlog.analysis.caching.summaries import Memo
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results import half_batches, rescaling
from gradlog.analysis.results.half_batches import Table
from gradlog.analysis.results.plan import AnalysisPlan
from gradlog.analysis.streaming import schedule, sections
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
    kernels: list[str]
    memo: Memo | None


def execute(run: Run, plan: AnalysisPlan) -> tuple[Run, AnalysisPlan, Collected]:
    """Read the rows. Run and plan come back as they were, or scaled where rows exceed the range of float32 products."""
    of_panes = by_pane(run, plan.cuts)
    run, spec = rescaling.in_range(run, plan.spec, of_panes)
    compute = plan.options.compute
    folder = resolve(compute.cache)
    memo = Memo(folder, run) if folder and spec.scale == 1 else None
    grams: Totals = {}
    kernels = frozenset[str]()
    for recipe, cuts in plan.passes:
        summaries = schedule.compute(
            run.rows, run.contiguous_ranges, cuts, recipe, compute.scheduler, compute.progress, memo
        )
        kernels = kernels.union(*(s.kernels for s in summaries))
        stretches = sections.totals(summaries)
        panes = contributions(summaries)
        if not recipe.columns:
            grams = {name: x for name, x in panes[-1].items() if name in SUMS and SUMS[name].triangle}
    halves = half_batches.table(run, [(r.start, r.stop) for r in plan.flat], plan.epochs.steps)
    collected = Collected(panes, grams, of_panes, halves, stretches, sorted(kernels), memo)
    return run, dataclasses.replace(plan, spec=spec), collected
