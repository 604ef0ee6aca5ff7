"""Reports on runs, or on all runs of an archive."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from gradlog.analysis.comparison.find import Failure
from gradlog.analysis.comparison.replicates import replicates
from gradlog.analysis.comparison.side_by_side import measure_archive, measure_runs
from gradlog.analysis.reading.run import Run, View
from gradlog.analysis.report.page import page
from gradlog.analysis.report.study import PASSES, study
from gradlog.analysis.results.options import Caching, Question


def html_report(
    runs: Sequence[Run | str | os.PathLike[str]], title: str = "Gradient report", again: float | None = None, *,
    group_by: Sequence[str] = (), replicate: str = "seed", cache: Caching = True, **options: Unpack[Question],
) -> str:  # fmt: skip
    """Measure runs and return a self-contained HTML page about them.

    Parameters
    ----------
    runs : sequence of Run or path
        Shown side by side.
    title : str
    again : float, optional
        For runs that grow: browsers load the page again after so many seconds. The windows over time then stay where
        they are until there are twice as many, so that the ``cache`` serves them.
    group_by, replicate
        As of ``compare``: notes that name a configuration, and the one that tells its runs apart.
    cache : bool, path or Cache
        As of ``analyze``; whole results are kept as well.
    **options
        ``predictors``, ``eps``, ``burn_in``, ``memory``, ``scheduler``, ``steps_per_epoch``, ``progress`` as of
        ``analyze``.

    Returns
    -------
    str
        HTML with inline SVG, style and script, that asks the network for nothing. Text from the runs is escaped.

    Raises
    ------
    ValueError
        No run given.
    TooFewStepsError, NotARunError, CorruptRunError
        As of ``open_run`` and ``analyze``.

    Examples
    --------
    >>> page = html_report(["run.zarr", "other.zarr"])       # doctest: +SKIP
    """
    if not runs:
        raise ValueError("a report needs at least one run")
    progress, growing = options.pop("progress", None), again is not None
    studies = measure_runs(runs, lambda *run: study(*run, growing=growing, cache=cache, **options), progress, PASSES)
    return page(
        studies, title, again, found=replicates(studies, list(studies[0].document["kappa"]), group_by, replicate)
    )


def archive_report(
    paths: Sequence[str | os.PathLike[str]], title: str = "Gradient report", view: View = "latest", *,
    steps: tuple[int, int] | None = None, group_by: Sequence[str] = (), replicate: str = "seed",
    cache: Caching = True, **options: Unpack[Question],
) -> tuple[str, list[Failure]]:  # fmt: skip
    """Measure every run of an archive and return one page about all of them.

    Parameters
    ----------
    paths : sequence of path
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    title : str
    view, steps
        As of ``open_run``.
    group_by, replicate, cache, **options
        As of ``html_report``.

    Returns
    -------
    page : str
        More than 12 runs share their figures, a curve each. Runs that failed are named in it.
    failed : list of Failure
        Runs that could not be opened or measured, and paths without any.

    Raises
    ------
    NotARunError
        Not one run could be measured.

    Examples
    --------
    >>> page, failed = archive_report(["runs/*.zarr"])       # doctest: +SKIP
    """
    progress = options.pop("progress", None)
    studies, failed = measure_archive(
        paths, lambda *run: study(*run, cache=cache, **options), progress, PASSES, view, steps
    )
    found = replicates(studies, list(studies[0].document["kappa"]), group_by, replicate)
    return page(studies, title, failed=failed, found=found), failed


def write_report(
    runs: Sequence[Run | str | os.PathLike[str]], target: str | os.PathLike[str], title: str = "Gradient report", *,
    group_by: Sequence[str] = (), replicate: str = "seed", cache: Caching = True, **options: Unpack[Question],
) -> None:  # fmt: skip
    """Write what ``html_report`` returns to a file.

    Raises
    ------
    As ``html_report``.
    """
    text = html_report(runs, title, group_by=group_by, replicate=replicate, cache=cache, **options)
    Path(target).write_text(text, encoding="utf-8", errors="backslashreplace")
