"""Many runs: found under folders, patterns and URLs, analyzed each in one pass, gathered in one Dataset.

Results are kept by the digest of a run's content and not computed again. So an interrupted call continues where it
was, and a second call only reads metadata. A run that cannot be analyzed is listed; the others are analyzed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from gradlog.analysis.caching.cache import Cache, resolve
from gradlog.analysis.comparison.find import Failure, Paths, find
from gradlog.analysis.reading.metadata import read_metadata
from gradlog.analysis.reading.run import View
from gradlog.analysis.results.cached import analyze_cached
from gradlog.analysis.results.concat import stack
from gradlog.analysis.results.json_document import to_json
from gradlog.analysis.streaming import executors
from gradlog.analysis.streaming.executors.serial import Serial
from gradlog.errors import GradlogError, NotARunError

if TYPE_CHECKING:
    import xarray

SCHEMA = "gradlog.archive/1"

Progress = Callable[[int, int], None]
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Archive:
    """Results by path, in order, and the runs that have none."""

    results: dict[str, xarray.Dataset]
    failed: list[Failure]

    def dataset(self) -> xarray.Dataset:
        """All of it with a dimension ``run``; see ``analyze_many``."""
        paths = list(self.results)
        lost = [dataclasses.asdict(f) for f in self.failed]
        attrs = {"title": "gradlog analysis", "schema": SCHEMA, "runs": json.dumps(paths), "failed": json.dumps(lost)}
        return stack(list(self.results.values()), paths, attrs)

    def document(self) -> dict[str, Any]:
        """Plain object: ``schema``, ``runs`` (each as ``to_json`` gives it) and ``failed`` (path, error, type)."""
        documents = [to_json(ds) for ds in self.results.values()]
        return {"schema": SCHEMA, "runs": documents, "failed": [dataclasses.asdict(f) for f in self.failed]}


def analyze_many(paths: Paths, **options: Any) -> xarray.Dataset:
    """Analyze every run of an archive into one Dataset.

    Parameters
    ----------
    paths, **options
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
    return analyze_each(paths, **options).dataset()


def analyze_each(
    paths: Paths,
    *,
    view: View = "latest",
    cache: Cache | bool | str | os.PathLike[str] | None = True,
    scheduler: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Archive:
    """Analyze every run of an archive, each in one pass.

    Parameters
    ----------
    paths : path or several
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    view : {"latest", "all"}
        As for ``open_run``.
    cache : bool, path or Cache
        Where results and summaries are kept (True: the user's cache folder; False: nowhere).
    scheduler : None, "threads", "synchronous", address or distributed client
        Default: as many runs at once as there are cores, each in a thread of its own; with ``memory`` among the
        options one after the other. On a cluster each run is one task.
    progress : callable, optional
        ``progress(done, total)`` on runs.
    **options
        As for ``analyze``.

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
    outcomes = _outcomes(found, resolve(cache), view, scheduler, options, progress or (lambda done, total: None))
    done = {p: r for p, r in zip(found, outcomes, strict=True) if not isinstance(r, Failure)}
    return Archive(done, [*failed, *(r for r in outcomes if isinstance(r, Failure))])


def _outcomes(
    found: Sequence[str], cache: Cache | None, view: View, scheduler: Any, options: dict[str, Any], report: Progress
) -> list[Any]:
    report(0, len(found))
    executor = executors.of(scheduler, len(found))
    if len(found) < 2 or (executor.workers > 1 and options.get("memory") is not None):
        executor, inside = Serial(), scheduler
    else:
        inside = Serial()
    return executor.map(_attempt, [(p, cache, view, {**options, "scheduler": inside}) for p in found], report)


def _attempt(path: str, cache: Cache | None, view: View, options: dict[str, Any]) -> xarray.Dataset | Failure:
    """Analyze a run, or say what is wrong with it; a wrong option is the caller's error and raises."""
    try:
        return analyze_cached(read_metadata(path), view, cache, **options)
    except (GradlogError, OSError, MemoryError) as error:
        return Failure.of(path, error)
