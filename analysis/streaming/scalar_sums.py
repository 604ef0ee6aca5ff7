"""Sums over the small columns, norms and scalars, by pane; like the sketches they are read once and not kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.common.types import Column, Float64

if TYPE_CHECKING:
    from gradlog.analysis.reading.rows import Block
    from gradlog.analysis.reading.run import Run

BATCH = ("batch_size", "batch")
CLIP = "clip_coef"
"""Factor by which the gradient was clipped, at most 1."""
CLIPPED = "clipped"
"""Name of the column that is 1 where it was less, else 0."""
SCALARS = ("loss", "lr", *BATCH, CLIP)
"""Scalars that an analysis asks for."""


@dataclasses.dataclass(frozen=True)
class ScalarSums:
    """Finite rows of a pane.

    Attributes
    ----------
    energy : float64 (group,)
        Sum of the squared norms.
    moving : int64 (group,)
        Rows in which the norm is not zero.
    still : int
        Rows in which every norm is zero.
    scalars : dict of Column
        Of what was logged, and ``clipped``.
    """

    energy: Float64
    moving: Float64
    still: int
    scalars: dict[str, Column]

    @classmethod
    def of(cls, block: Block, start: int, stop: int) -> ScalarSums:
        """Of view rows [start, stop) of a block."""
        rows = slice(start - block.start, stop - block.start)
        good = block.finite[rows]
        norms = block.norms[rows][good]
        logged = {name: block.scalars[name][rows][good] for name in SCALARS if name in block.scalars}
        if CLIP in logged:
            factor = logged[CLIP]
            logged[CLIPPED] = np.where(np.isfinite(factor), factor < 1, np.nan)
        scalars = {name: Column.of(values) for name, values in logged.items()}
        still = int(np.count_nonzero((norms == 0).all(axis=1)))
        return cls(norms.sum(axis=0), np.count_nonzero(norms, axis=0), still, scalars)

    def add(self, later: ScalarSums) -> ScalarSums:
        """Of these rows and the later ones."""
        scalars = {name: column.add(later.scalars[name]) for name, column in self.scalars.items()}
        return ScalarSums(self.energy + later.energy, self.moving + later.moving, self.still + later.still, scalars)


def clipped_at_once(scalars: Sequence[str]) -> bool:
    """Whether one factor by which all parameters were clipped is among these names of scalars."""
    return CLIP in scalars and not any(name.startswith(f"{CLIP}/") for name in scalars)


def by_pane(
    run: Run, cuts: Sequence[int], more: Sequence[str] = (), see: Callable[[Block], None] | None = None
) -> list[ScalarSums]:
    """Return the sums between consecutive cuts: view rows, ascending, the first 0, the last the run's length.

    ``see`` is handed every block on the way, with the scalars ``more`` beside those that are added up.
    """
    names = [n for n in SCALARS if n in run.scalar_names and (n != CLIP or clipped_at_once(run.scalar_names))]
    added = [*names, CLIPPED] if CLIP in names else names
    n, nothing = run.n_groups, dict.fromkeys(added, Column.of(np.empty(0)))
    panes = [ScalarSums(np.zeros(n), np.zeros(n, np.int64), 0, nothing)] * (len(cuts) - 1)
    pane = 0
    for block in run.columns([*names, *(name for name in more if name not in names)]):
        if see is not None:
            see(block)
        start, stop = block.start, block.start + len(block.finite)
        while start < stop:
            while cuts[pane + 1] <= start:
                pane += 1
            end = min(stop, cuts[pane + 1])
            panes[pane] = panes[pane].add(ScalarSums.of(block, start, end))
            start = end
    return panes


def add(parts: Iterable[ScalarSums]) -> ScalarSums:
    """Of several panes together."""
    return reduce(ScalarSums.add, parts)
