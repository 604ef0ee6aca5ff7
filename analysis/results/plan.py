"""What an analysis will do, before it reads a row: its ranges, route, passes, and the memory that it takes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from gradlog.analysis.directions.autocorrelation import LAGS
from gradlog.analysis.directions.stretches import MOST, PARTS, recipe_of, unfit
from gradlog.analysis.measures import gradient_noise
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.measures.predictors import needs, parse
from gradlog.analysis.measures.spec import AnalysisSpec
from gradlog.analysis.reading.epochs import Epochs, epochs_of
from gradlog.analysis.reading.rewinds import rewinds
from gradlog.analysis.reading.rows import block_rows
from gradlog.analysis.reading.run import Run
from gradlog.analysis.results.memory_model import predict, working_set
from gradlog.analysis.results.options import Kernel, Options, Scope
from gradlog.analysis.spectrum import routes
from gradlog.analysis.spectrum.routes import Route
from gradlog.analysis.streaming import executors, sections
from gradlog.analysis.streaming import kernel as summing
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.errors import TooFewStepsError


@dataclasses.dataclass(frozen=True)
class Range:
    """View rows [start, stop) that a scope counts; the history before them is still used."""

    start: int
    stop: int


Ranges = dict[str, list[Range]]
"""By kind of scope: ``run`` (one), ``window``, ``prefix``."""


@dataclasses.dataclass(frozen=True)
class AnalysisPlan:
    """See the module.

    Attributes
    ----------
    options : Options
    spec : AnalysisSpec
        What is asked of every scope.
    epochs : Epochs
    ranges : dict of list of Range
    cuts : list of int
        View rows between which the pass keeps sums of its own: the ends of all ranges.
    route : Route
    recipe : Recipe
        Everything that is collected.
    passes : list of (Recipe, cuts)
        In which passes, and between which rows.
    light : bool
        Whether windows and prefixes keep no Grams.
    predicted : int
        Peak memory in bytes.
    """

    options: Options
    spec: AnalysisSpec
    epochs: Epochs
    ranges: Ranges
    cuts: list[int]
    route: Route
    recipe: Recipe
    passes: list[tuple[Recipe, list[int]]]
    light: bool
    predicted: int

    @property
    def whole(self) -> Range:
        """The range of the whole run, without its burn-in."""
        return self.ranges["run"][0]

    @property
    def flat(self) -> list[Range]:
        """All ranges."""
        return flat(self.ranges)


def flat(ranges: Ranges) -> list[Range]:
    """All ranges of a kind after those of the one before."""
    return [r for of_kind in ranges.values() for r in of_kind]


def plan(run: Run, options: Options) -> AnalysisPlan:
    """Plan the analysis of a run from its metadata; only a logged ``epoch`` is read.

    Raises
    ------
    TooFewStepsError, ValueError
        As ``analyze`` does.
    """
    scope, spectra = options.scope, options.spectra
    epochs, exact = epochs_of(run.whole, scope.steps_per_epoch), exact_groups(run.whole_header)
    spec = AnalysisSpec(
        parse(options.predictors), options.eps, run.k, all(exact), run.has_exact_norms,
        exact_groups=exact, drawn_anew=not epochs.drawn,
    )  # fmt: skip
    ranges = ranges_of(run, scope)
    route = routes.choose(spectra.svd, run.n_steps, run.n_groups, run.k)
    cuts = sorted({0, run.n_steps, *(edge for r in flat(ranges) for edge in (r.start, r.stop))})
    light = scope.light and len(cuts) > 2 + (scope.burn_in > 0)
    recipe = Recipe(
        groups=run.n_groups,
        k=run.k,
        pooled=run.n_groups > 1 and not spec.exact and run.k <= routes.GROUP_WIDTH,
        scatter=spectra.null_rank,
        epoch=epochs.recipe,
        kernel=_kernel(options.compute.kernel, run.n_steps * run.rows.n),
        section=sections.length(run.n_steps),
        **needs(spec.predictors, gradient_noise.LAGS),
    )
    recipe = route.collect(recipe, scope.by_group, light, spectra.seed)
    passes = _passes(recipe, cuts, ranges["run"][0], light)
    tasks = -(-run.n_steps // block_rows(run.rows)) + len(cuts) - 2
    workers = executors.of(options.compute.scheduler, tasks).workers
    breaks = len(run.gaps) + 1 + len(run.contiguous_ranges)
    predicted = predict(passes, run.rows, workers, breaks, spectra.components) + route.memory(run.n_steps, run.rows.n)
    if scope.directions and not unfit(run):
        predicted += working_set(recipe_of(run, LAGS), run.rows, MOST * PARTS, workers)
    return AnalysisPlan(options, spec, epochs, ranges, cuts, route, recipe, passes, light, predicted)


def ranges_of(run: Run, scope: Scope) -> Ranges:
    """Rows of every scope."""
    run.require(2)
    if scope.burn_in < 0 or scope.prefixes < 0:
        raise ValueError(f"burn_in and prefixes must not be negative, got {scope.burn_in} and {scope.prefixes}")
    T, window, stride = run.n_steps, scope.window, scope.stride
    burn_in = scope.burn_in if run.whole is run else 0  # a sample has none of these rows
    counted = sum(max(0, stop - max(start, burn_in)) for start, stop in run.contiguous_ranges.tolist())
    if counted < 2:
        raise TooFewStepsError(f"{run.where}: {counted} finite steps after burn_in={burn_in}, at least 2 needed")
    windows: list[Range] = []
    if window is not None:
        if window < 2 or (stride is not None and stride < 1):
            raise ValueError(f"window must be at least 2 and stride at least 1, got {window} and {stride}")
        # steps of a window are in order: after a rewind, which the view "all" shows, windows begin anew
        edges = [burn_in, *(row for row in rewinds(run.steps).tolist() if row > burn_in), T]
        windows = [
            Range(a, a + window)
            for low, high in pairwise(edges)
            for a in range(low, high - window + 1, stride or window)
        ]
        if not windows:
            raise TooFewStepsError(f"{run.where}: no whole window of {window} rows in {T - burn_in}")
    ends = np.linspace(burn_in, T, min(scope.prefixes, T) + 1).round().astype(int)[1:].tolist()
    prefixes = [Range(burn_in, int(b)) for b in dict.fromkeys(ends) if b > burn_in + 1]
    return {"run": [Range(burn_in, T)], "window": windows, "prefix": prefixes}


def _kernel(asked: Kernel, numbers: int) -> str:
    """Name what shall add up so many numbers."""
    if asked not in ("auto", "numpy", "numba"):
        raise ValueError(f"kernel must be 'auto', 'numpy' or 'numba', got {asked!r}")
    if asked == "numba" and summing.compiled() is None:
        raise ValueError("kernel='numba' needs numba: install the extra 'fast' of gradlog-zarr")
    if asked != "auto":
        return asked
    return "numba" if numbers >= summing.WORTH and summing.compiled() else "numpy"


def _passes(recipe: Recipe, cuts: list[int], whole: Range, light: bool) -> list[tuple[Recipe, list[int]]]:
    """List what is collected between which rows: Grams of the whole run alone by a pass of their own."""
    if not light or (recipe.gram == "none" and not recipe.pooled):
        return [(recipe, cuts)]
    small, grams = recipe.split()
    return [(grams, sorted({0, whole.start, whole.stop})), (small, cuts)]
