"""A report on one run or several: one HTML file, readable anywhere, offline.

>>> from gradlog.analysis import write_report
>>> write_report(["run.zarr"], "report.html")        # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlog.analysis.comparison.find import Failure
    from gradlog.analysis.comparison.side_by_side import Measure
    from gradlog.analysis.reading.run import Run, View
    from gradlog.analysis.report.study import Study

__all__ = ["archive_report", "html_report", "write_report"]


def html_report(
    runs: Sequence[Run | str | os.PathLike[str]], title: str = "Gradient report", again: float | None = None, *,
    group_by: Sequence[str] = (), replicate: str = "seed", **options: Any,
) -> str:  # fmt: skip
    """Measure runs and return a self-contained HTML page about them.

    Parameters
    ----------
    runs : sequence of Run or path
        Shown side by side.
    title : str
    again : float, optional
        For runs that grow: browsers load the page again after so many seconds. The windows over time then stay where
        they are until there are twice as many, so that a ``cache`` serves them.
    group_by, replicate
        As of ``compare``: notes that name a configuration, and the one that tells its runs apart.
    **options
        ``predictors``, ``eps``, ``burn_in``, ``memory``, ``scheduler``, ``cache``, ``steps_per_epoch``, ``progress`` as
        of ``analyze``.

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
    from gradlog.analysis.comparison.side_by_side import measure_runs
    from gradlog.analysis.report.study import PASSES

    if not runs:
        raise ValueError("a report needs at least one run")
    progress = options.pop("progress", None)
    studies = measure_runs(runs, _study(growing=again is not None, **options), progress, PASSES)
    return _page(studies, title, group_by, replicate, again=again)


def _study(**options: Any) -> Measure[Study]:
    from gradlog.analysis.report.study import study

    return lambda run, label, progress: study(run, label, progress=progress, **options)


def _page(studies: Sequence[Study], title: str, group_by: Sequence[str], replicate: str, **more: Any) -> str:
    from gradlog.analysis.comparison.replicates import replicates
    from gradlog.analysis.report.page import page

    found = replicates(studies, list(studies[0].document["kappa"]), group_by, replicate)
    return page(studies, title, found=found, **more)


def archive_report(
    paths: Sequence[str | os.PathLike[str]],
    title: str = "Gradient report",
    view: View = "latest",
    *,
    group_by: Sequence[str] = (),
    replicate: str = "seed",
    **options: Any,
) -> tuple[str, list[Failure]]:
    """Measure every run of an archive and return one page about all of them.

    Parameters
    ----------
    paths : sequence of path
        Runs, folders or bucket URLs that hold runs at any depth, or patterns such as ``"runs/*.zarr"``.
    title : str
    view : {"latest", "all"}
        As of ``open_run``.
    group_by, replicate, **options
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
    from gradlog.analysis.comparison.side_by_side import measure_archive
    from gradlog.analysis.report.study import PASSES

    progress = options.pop("progress", None)
    studies, failed = measure_archive(paths, _study(**options), progress, PASSES, view)
    return _page(studies, title, group_by, replicate, failed=failed), failed


def write_report(
    runs: Sequence[Run | str | os.PathLike[str]], target: str | os.PathLike[str], title: str = "Gradient report",
    **options: Any,
) -> None:  # fmt: skip
    """Write ``html_report(runs, title, **options)`` to a file.

    Raises
    ------
    As ``html_report``.
    """
    Path(target).write_text(html_report(runs, title, **options), encoding="utf-8", errors="backslashreplace")
