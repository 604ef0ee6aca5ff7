"""Many runs: found under folders, patterns and URLs, analyzed each in one pass, gathered in one Dataset.

Results are kept by the digest of a run's content and not computed again. So an interrupted call continues where it
was, and a second call only reads metadata. A run that cannot be analyzed is listed; the others are analyzed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import xarray as xr

from gradlog.analysis.caching.cache import Cache, resolve
from gradlog.analysis.comparison.find import Failure, Paths, find
from gradlog.analysis.reading.metadata import read_metadata
from gradlog.analysis.reading.run import View
from gradlog.analysis.results.cached import analyze_cached
from gradlog.analysis.results.json_document import Document, to_json
from gradlog.analysis.results.options import Caching, Question
from gradlog.analysis.streaming import executors
from gradlog.analysis.streaming.executors.serial import Serial
from gradlog.errors import GradlogError, NotARunError

SCHEMA = "gradlog.archive/1"
BY_PLACE = ("path_step", "increment_step")
"""Dimensions whose labels are steps of one run: many runs line them up by place."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """Results by path, in order, and the runs that have none."""

    results: dict[str, xr.Dataset]
    failed: list[Failure]

    def dataset(self) -> xr.Dataset:
        """All of it with a dimension ``run``; see ``analyze_many``."""
        paths = list(self.results)
        lost = [dataclasses.asdict(f) for f in self.failed]
        attrs = {"title": "gradlog analysis", "schema": SCHEMA, "runs": json.dumps(paths), "failed": json.dumps(lost)}
        return stack(list(self.results.values()), paths, attrs)

    def document(self) -> Document:
        """Plain object: ``schema``, ``runs`` (each as ``to_json`` gives it) and ``failed`` (path, error, type)."""
        documents = [to_json(ds) for ds in self.results.values()]
        return {"schema": SCHEMA, "runs": documents, "failed": [dataclasses.asdict(f) for f in self.failed]}


def analyze_many(
    paths: Paths, *, view: View = "latest", cache: Caching = True, **options: Unpack[Question]
) -> xr.Dataset:
    """Analyze every run of an archive into one Dataset.

    Parameters
    ----------
    paths, view, cache, **options
        As for ``analyze_each``.

    Returns
    -------
    xarray.Dataset
        The variables of ``analyze`` with a leading dimension ``run``. The attributes ``schema``, ``runs`` (JSON: paths)
        and ``failed`` (JSON: objects with path, error and type).

    Examples
    --------
    >>> ds = analyze_many("runs/*.zarr", predictors=["last"])         # doctest: +SKIP
    >>> ds.kappa.sel(predictor="last").to_series()                    # doctest: +SKIP
    """
    return analyze_each(paths, view=view, cache=cache, **options).dataset()


def analyze_each(paths: Paths, *, view: View = "latest", cache: Caching = True, **options: Unpack[Question]) -> Archive:
    """Analyze every run of an archive, each in one pass.

    Parameters
    ----------
    paths : path or several
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    view : {"latest", "all"}
        As for ``open_run``.
    cache : bool, path or Cache
        Where results and summaries are kept (True: the user's cache folder; False: nowhere).
    **options
        As for ``analyze``, but ``progress(done, total)`` counts runs, and ``scheduler`` is by default as many runs at
        once as there are cores, each in a thread of its own; with ``memory`` one after the other. On a cluster each run
        is one task.

    Returns
    -------
    Archive
        A run that cannot be opened or analyzed, and a path with no run, are in ``failed``.

    Raises
    ------
    NotARunError
        No path was given.
    ValueError, TypeError
        An option that no run would take.
    SchedulerError
        No scheduler answers.
    """
    found, failed = find(paths)
    if not found and not failed:
        raise NotARunError("no path given; expected runs such as 'run.zarr', or folders of them")
    outcomes = _outcomes(found, resolve(cache), view, options)
    done = {p: r for p, r in zip(found, outcomes, strict=True) if not isinstance(r, Failure)}
    return Archive(done, [*failed, *(r for r in outcomes if isinstance(r, Failure))])


def _outcomes(found: Sequence[str], cache: Cache | None, view: View, options: Question) -> list[xr.Dataset | Failure]:
    scheduler, report = options.pop("scheduler", None), options.pop("progress", None) or (lambda done, total: None)
    report(0, len(found))
    executor = executors.of(scheduler, len(found))
    if len(found) < 2 or (executor.workers > 1 and options.get("memory") is not None):
        executor, inside = Serial(), scheduler
    else:
        inside = Serial()
    return executor.map(_attempt, [(p, cache, view, {**options, "scheduler": inside}) for p in found], report)


def _attempt(path: str, cache: Cache | None, view: View, options: Question) -> xr.Dataset | Failure:
    """Analyze a run, or say what is wrong with it; a wrong option is the caller's error and raises."""
    try:
        return analyze_cached(read_metadata(path), view, cache, **options)
    except (GradlogError, OSError, MemoryError) as error:
        return Failure.of(path, error)


def stack(results: Sequence[xr.Dataset], labels: Sequence[str], attrs: Mapping[str, object]) -> xr.Dataset:
    """One Dataset of several analyses, NaN where a run has no such group, mode or window.

    Parameters
    ----------
    results : Datasets of ``analyze``
    labels : names of the runs, the coordinate ``run``
    attrs : attributes of the whole

    Returns
    -------
    xarray.Dataset
        Every variable with a leading dimension ``run``; what each run's own attributes said, as JSON in
        ``run_attrs`` (run,).
    """
    run = xr.DataArray(np.array(labels, dtype=object), dims="run", name="run")
    if not results:
        return xr.Dataset(coords={"run": run}, attrs=attrs)
    aligned = [_by_place(ds) for ds in results]
    joined = xr.concat(
        aligned, dim=run, data_vars="all", coords="different", compat="equals", join="outer", combine_attrs="drop"
    )
    for name, variable in joined.variables.items():
        first = next(ds.variables[name] for ds in aligned if name in ds.variables) if name != "run" else variable
        variable.attrs = dict(first.attrs)
    kept = np.array([json.dumps(ds.attrs) for ds in results], dtype=object)
    joined["run_attrs"] = (("run",), kept, {"long_name": "attributes of each analysis, JSON"})
    joined.attrs = attrs
    return joined


def _by_place(ds: xr.Dataset) -> xr.Dataset:
    """Give dimensions without common labels their place as one, so that runs of any length line up."""
    for name in BY_PLACE:
        if name in ds.dims:
            ds = ds.reset_index(name).reset_coords(name).rename_dims({name: name.replace("step", "place")})
    bare = [d for d in ds.dims if d not in ds.indexes]
    return ds.assign_coords({d: np.arange(ds.sizes[d]) for d in bare})
