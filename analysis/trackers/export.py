"""From a run to a tracker: analyze, gather, write."""

from __future__ import annotations

import os
import tempfile
from importlib import import_module
from pathlib import Path

from gradlog.analysis.common.types import Progress
from gradlog.analysis.events.events import find_events
from gradlog.analysis.measures.predictors.registry import usual
from gradlog.analysis.reading.run import Run, open_run
from gradlog.analysis.report import plots
from gradlog.analysis.report.study import window_rows
from gradlog.analysis.results.analyze import analyze
from gradlog.analysis.trackers import TRACKERS, Name
from gradlog.analysis.trackers.curves import results
from gradlog.analysis.trackers.destination import Destination, Tracker


def export_to_tracker(
    run: Run | str | os.PathLike[str], tracker: Name, place: str | os.PathLike[str] | None = None, *,
    project: str | None = None, into: str | None = None, window: int | None = None, force: bool = False,
    progress: Progress | None = None,
) -> str:  # fmt: skip
    """Analyze a run, and write its numbers at their steps into an experiment tracker.

    Parameters
    ----------
    run : Run or path
    tracker : {"tensorboard", "wandb", "mlflow", "trackio"}
        All but TensorBoard need their own package.
    place : path or URL, optional
        TensorBoard: the log folder, by default ``NAME.tensorboard``. wandb: the folder for its files. mlflow: the
        tracking URI. By default the last two are where the tracker's own settings say, as they always are for trackio.
    project : str, optional
        Project of wandb and trackio, or experiment of mlflow. Default: the tracker's own setting, or ``gradlog``.
    into : str, optional
        Run of the tracker that gets the numbers: an id, or for trackio a name. Default: a new one, named as the run.
    window : int, optional
        Rows of a window. Default: about 24 windows.
    force : bool
        TensorBoard: replace what was exported from this run into the same folder before.
    progress : callable, optional
        ``progress(done, total)`` on completed blocks.

    Returns
    -------
    str
        Where the numbers are now.

    Raises
    ------
    MissingDependencyError
        The tracker's package is not installed.
    UnusableInputError
        An option that this tracker does not have.
    FileExistsError
        TensorBoard: the folder has an export of this run already.

    Examples
    --------
    >>> export_to_tracker("run.zarr", "tensorboard", "runs/adamw")       # doctest: +SKIP
    'runs/adamw/events.out.tfevents.1767225600.gradlog.3f9d'
    """
    if tracker not in TRACKERS:
        raise ValueError(f"tracker must be one of {', '.join(TRACKERS)}, got {tracker!r}")
    opened = run if isinstance(run, Run) else open_run(run)
    to = Destination(None if place is None else os.fspath(place), project, into, force)
    writer: Tracker = import_module(f"gradlog.analysis.trackers.{tracker}").of(to, opened)
    size = window or window_rows(opened.n_steps)
    ds = analyze(opened, usual("windows"), window=size, by_group=False, progress=progress)
    with tempfile.TemporaryDirectory(prefix="gradlog-") as folder:
        picture = Path(folder) / "overview.png"
        plots.save(ds, picture)
        return writer.write(results(opened, ds, find_events(opened), picture))
