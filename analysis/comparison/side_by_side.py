"""Several runs measured one after another: short names, one progress for all passes, and which of them failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TypeVar

from gradlog.analysis.common.types import Progress
from gradlog.analysis.comparison.find import Failure, find
from gradlog.analysis.reading.run import Run, View, open_run
from gradlog.errors import GradlogError, NotARunError

Measured = TypeVar("Measured")
Measure = Callable[[Run, str, Progress], Measured]
"""What a run, its short name and the progress of its passes give."""


class Phases:
    """Progress of several passes one after another as one: each counts for an equal part of the whole."""

    def __init__(self, progress: Progress | None, phases: int) -> None:
        self._progress, self._phases, self._at, self._last = progress, phases, 0, 0

    def __call__(self, done: int, total: int) -> None:
        """Blocks of the pass that is under way; fewer than before means that the next one began."""
        if done < self._last and self._at + 1 < self._phases:
            self._at += 1
        self._last = done
        if self._progress:
            self._progress(self._at * total + done, self._phases * total)


def labels(paths: Sequence[str]) -> list[str]:
    """Short distinct names for runs: the last part of the path, longer where that is not enough.

    >>> labels(["a/run.zarr", "b/run.zarr"]), labels(["x/one.zarr", "x/two.zarr"])
    (['a/run', 'b/run'], ['one', 'two'])
    """
    parts = [PurePath(p.rstrip("/")).parts or (p,) for p in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(x[-depth:]).removesuffix(".zarr").removesuffix(".zarr.zip") for x in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} #{i}" for i, name in enumerate(names, start=1)]


def measure_runs(
    runs: Sequence[Run | str | os.PathLike[str]], measure: Measure[Measured], progress: Progress | None, passes: int = 1
) -> list[Measured]:
    """Measure runs that are named, all of them opened first; each takes ``passes`` passes."""
    opened = [r if isinstance(r, Run) else open_run(os.fspath(r)) for r in runs]
    phases = Phases(progress, passes * len(opened))
    names = labels([r.where for r in opened])
    return [measure(run, name, phases) for run, name in zip(opened, names, strict=True)]


def measure_archive(
    paths: Sequence[str | os.PathLike[str]], measure: Measure[Measured], progress: Progress | None, passes: int = 1,
    view: View = "latest", steps: tuple[int, int] | None = None,
) -> tuple[list[Measured], list[Failure]]:  # fmt: skip
    """Measure every run at or under the paths; those that fail are listed.

    Raises
    ------
    NotARunError
        Not one run could be measured.
    """
    found, failed = find(paths)
    phases, measured = Phases(progress, passes * len(found)), []
    for path, name in zip(found, labels(found), strict=True):
        try:
            measured.append(measure(open_run(path, view, steps=steps), name, phases))
        except (GradlogError, OSError, MemoryError) as error:
            failed.append(Failure.of(path, error))
    if not measured:
        why = "; ".join(f"{f.path}: {f.error}" for f in failed[:3]) or "no path given"
        raise NotARunError(f"no run could be measured: {why}; expected runs such as 'run.zarr', or folders of them")
    return measured, failed
