"""Many runs: found under folders, patterns and URLs, analyzed each in one pass, gathered in one Dataset.

Results are kept by the digest of a run's content and not computed again. So an interrupted call continues where it
was, and a second call only reads metadata. A run that cannot be analyzed is listed; the others are analyzed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

from gradlog.analysis.caching.cache import Cache, resolve
from gradlog.analysis.comparison.find import Failure, Paths, find
from gradlog.analysis.reading.run import View
from gradlog.analysis.reading.store.metadata import read_metadata
from gradlog.analysis.results.analyze import analyze_cached
from gradlog.analysis.results.forms.json_document import Document, to_json
from gradlog.analysis.results.forms.labelled_arrays import LabelledArrays
from gradlog.analysis.results.options import Caching, Question
from gradlog.analysis.streaming import executors
from gradlog.analysis.streaming.executors.serial import Serial
from gradlog.errors import GradlogError, NotARunError

if TYPE_CHECKING:
    import xarray

SCHEMA = "gradlog.archive/1"


@dataclasses.dataclass(frozen=True)
class Archive:
    """Results by path, in order, and the runs that have none."""

    measured: dict[str, LabelledArrays]
    failed: list[Failure]

    @property
    def results(self) -> dict[str, xarray.Dataset]:
        """What ``analyze`` gives of each run, by path."""
        from gradlog.analysis.results.forms.dataset import to_dataset

        return {path: to_dataset(result) for path, result in self.measured.items()}

    def dataset(self) -> xarray.Dataset:
        """All of it with a dimension ``run``; see ``analyze_many``."""
        from gradlog.analysis.results.forms.dataset import stack

        paths = list(self.measured)
        lost = [dataclasses.asdict(f) for f in self.failed]
        attrs = {"title": "gradlog analysis", "schema": SCHEMA, "runs": json.dumps(paths), "failed": json.dumps(lost)}
        return stack(list(self.results.values()), paths, attrs)

    def document(self) -> Document:
        """Plain object: ``schema``, ``runs`` (each as ``to_json`` gives it) and ``failed`` (path, error, type)."""
        documents = [to_json(result) for result in self.measured.values()]
        return {"schema": SCHEMA, "runs": documents, "failed": [dataclasses.asdict(f) for f in self.failed]}


def analyze_many(
    paths: Paths, *, view: View = "latest", cache: Caching = True, **options: Unpack[Question]
) -> xarray.Dataset:
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
        As for ``analyze``, but ``progress(done, total)`` counts runs. Without a ``scheduler``, as many runs as there
        are cores are analyzed at once, each in a thread of its own; with ``memory`` one after the other. On a cluster
        each run is one task.

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


def _outcomes(
    found: Sequence[str], cache: Cache | None, view: View, options: Question
) -> list[LabelledArrays | Failure]:
    scheduler, report = options.pop("scheduler", None), options.pop("progress", None) or (lambda done, total: None)
    report(0, len(found))
    executor = executors.of(scheduler, len(found))
    if len(found) < 2 or (executor.workers > 1 and options.get("memory") is not None):
        executor, inside = Serial(), scheduler
    else:
        inside = Serial()
    return executor.map(_attempt, [(p, cache, view, {**options, "scheduler": inside}) for p in found], report)


def _attempt(path: str, cache: Cache | None, view: View, options: Question) -> LabelledArrays | Failure:
    """Analyze a run, or say what is wrong with it; a wrong option is the caller's error and raises."""
    try:
        return analyze_cached(read_metadata(path), view, cache, **options)
    except (GradlogError, OSError, MemoryError) as error:
        return Failure.of(path, error)
