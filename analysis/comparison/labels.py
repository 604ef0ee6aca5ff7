"""Short names for several runs, and one progress for several passes over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from gradlog.analysis.common.types import Progress


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
