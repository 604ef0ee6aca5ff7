"""One pass over a run, and every measure of it as an xarray Dataset."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradlog.analysis.caching.cache import Cache, resolve
from gradlog.analysis.caching.summaries import Memo
from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.text import optimizer_name
from gradlog.analysis.common.types import Progress
from gradlog.analysis.measures import bounds, gradient_noise, uncertainty
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.measures.predictors import Evidence, Predictor, needs, parse
from gradlog.analysis.measures.scope_values import Question, Values, bound_sides, shares
from gradlog.analysis.reading.epochs import Epochs, epochs_of
from gradlog.analysis.reading.run import Run, open_run
from gradlog.analysis.results import half_batches, rescaling, warnings
from gradlog.analysis.results.dataset import result_dataset
from gradlog.analysis.results.memory_model import check, predict
from gradlog.analysis.results.scopes import Range, Scopes
from gradlog.analysis.spectrum import routes, subspaces
from gradlog.analysis.spectrum.routes import Method, Route
from gradlog.analysis.streaming import executors, schedule, sections
from gradlog.analysis.streaming import kernel as summing
from gradlog.analysis.streaming.scalar_sums import ledgers
from gradlog.analysis.streaming.summary import TRIANGLES, Recipe, Totals, contributions
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    import xarray

EPS = (0.1, 0.05, 0.01)
SUBSPACE = 8
"""Dimensions of the leading subspaces compared between windows."""


@single_threaded()  # spectra of windows and groups are small: threads of BLAS would wait for each other
def analyze(
    run: Run | str,
    predictors: str | Sequence[str | Predictor] | None = None,
    eps: Sequence[float] = EPS,
    window: int | None = None,
    by_group: bool = True,
    burn_in: int = 0,
    svd: Method = "auto",
    scheduler: Any = None,
    memory: str | int | None = None,
    progress: Progress | None = None,
    *,
    stride: int | None = None,
    prefixes: int = 0,
    light: bool = False,
    null_rank: bool = True,
    components: int = 0,
    passes: int = 2,
    kernel: Literal["auto", "numpy", "numba"] = "auto",
    eta: float | None = None,
    lowest_loss: float | None = None,
    diameter: float | None = None,
    steps_per_epoch: int | None = None,
    seed: int = 0,
    cache: Cache | bool | str | os.PathLike[str] | None = None,
) -> xarray.Dataset:
    """Measure the predictability and the rank of a run's gradients.

    Parameters
    ----------
    run : Run or path
    predictors : names or objects
        ``zero``, ``last``, ``ema(B)``, ``trend``, ``ar(P)``, ``best-ema``, any other that was registered (see
        ``register_predictor``), or any ``Predictor`` such as ``Linear("mean of two", (0.5, 0.5))``. Default: the usual
        ones.
    eps : sequence of float
        Tail energies at which r*(eps) is read.
    window, stride : int, optional
        Also measure windows of so many rows, every ``stride`` rows (default: side by side).
    by_group : bool
        Also measure each parameter group alone.
    burn_in : int
        Rows left out of every sum at the start; they still serve as history.
    svd : {"auto", "gram", "rows", "nystrom"}
        Route to the spectrum.
    scheduler : None, "threads", "synchronous", address or distributed client
    memory : int or str, optional
        Refuse when the predicted peak exceeds this, such as ``"2G"``.
    progress : callable, optional
        ``progress(done, total)`` on completed blocks.
    prefixes : int
        Also measure so many growing prefixes of equal steps.
    light : bool
        Keep no Grams of windows and prefixes: a fraction of the memory where there are many columns, for one more
        pass. Their spectra are then the randomized route's after one pass, with intervals as wide as that leaves them,
        and of their groups only the shares in the path length are measured.
    null_rank : bool
        Also the rank that shuffled steps would show (a second Gram, and random orders drawn from it).
    components : int
        Also the leading right singular vectors and their scores over time (one more pass).
    passes : int
        Most passes of the randomized route.
    kernel : {"auto", "numpy", "numba"}
        What adds up the columns; ``"auto"`` takes numba (the extra ``fast``) for runs of 256 MiB or more where it
        is installed. The attribute ``kernel`` of the result says what ran.
    eta, lowest_loss, diameter : float, optional
        Inputs of the bounds that override what was logged or assumed.
    steps_per_epoch : int, optional
        Steps after which the training data begin anew, 0 where every batch is drawn anew. Default: the run's note of
        that name, or what its logged scalar ``epoch`` tells. Random order is then random within each epoch.
    seed : int
        Of the randomized route, and of the random orders.
    cache : bool, path or Cache, optional
        Keep the summaries of chunks in a folder (True: the user's cache folder), so that the analysis of a run that
        grew reads only what is new; all of it once in a doubling, when ``sections`` get longer. Same numbers, bit by
        bit.

    Returns
    -------
    xarray.Dataset
        Variables with dims, units and long_name; provenance, warnings and the run's record in attrs. Whole-run
        variables bear plain names; ``window_``, ``prefix_``, ``group_`` and ``window_group_`` ones the other scopes.

    Raises
    ------
    TooFewStepsError
        Fewer than two finite steps after burn_in.
    MemoryLimitError
        The prediction exceeds ``memory``.
    ValueError
        An argument out of range.

    Notes
    -----
    Definitions: arXiv 2601.04270. Intervals on kappa are 95 % jackknife intervals for the sketch's error.

    Examples
    --------
    >>> ds = analyze("run.zarr", window=500)                  # doctest: +SKIP
    >>> float(ds.kappa.sel(predictor="ema(0.9)"))             # doctest: +SKIP
    1.058
    """
    if not isinstance(run, Run):
        run = open_run(run)
    epochs = epochs_of(run, steps_per_epoch)
    ask = dataclasses.replace(_question(run, parse(predictors), eps), drawn_anew=not epochs.drawn)
    ranges = _ranges(run, burn_in, window, stride, prefixes)
    route = routes.choose(svd, run.n_steps, run.n_groups, run.k)
    cuts = sorted({0, run.n_steps, *(edge for r in _flat(ranges) for edge in (r.start, r.stop))})
    light = light and len(cuts) > 2 + (burn_in > 0)
    recipe = _recipe(run, ask, route, by_group, null_rank, seed, kernel, light, epochs)
    passes_over = _passes(recipe, cuts, ranges["run"][0], light)
    tasks = executors.of(scheduler).workers
    breaks = len(run.gaps) + 1 + len(run.contiguous_ranges)
    predicted = predict(passes_over, run.rows, tasks, breaks, components) + route.memory(run.n_steps, run.rows.n)
    check(predicted, memory)
    folder = resolve(cache)
    books = ledgers(run, cuts)
    run, ask = rescaling.in_range(run, ask, books)
    memo = Memo(folder, run) if folder and ask.scale == 1 else None
    whole = ranges["run"][0]
    panes, grams, kernels, stretches = _collect(run, passes_over, scheduler, progress, memo)
    halves = half_batches.table(run, [(r.start, r.stop) for r in _flat(ranges)], epochs.steps)
    scopes = Scopes(run, ask, route, recipe, cuts, panes, books, {whole: grams}, halves, seed, stretches)
    found = scopes.refined(whole, passes, scheduler, memo)
    spectrum = found.spectrum if found else scopes.spectrum(whole)
    main = scopes.values(whole, None, spectrum, full=True)
    counted = scopes.ledger(whole)
    loss, lr, optimizer = (
        counted.scalars.get("loss"),
        counted.scalars.get("lr"),
        optimizer_name(run.header.provenance),
    )
    inputs = bounds.inputs(loss, lr, eta, lowest_loss, diameter, optimizer)
    main |= bound_sides(inputs, main)
    if components:
        main |= scopes.components(whole, found, components)
    values = {"": [main], "group": [scopes.values(whole, g, full=True) for g in range(run.n_groups * by_group)]}
    main |= scopes.steps(whole)
    shares(values["group"], sum((g["path_length"] for g in values["group"]), np.zeros(len(ask.predictors))))
    for kind in ("window", "prefix"):
        values[kind] = [scopes.values(r) for r in ranges[kind]]
        values[f"{kind}_group"] = [v for r in ranges[kind] for v in scopes.groups(r, light)] if by_group else []
    shares(values["window"], main["path_length"])
    main |= _overlaps(scopes, ranges["window"])
    of_all = Evidence(scopes.totals(whole), recipe.betas)
    uncertainty.add_to(main, values["group"], scopes.blocks(whole), of_all, ask, lags=halves is None)
    attrs: dict[str, Any] = {
        "svd_method": route.method,
        "svd_reason": route.reason,
        "svd_passes": found.passes if found else 1 + route.further,
        "svd_certificate": spectrum.unseen / spectrum.total if spectrum and spectrum.total > 0 else 0.0,
        "svd_seed": seed,
        "kernel": ", ".join(kernels),
        "predicted_memory": predicted,
        "cached_rows": memo.rows if memo else 0,
        "burn_in": burn_in,
        "exact_groups": [name for name, own in zip(run.header.groups, ask.exact_groups, strict=True) if own],
        "signal_source": "" if main["signal_withheld"] else halves.source if halves else "lags",
        "signal_withheld": main["signal_withheld"],
        "steps_per_epoch": epochs.steps,
        "epoch_source": epochs.source,
        "epoch_unknown": epochs.why,
        "bound_inputs": dataclasses.asdict(inputs),
        "warnings": [
            *warnings.of_run(run, ask, counted, of_all),
            *half_batches.caution(halves, epochs.steps),
            *warnings.of_rank(run, main, ask, spectrum),
        ],
    }
    passes_made = int(attrs["svd_passes"]) + len(passes_over) - 1 + bool(components)
    attrs["bytes_read"] = 4 * run.rows.n * run.n_steps * passes_made
    return result_dataset(run, ask, values, ranges, attrs)


def _question(run: Run, predictors: list[Predictor], eps: Sequence[float]) -> Question:
    eps = tuple(float(e) for e in eps)
    if not eps or not all(0 < e < 1 for e in eps) or len(set(eps)) < len(eps):
        raise ValueError(f"eps must be distinct numbers between 0 and 1, got {eps}")
    exact = exact_groups(run.header)
    return Question(predictors, eps, run.k, all(exact), run.has_exact_norms, exact_groups=exact)


def _ranges(run: Run, burn_in: int, window: int | None, stride: int | None, prefixes: int) -> dict[str, list[Range]]:
    T = run.n_steps
    run.require(2)
    if burn_in < 0 or prefixes < 0:
        raise ValueError(f"burn_in and prefixes must not be negative, got {burn_in} and {prefixes}")
    counted = [b - max(a, burn_in) for a, b in run.contiguous_ranges.tolist() if b > max(a, burn_in)]
    if sum(counted) < 2:
        raise TooFewStepsError(f"{run.where}: {sum(counted)} finite steps after burn_in={burn_in}, at least 2 needed")
    found = {"run": [Range(burn_in, T)], "window": [], "prefix": []}
    if window is not None:
        if window < 2 or (stride is not None and stride < 1):
            raise ValueError(f"window must be at least 2 and stride at least 1, got {window} and {stride}")
        found["window"] = [Range(a, a + window) for a in range(burn_in, T - window + 1, stride or window)]
        if not found["window"]:
            raise TooFewStepsError(f"{run.where}: no whole window of {window} rows in {T - burn_in}")
    ends = np.linspace(burn_in, T, prefixes + 1).round().astype(int)[1:].tolist() if prefixes else []
    found["prefix"] = [Range(burn_in, int(b)) for b in dict.fromkeys(ends) if b > burn_in + 1]
    return found


def _flat(ranges: dict[str, list[Range]]) -> list[Range]:
    return [r for group in ranges.values() for r in group]


def _recipe(
    run: Run,
    ask: Question,
    route: Route,
    by_group: bool,
    null_rank: bool,
    seed: int,
    kernel: str,
    light: bool,
    epochs: Epochs,
) -> Recipe:
    needed = needs(ask.predictors, gradient_noise.LAGS)
    if kernel not in ("auto", "numpy", "numba"):
        raise ValueError(f"kernel must be 'auto', 'numpy' or 'numba', got {kernel!r}")
    if kernel == "numba" and summing.compiled() is None:
        raise ValueError("kernel='numba' needs numba: install the extra 'fast' of gradlog-zarr")
    if kernel == "auto":
        kernel = "numba" if run.n_steps * run.rows.n >= summing.WORTH and summing.compiled() else "numpy"
    recipe = Recipe(
        groups=run.n_groups,
        k=run.k,
        betas=needed["betas"],
        lags=needed["lags"],
        pooled=run.n_groups > 1 and not ask.exact and run.k <= routes.GROUP_WIDTH,
        scatter=null_rank,
        epoch=epochs.recipe,
        kernel=kernel,
        section=sections.length(run.n_steps),
    )
    return route.collect(recipe, by_group, light, seed)


def _passes(recipe: Recipe, cuts: list[int], whole: Range, light: bool) -> list[tuple[Recipe, list[int]]]:
    """List what is collected between which rows: Grams of the whole run alone by a pass of their own."""
    if not light or (recipe.gram == "none" and not recipe.pooled):
        return [(recipe, cuts)]
    small, grams = recipe.split()
    return [(grams, sorted({0, whole.start, whole.stop})), (small, cuts)]


def _collect(
    run: Run, passes_over: list[tuple[Recipe, list[int]]], scheduler: Any, progress: Progress | None, memo: Memo | None
) -> tuple[list[Totals], Totals, list[str], list[sections.Section]]:
    """Totals of the panes, Grams of the whole run if they have none, what added up the columns, and the sections."""
    grams: Totals = {}
    kernels = frozenset[str]()
    for recipe, cuts in passes_over:
        summaries = schedule.compute(run.rows, run.contiguous_ranges, cuts, recipe, scheduler, progress, memo)
        kernels = kernels.union(*(s.kernels for s in summaries))
        stretches = sections.totals(summaries)
        panes = contributions(summaries)
        if not recipe.columns:
            grams = {name: x for name, x in panes[-1].items() if name.startswith(TRIANGLES)}
    return panes, grams, sorted(kernels), stretches


def _overlaps(scopes: Scopes, windows: list[Range]) -> Values:
    """Overlap of the leading increment subspaces of every pair of windows, and of random ones."""
    bases = [scopes.leading(r, SUBSPACE) for r in windows]
    if len(bases) < 2 or any(b is None for b in bases):
        return {}
    r = min(b.shape[1] for b in bases if b is not None)
    return {
        "window_overlap": subspaces.overlaps([b[:, :r] for b in bases if b is not None]),
        "window_overlap_random": subspaces.random_overlap(scopes.run.rows.n, r),
    }
