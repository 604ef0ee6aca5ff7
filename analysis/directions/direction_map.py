"""Cosines between the mean gradients of stretches of steps, free of the noise of the steps.

The mean of a stretch holds the noise of its rows over their number. Products of the means of different stretches are
free of it, as their noises are independent. The squared norm of one mean is not. The mean product of different quarters
of the stretch is, and stands in its place; it is too small where the direction turns within a quarter, and the cosine
then too large. The sketch keeps products without bias. Its error and the noise show in the spread over the k
coordinates, each nearly an estimate of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import leave_one_out, pool, quantile, spread
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.reading.rewinds import rewinds
from gradlog.analysis.results.execute import in_range
from gradlog.analysis.streaming import schedule
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.scalar_sums import by_pane
from gradlog.analysis.streaming.totals import contributions
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

MOST, FEWEST_ROWS = 24, 16
"""Stretches, and rows of one: their means are compared."""

PARTS = 4
"""Parts of a stretch, whose products make the squared norm of its mean."""


@dataclasses.dataclass(frozen=True)
class DirectionMap:
    """Cosines between the mean gradients of stretches of steps.

    Attributes
    ----------
    first, last : int64 (stretches,)
        Steps at their ends.
    cosine, low, high : float64 (stretches, stretches)
        Cosine and the ends of its 95 % interval, which covers the sketch and the noise of the steps; NaN where the
        mean gradient of one of both cannot be told from zero.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    cosine: Float64
    low: Float64
    high: Float64

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which stretches have a mean gradient that can be told from zero."""
        return ~np.isnan(np.diagonal(self.cosine))


def direction_map(
    run: Run, rows: int | None = None, group: str | None = None, scheduler: object = None
) -> DirectionMap:
    """Compare the mean gradients of stretches of a run in direction.

    Parameters
    ----------
    run : Run
        Its sketch is read once.
    rows : int, optional
        Rows of a stretch; by default so many that there are 24 stretches, and at least 16. Rows that are left over at
        the end are left out.
    group : str, optional
        One parameter group instead of all.
    scheduler
        As of ``analyze``.

    Returns
    -------
    DirectionMap

    Raises
    ------
    TooFewStepsError
        Fewer than two stretches.
    ValueError
        Fewer than 4 rows in a stretch, no such group, or a sketch of fewer than four coordinates. A view whose steps go
        back at a rewind: a stretch would hold rows of both branches.

    Examples
    --------
    >>> found = direction_map(open_run("run.zarr"))         # doctest: +SKIP
    >>> found.cosine[0, -1]                                 # doctest: +SKIP
    0.12
    """
    size = rows or max(FEWEST_ROWS, run.n_steps // MOST)
    count = run.n_steps // size
    if size < 4 or run.k < 4:
        wanted = "stretches of 4 rows and a sketch of 4 coordinates or more"
        raise ValueError(f"{run.where}: expected {wanted}, got {size} and {run.k}")
    if len(rewinds(run.steps)):
        raise ValueError(f"{run.where}: expected steps in order, got a view that goes back; open it with view='latest'")
    if group is not None and group not in run.groups:
        raise ValueError(f"{run.where}: expected one of the groups {', '.join(run.groups)}, got {group!r}")
    if count < 2:
        raise TooFewStepsError(f"{run.where}: {run.n_steps} steps, at least {2 * size} needed for two stretches")
    starts = np.arange(count) * size
    inner = (starts[:, None] + np.arange(PARTS) * size // PARTS).ravel()
    cuts = np.unique([*inner, count * size, run.n_steps]).tolist()
    recipe = Recipe(run.n_groups, run.k, lags=0, gram="none")
    source = in_range(run, by_pane(run, cuts))[0].rows  # cosines are the same in all units
    panes = contributions(schedule.compute(source, run.contiguous_ranges, cuts, recipe, scheduler))[: len(inner)]
    with np.errstate(invalid="ignore"):
        means = np.stack([pane["total"] / pane["rows"] for pane in panes])
    exact = exact_groups(run.header)
    if group is not None:
        g = run.groups.index(group)
        means, exact = means.reshape(len(means), -1, run.k)[:, g], exact[g : g + 1]
    found = cosines(means.reshape(count, PARTS, -1), run.k, exact)
    return DirectionMap(run.steps[starts], run.steps[starts + size - 1], *found)


def cosines(parts: Float64, k: int, exact: Sequence[bool] = ()) -> tuple[Float64, Float64, Float64]:
    """Cosines between stretches, with the ends of their intervals, each (stretches, stretches).

    Parameters
    ----------
    parts : float64 (stretches, parts, groups x k)
        Mean rows of equal parts of each stretch.
    k : int
        Coordinates of a group, at least 4.
    exact : sequence of bool
        Groups that the sketch shows without error.

    Examples
    --------
    Two stretches whose parts agree, at a right angle:

    >>> parts = np.array([[[1.0, 1, 1, 1]] * 4, [[2.0, -2, 2, -2]] * 4])
    >>> cosines(parts, 4)[0]
    array([[1., 0.],
           [0., 1.]])
    """
    means, own, count = parts.mean(axis=1), np.arange(len(parts)), parts.shape[1]
    products = pool(means[:, None] * means[None, :], k, exact)
    different = (means * means - np.square(parts).mean(axis=1) / count) * count / (count - 1)
    products[own, own] = pool(different, k, exact)
    value = _cosine(products.sum(axis=-1)[..., None])[..., 0]
    half = quantile(k) * spread(_cosine(leave_one_out(products)))
    norms = products[own, own]
    noise = np.sqrt(k / (k - 1) * np.square(norms - norms.mean(axis=-1, keepdims=True)).sum(axis=-1))
    known = norms.sum(axis=-1) > quantile(k) * noise
    shown = np.clip(np.where(known[:, None] & known, value, np.nan), -1, 1)
    return shown, np.maximum(shown - half, -1), np.minimum(shown + half, 1)


def _cosine(sums: Float64) -> Float64:
    """Cosines from products (stretches, stretches, ...), 1 on the diagonal."""
    own = np.arange(len(sums))
    norms = sums[own, own]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums / np.sqrt(norms[:, None] * norms[None, :])
    found[own, own] = 1.0
    return np.asarray(found)
