"""One step beside its neighbours: what was logged, norms by group, and how the gradients are turned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.plain import plain
from gradlog.analysis.common.types import Float64
from gradlog.analysis.events.band import WINDOW
from gradlog.analysis.measures.cosines import cosine_intervals
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Rows around a step.

    Attributes
    ----------
    at : int
        Index of the step among those shown.
    recorded : int
        How many rows of the view hold this step; of several, which a rewind leaves in the view "all", the newest is
        shown.
    steps : int64 (rows,)
    scalars : dict of float64 (rows,)
        What was logged, NaN where it was not.
    norm : float64 (rows,)
        Norm of the gradient.
    cosine, cosine_low, cosine_high : float64 (rows,)
        Cosine of each row with that of the step, and its sketch 95 % interval; NaN for rows with NaN or inf.
    groups : dict of tuple of float
        Of each group at the step: its norm, and the median of its norms in up to 64 steps before.
    """

    at: int
    recorded: int
    steps: NDArray[np.int64]
    scalars: dict[str, Float64]
    norm: Float64
    cosine: Float64
    cosine_low: Float64
    cosine_high: Float64
    groups: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, object]:
        """Plain object, ready for ``json.dumps(..., allow_nan=False)``; what is not known is None."""
        columns = ("norm", "cosine", "cosine_low", "cosine_high")
        return plain({
            "step": int(self.steps[self.at]),
            "recorded": self.recorded,
            "steps": self.steps.tolist(),
            "scalars": {name: column.tolist() for name, column in self.scalars.items()},
            **{name: getattr(self, name).tolist() for name in columns},
            "groups": {name: dict(zip(("norm", "usual"), both, strict=True)) for name, both in self.groups.items()},
        })  # fmt: skip


def neighbours(run: Run, step: int, around: int = 3) -> Neighbours:
    """Read a step and up to ``around`` rows on each side of it.

    Raises
    ------
    TooFewStepsError
        The run has no such step.
    ValueError
        ``around`` is negative.

    Examples
    --------
    >>> neighbours(open_run("run.zarr"), 116).norm          # doctest: +SKIP
    array([ 1.1,  1.0,  1.2, 14.5,  1.3,  1.1,  1.0])
    """
    if around < 0:
        raise ValueError(f"around: expected 0 rows or more, got {around}")
    rows = np.flatnonzero(run.steps == step)
    if not len(rows):
        held = f"steps {run.steps[0]:,} to {run.steps[-1]:,}, every {run.header.every}" if run.n_steps else "none yet"
        raise TooFewStepsError(f"{run.where}: expected a step that was recorded, got {step:,}; it holds {held}")
    row = int(rows[-1])
    start, stop = max(0, row - around), min(run.n_steps, row + around + 1)
    blocks = list(run.columns(run.scalar_names, first=max(0, row - WINDOW), stop=stop))
    norms = np.sqrt(np.concatenate([b.norms for b in blocks]))
    past = norms[: row - max(0, row - WINDOW)]
    cube = run.rows.read(start, stop).reshape(-1, run.n_groups, run.k)
    one = np.broadcast_to(cube[row - start], cube.shape)
    finite = run.finite[start:stop] & run.finite[row]
    ends = cosine_intervals(one, cube, exact_groups(run.whole_header))
    cosine, low, high = (np.where(finite, end, np.nan) for end in ends)
    before = past[run.finite[row - len(past) : row]]
    usual = np.median(before, axis=0) if len(before) else np.full(run.n_groups, np.nan)
    shown = slice(start - stop, None)
    return Neighbours(
        row - start,
        len(rows),
        run.steps[start:stop],
        {name: np.concatenate([b.scalars[name] for b in blocks])[shown] for name in run.scalar_names},
        np.sqrt(np.square(norms[shown]).sum(axis=1)),
        cosine,
        low,
        high,
        dict(zip(run.groups, zip(norms[len(past)].tolist(), usual.tolist(), strict=True), strict=True)),
    )
