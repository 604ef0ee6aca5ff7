"""One pass over a run, and every measure of it as an xarray Dataset; or the Dataset that was kept of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from gradlog.analysis.caching.cache import key, resolve
from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.recorded import optimizer_name
from gradlog.analysis.common.types import EPS
from gradlog.analysis.directions import in_results
from gradlog.analysis.directions.stretches import unfit
from gradlog.analysis.events.events import Events
from gradlog.analysis.events.words import KINDS
from gradlog.analysis.measures import bounds, gradient_noise, uncertainty
from gradlog.analysis.measures.bounds import bound_sides
from gradlog.analysis.measures.predictors import Evidence
from gradlog.analysis.measures.predictors.registry import built_in
from gradlog.analysis.measures.shares import shares
from gradlog.analysis.measures.spec import Values
from gradlog.analysis.reading.run import Run, View, open_run
from gradlog.analysis.reading.store.metadata import Metadata
from gradlog.analysis.results import half_batches, updates, warnings
from gradlog.analysis.results.execute import Collected, execute
from gradlog.analysis.results.forms.json_document import to_json
from gradlog.analysis.results.forms.labelled_arrays import LabelledArrays, labelled
from gradlog.analysis.results.memory_model import check
from gradlog.analysis.results.options import Caching, Keywords, Options, Predictors, Question
from gradlog.analysis.results.plan import AnalysisPlan, plan
from gradlog.analysis.results.sample import sampled
from gradlog.analysis.results.scopes import Scopes

if TYPE_CHECKING:
    import xarray


def analyze(
    run: Run | str,
    predictors: Predictors = None,
    eps: Sequence[float] = EPS,
    window: int | None = None,
    *,
    cache: Caching = True,
    **options: Unpack[Keywords],
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
        Refuse if more memory than this will be needed, such as ``"2G"``.
    progress : callable, optional
        ``progress(done, total)`` on completed blocks.
    prefixes : int
        Also measure so many growing prefixes of equal steps.
    sample : int, optional
        Read only about so many rows, 2,048 at least, in 20 to 40 stretches that lie evenly in the run, each after rows
        that serve as history. All numbers are then estimates: ``kappa_run`` is their error, and ranks are those of the
        sampled rows. Default: all rows.
    light : bool
        Save memory on runs with many columns: compute the spectra of windows and prefixes by the randomized route (one
        more pass, wider intervals), and of their groups only the shares in the path length.
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
        Number of steps per epoch, 0 if every batch is drawn anew. Default: the run's note of that name, or what its
        logged scalar ``epoch`` says. Random order is then random within each epoch.
    directions : bool
        Also the directions of training, of all rows: map, turns, autocorrelation, the path of the weights where it is
        known, and cosines at events (one more pass).
    seed : int
        Seed of the randomized route and of the random orders.
    cache : bool, path or Cache
        Folder in which the summaries of long runs are kept: True, the user's cache folder (see ``GRADLOG_CACHE``);
        False, nowhere. The analysis of a run that grew then reads only what is new, and all of it once per doubling.
        The numbers are the same, bit by bit. On a cluster summaries are kept only in a folder that is named here.

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
    from gradlog.analysis.results.forms.dataset import to_dataset

    opened = run if isinstance(run, Run) else open_run(run)
    return to_dataset(measure(opened, Options.of(predictors, eps, window=window, cache=cache, **options)))


@single_threaded()  # spectra of windows and groups are small: threads of BLAS would wait for each other
def measure(run: Run, options: Options) -> LabelledArrays:
    """Do what ``analyze`` does, without a Dataset."""
    run = sampled(run, options.scope, options.spectra.seed)
    planned = plan(run, options)
    check(planned.predicted, options.compute.memory)
    return assemble(Scopes(*execute(run, planned)))


def assemble(scopes: Scopes) -> LabelledArrays:
    """Measure every scope and gather all numbers."""
    run, plan, collected, whole = scopes.run, scopes.plan, scopes.collected, scopes.plan.whole
    spec, ranges, by_group = plan.spec, plan.ranges, plan.options.scope.by_group
    refined = scopes.refined(whole)
    spectrum = refined.spectrum if refined else scopes.spectrum(whole)
    main = scopes.values(whole, None, spectrum, full=True)
    values = {"": [main], "group": scopes.each_group(whole, main, full=True) if by_group else []}
    inputs = _bound_inputs(scopes)
    main |= bound_sides(inputs, main)
    if plan.options.spectra.components:
        main |= scopes.components(whole, refined, plan.options.spectra.components)
    if spec.scale == 1:  # of extreme gradients the rows are scaled, and the updates are not
        for scope, of_updates in zip([main, *values["group"]], updates.quantities(run, whole.start), strict=False):
            scope |= of_updates
    main |= scopes.steps(whole) | scopes.clipping(whole) | _events(collected.events)
    if plan.options.scope.directions:
        main |= in_results.quantities(run, collected.stretches)
    shares(
        values["group"], sum((np.asarray(g["path_length"]) for g in values["group"]), np.zeros(len(spec.predictors)))
    )
    for kind in ("window", "prefix"):
        values[kind] = [scopes.values(r) for r in ranges[kind]]
        each = zip(ranges[kind], values[kind], strict=True)
        values[f"{kind}_group"] = [v for r, of_all in each for v in scopes.groups(r, of_all)] if by_group else []
    shares(values["window"], main["path_length"])
    main |= scopes.overlaps(ranges["window"])
    of_all = Evidence(scopes.totals(whole), plan.recipe.betas)
    uncertainty.add_to(main, values["group"], scopes.blocks(whole), of_all, spec, lags=collected.halves is None)
    passes = refined.passes if refined else 1 + plan.route.further
    further = len(plan.passes) - 1 + bool(plan.options.spectra.components) + bool(collected.stretches)
    said = [
        *warnings.of_run(run, spec, scopes.scalar_sums(whole), of_all),
        *half_batches.caution(collected.halves, plan.epochs.steps),
        *warnings.of_rank(run, main, spec, spectrum),
    ]
    attrs = {
        "svd_method": plan.route.method,
        "svd_reason": plan.route.reason,
        "svd_passes": passes,
        "svd_certificate": spectrum.unseen / spectrum.total if spectrum and spectrum.total > 0 else 0.0,
        "svd_seed": plan.options.spectra.seed,
        **_attributes(run, plan, collected, main),
        "bound_inputs": dataclasses.asdict(inputs),
        "warnings": said,
        "bytes_read": 4 * run.rows.n * run.n_steps * (passes + further),
    }
    if plan.options.scope.directions:
        attrs["directions_withheld"] = str(unfit(run) or "").removeprefix(f"{run.where}: ")
    return labelled(run, spec, values, ranges, attrs)


def _bound_inputs(scopes: Scopes) -> bounds.Inputs:
    logged, given = scopes.scalar_sums(scopes.plan.whole).scalars, scopes.plan.options.bounds
    optimizer = optimizer_name(scopes.run.header.provenance)
    found = bounds.inputs(logged.get("loss"), logged.get("lr"), given.eta, given.lowest_loss, given.diameter, optimizer)
    needs = {"first_loss": "loss", "regret": "loss", "eta": "lr"}
    joined = {key for key, name in needs.items() if name in scopes.run.scalar_sources}
    sources = {key: text.replace("logged", "joined") if key in joined else text for key, text in found.sources.items()}
    return dataclasses.replace(found, sources=sources)


def _events(events: Events) -> Values:
    """Numbers of each event, where there are any."""
    found = {name: np.array([getattr(e, name) for e in events.found]) for name in ("first_step", "last_step", "score")}
    found["score"] = np.where(np.isinf(found["score"]), np.nan, found["score"])
    found["kind"] = np.array([list(KINDS).index(e.kind) for e in events.found])
    return {f"event_{name}": values for name, values in found.items()} if events.found else {}


def _attributes(run: Run, plan: AnalysisPlan, collected: Collected, main: Values) -> dict[str, object]:
    """Say how the analysis was made, and of what."""
    halves = collected.halves
    withheld = "" if halves else gradient_noise.withheld(main, plan.epochs.steps // run.header.every)
    return {
        "events": collected.events.kept(),
        "kernel": ", ".join(collected.kernels),
        "predicted_memory": plan.predicted,
        "cached_rows": collected.memo.rows if collected.memo else 0,
        "burn_in": plan.options.scope.burn_in,
        "exact_groups": [n for n, own in zip(run.header.groups, plan.spec.exact_groups, strict=True) if own],
        "signal_source": "" if withheld else halves.source if halves else "lags",
        "signal_withheld": withheld,
        "steps_per_epoch": plan.epochs.steps,
        "epoch_source": plan.epochs.source,
        "epoch_unknown": plan.epochs.why,
    }


WITHOUT_INFLUENCE = ("scheduler", "memory", "progress")
"""Options that no number depends on."""


def analyze_cached(
    run: Run | Metadata, view: View = "latest", cache: Caching = True, **options: Unpack[Question]
) -> LabelledArrays:
    """Do what ``analyze`` does, without a Dataset; or return what the cache holds of the same question and content.

    Parameters
    ----------
    run : Run or Metadata
        Metadata are opened as a run, with this ``view``, only where the result is not known.
    cache
        As of ``analyze``.
    **options
        As of ``analyze``. Those without a plain form, such as predictors of one's own, are computed every time.
    """
    view, content = (run.view, run.content) if isinstance(run, Run) else (view, run.digest)
    folder = resolve(cache)
    name = None if folder is None or content is None else _question(content, view, options)
    if folder and name:
        kept = folder.recall(name, lambda arrays: _relocated(LabelledArrays.from_arrays(arrays), run.where))
        if kept is not None:
            return kept
    result = measure(run if isinstance(run, Run) else Run(run, view), Options.of(cache=cache, **options))
    if folder and name:
        folder.put(name, result.to_arrays())
    return result


def _question(content: str, view: View, options: Question) -> str | None:
    """Key of a result; None for options that have no plain form."""
    if not built_in(options.get("predictors")):
        return None
    try:
        return key("result", content, view, {k: v for k, v in options.items() if k not in WITHOUT_INFLUENCE})
    except TypeError:
        return None


def _relocated(result: LabelledArrays, path: str) -> LabelledArrays:
    """Name the place where the run is now; raises where this is no result."""
    result.attrs["run"] = json.dumps(json.loads(result.attrs["run"]) | {"path": path})
    to_json(result)
    return result
