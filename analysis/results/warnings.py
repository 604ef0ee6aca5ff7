"""What a reader of a result must know about the log it came from: irregularities, and numbers that are only bounds."""

from __future__ import annotations

import numpy as np

from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.spec import AnalysisSpec, Values, contradict
from gradlog.analysis.reading.run import Run
from gradlog.analysis.spectrum import rank
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.streaming.in_range import LEAST
from gradlog.analysis.streaming.scalar_sums import ScalarSums


def of_run(run: Run, spec: AnalysisSpec, counted: ScalarSums, of_all: Evidence) -> list[str]:
    """Say what is irregular about the rows themselves."""
    info, said = run.info, list(run.scalar_sources.values())
    if run.whole is not run:
        said.append(
            f"a sample of {run.n_steps:,} of {run.whole.n_steps:,} steps: kappa of all differs by the error within the "
            "run, by more where few steps differ from all others, as the first may; the rank of all is mostly higher; "
            "events were not looked for"
        )
    if info["every"] > 1:
        said.append(f"every={info['every']}: increments span {info['every']} optimizer steps")
    if info["gaps"]:
        said.append(f"{len(info['gaps'])} gaps in the steps; no increment or history crosses them")
    if info["nonfinite"]:
        said.append(f"{len(info['nonfinite'])} non-finite rows left out; the rows after them have no history")
    if info["abandoned"]:
        said.append(f"{info['abandoned']} rows abandoned by a resume are left out")
    if not run.has_exact_norms:
        why = "several ranks" if info["ranks"] > 1 else "sketched updates"
        said.append(f"{why}: squared norms are estimated from the sketches")
    elif contradict(of_all, float(counted.energy.sum()), spec):
        said.append("the norms contradict the sketches and are not used for kappa: see gradlog audit")
    if run.fewer_ranks:
        said.append(f"{run.fewer_ranks} rows come from fewer ranks than others: a share of the gradient may be missing")
    for joined in info["joined"]:
        count = len(joined["names"])
        said.append(f"{count} parameters joined at step {joined['step']}; before, they count as zero gradient")
    if info["status"] == "recording":
        said.append("the run is recording: a later analysis may see more rows")
    elif info["status"] != "closed":
        said.append(f"the run is {info['status']}" + (f": {info['reason']}" if info["reason"] else ""))
    if not spec.exact and spec.k < 4:
        said.append(f"k = {spec.k}: no intervals, these need 4 coordinates; no order is judged without them")
    return said + _zeros(run, counted) + _faint(run, spec, counted) + _short(run, spec)


def of_rank(run: Run, main: Values, spec: AnalysisSpec, spectrum: Spectrum | None) -> list[str]:
    """Say which ranks are open intervals, lower bounds, or not identifiable."""
    if spectrum is None:
        return ["no spectrum: the Gram of the groups does not fit this route"]
    said = []
    ranks = (np.atleast_1d(main[f"rank_{name}"]) for name in ("low", "high", "estimate"))
    for e, low, high, estimate in zip(spec.eps, *ranks, strict=True):
        if low != high:
            remedy = "eps is within the rounding of float32" if spectrum.complete else "allow more passes"
            said.append(f"rank({e:g}) is only known to lie in [{low:g}, {high:g}]; {remedy}")
        if not spec.exact and rank.saturated(high, run.rows.n):
            share = f"over {100 * rank.NEAR:.0f} % of the sketch's {run.rows.n} numbers"
            said.append(f"rank({e:g}) = {high:g} is {share}: it is a lower bound, not a rank")
        if not spec.exact and not np.isfinite(estimate):
            said.append(f"rank({e:g}) of the gradients themselves is not identifiable from k = {run.k}")
    return said


def _zeros(run: Run, counted: ScalarSums) -> list[str]:
    """Frozen parameters: a group without any gradient, or rows without one."""
    frozen = np.array(run.header.groups)[counted.moving == 0]
    said = [f"group {g}: its gradient is zero throughout" for g in frozen]
    return said + ([f"{counted.still} rows with a gradient of zero are counted"] if counted.still else [])


def _faint(run: Run, spec: AnalysisSpec, counted: ScalarSums) -> list[str]:
    """Name groups that vanish beside the others."""
    faint = counted.energy * spec.scale**2 <= counted.moving * LEAST**2
    return [
        f"group {g}: its gradient is too small beside the others to be measured; by itself it has no numbers"
        for g in np.array(run.header.groups)[faint & (counted.moving > 0)]
    ]


def _short(run: Run, spec: AnalysisSpec) -> list[str]:
    """Predictors that look further back than most rows can."""
    longest = int((run.contiguous_ranges[:, 1] - run.contiguous_ranges[:, 0]).max())
    return [
        f"{p.name} looks {p.lags} rows back, the longest unbroken stretch has {longest}: missing history counts as zero"
        for p in spec.predictors
        if p.lags >= longest
    ]
