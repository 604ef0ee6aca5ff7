"""The map of directions of a run, from one more pass over its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradlog.analysis.measures.direction_map import PARTS, DirectionMap, cosines
from gradlog.analysis.measures.exact_groups import exact_groups
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
    if goes_back(run):
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


def goes_back(run: Run) -> bool:
    """Whether the steps of a view go back, as those of the view "all" do at a rewind."""
    return bool((np.diff(run.steps) < 0).any())
