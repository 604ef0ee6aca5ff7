"""``gradlog.open``: the way into a run for any training loop."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from typing import Unpack

from gradlog.errors import GradlogWarning
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import OptionKeywords, RecordingOptions, takes_options
from gradlog.recorder.plan import Plan
from gradlog.sketching.pytree import describe, flatten
from gradlog.storage.paths import absolute


@takes_options
def open(
    path: str | os.PathLike[str],
    like: object = None,
    *,
    options: RecordingOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Logger:
    """Open a run for recording.

    Parameters
    ----------
    path : str or path-like
        Where to store the run: a local folder, usually called ``<name>.zarr``, or an fsspec URL. It is made absolute
        at once, and ``~`` is the home folder.
    like : array, nested dict or list of arrays, or iterable of (name, array), optional
        The parameters, or anything with their names and shapes. Default: taken from the first gradient.
    options : RecordingOptions, optional
        How to record, as one object.
    **keywords
        The same, one by one: ``k``, ``groups``, ``every``, ``mode`` and the others of
        :class:`gradlog.RecordingOptions`.

    Returns
    -------
    Logger

    Raises
    ------
    ValueError, TypeError
        An argument is out of its range.
    RunExistsError, SpecMismatchError, OSError
        With ``on_error="raise"`` only; otherwise the logger is off and says why in one warning.

    Notes
    -----
    The environment variable ``GRADLOG_DISABLED=1`` makes every logger a no-op; ``GRADLOG_ARGV=0`` leaves the command
    line out of every run. Rows that a remote store does not have yet wait below the folder ``GRADLOG_SPOOL``, up to
    ``GRADLOG_SPOOL_SIZE`` bytes (1G) per segment.

    Examples
    --------
    >>> import gradlog, numpy as np, tempfile
    >>> log = gradlog.open(tempfile.mkdtemp() + "/run.zarr", like={"w": np.zeros(100)}, k=16)
    >>> log.step({"w": np.ones(100)}, loss=0.5)
    >>> log.close()
    """
    chosen = RecordingOptions.of(options, keywords).filled(mode="w-")
    if disabled():
        return Logger(None)
    _warn_of_namesake()
    plan = Plan(absolute(path), None if like is None else describe(chosen.chosen(flatten(like))), chosen)
    plan.require_chunk()
    return Logger(plan)


def disabled() -> bool:
    """Whether the environment switches recording off."""
    return os.environ.get("GRADLOG_DISABLED", "") not in ("", "0")


_checked: list[bool] = []


def _warn_of_namesake() -> None:
    """Another project on the package index installs the import name gradlog; both at once overwrite each other."""
    if _checked:
        return
    _checked.append(True)
    owners = importlib.metadata.packages_distributions().get("gradlog", [])
    if "gradlog" in owners and "gradlog-zarr" in owners:
        warnings.warn(
            "two distributions install 'gradlog': pip uninstall gradlog, then reinstall gradlog-zarr",
            GradlogWarning,
            stacklevel=3,
        )
