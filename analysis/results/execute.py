"""The passes of a plan over the rows, and what they leave: the sums of every scope.

Gradients whose squares do not fit float32 are read times a power of two, which changes no digit of them. The pass
multiplies rows in float32, whose range is 1e-38 to 3e38: norms below 1e-17 or above 1e17 would come out as 0 or inf. A
run that diverges gets there, and so does a layer that the gradient does not reach. Whatever the pass sums up is then in
scaled units, and ``measures.kappa`` and ``dataset`` go back to the gradient's own.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.caching.cache import resolve
from gradlog.analysis.caching.summaries import Memo
from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.events import Events, described
from gradlog.analysis.events.find import PIECE, Watch
from gradlog.analysis.measures.spec import LEAST
from gradlog.analysis.reading.rows import RowSource
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results import half_batches
from gradlog.analysis.results.half_batches import Table
from gradlog.analysis.results.plan import AnalysisPlan
from gradlog.analysis.streaming import executors, schedule, sections
from gradlog.analysis.streaming.executors.dask import Cluster
from gradlog.analysis.streaming.recipe import SUMS
from gradlog.analysis.streaming.scalar_sums import ScalarSums, add, by_pane
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
        Without their directions.
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
    kernels: list[str]
    memo: Memo | None


def execute(run: Run, plan: AnalysisPlan) -> tuple[Run, AnalysisPlan, Collected]:
    """Read the rows. Run and plan come back as they were, or scaled where rows exceed the range of float32 products."""
    watch = Watch(run)
    of_panes = by_pane(run, plan.cuts, watch.names, watch.add)
    run, scale = in_range(run, of_panes)
    spec = dataclasses.replace(plan.spec, scale=scale)
    compute = plan.options.compute
    # A cluster would send every summary that is kept to this process: there only a cache that was named keeps them.
    far = compute.cache is True and isinstance(executors.of(compute.scheduler), Cluster)
    folder = None if far else resolve(compute.cache)
    memo = Memo(folder, run) if folder and scale == 1 else None
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
    watch.finish(_change_norms(run, plan.cuts, panes))
    halves = half_batches.table(run, [(r.start, r.stop) for r in plan.flat], plan.epochs.steps)
    collected = Collected(panes, grams, of_panes, halves, stretches, described(watch), sorted(kernels), memo)
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


MOST = 2.0**48
"""Largest square root of a whole run's energy that is left as it is, and what other runs are scaled to."""


class Scaled(RowSource):
    """Rows of a run times 2^exponent."""

    def __init__(self, rows: RowSource, exponent: int) -> None:
        self.__dict__.update(rows.__dict__)
        self.exponent = exponent

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """See RowSource."""
        found = super().read(start, stop, out)
        return np.ldexp(found, self.exponent, out=found)


def in_range(run: Run, of_panes: Sequence[ScalarSums]) -> tuple[Run, float]:
    """Run with rows in the range of float32 products: unchanged for all but extreme gradients.

    Parameters
    ----------
    run : Run
    of_panes : sequence of ScalarSums
        Of all rows: the squared norms, in float64.

    Returns
    -------
    run : Run
        ``rows`` times a power of two where the energy is above ``MOST`` squared, or a group's mean square below
        ``measures.spec.LEAST`` squared.
    scale : float
        That power, or 1.
    """
    exponent = _exponent(add(of_panes))
    if exponent == 0:
        return run, 1.0
    scaled = copy.copy(run)
    scaled.__dict__["rows"] = Scaled(run.rows, exponent)
    return scaled, 2.0**exponent


def _exponent(whole: ScalarSums) -> int:
    size = float(np.sqrt(whole.energy.sum()))
    mean = np.sqrt(whole.energy[whole.moving > 0] / whole.moving[whole.moving > 0])
    if not np.isfinite(size) or (size <= MOST and (mean >= LEAST).all()):  # unflagged NaN: the pass refuses it
        return 0
    return int(np.floor(np.log2(MOST / size)))
