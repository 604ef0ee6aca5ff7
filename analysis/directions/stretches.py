"""What one pass leaves of stretches of a run for comparing directions: means of their parts, energies, lag products."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.reading.rewinds import rewinds
from gradlog.analysis.streaming import schedule
from gradlog.analysis.streaming.in_range import in_range
from gradlog.analysis.streaming.recipe import Recipe
from gradlog.analysis.streaming.scalar_sums import by_pane
from gradlog.analysis.streaming.totals import contributions
from gradlog.errors import TooFewStepsError

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

MOST, FEWEST_ROWS = 24, 16
"""Stretches, and rows of one."""

PARTS = 4
"""Equal parts of a stretch."""


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Stretches of a run, cut into equal parts. Squares and products are in one unit, that of the pass.

    Attributes
    ----------
    groups : tuple of str
    k : int
    exact : tuple of bool
        Groups that the sketch shows without error.
    first, last : int64 (stretches,)
        Steps at their ends.
    starts : int64 (stretches x parts,)
        First step of each part.
    size : int
        Rows of a stretch.
    every : int
        Steps from one row to the next.
    rows : float64 (parts,)
        Finite rows of each part.
    means, energy : float64 (parts, groups x k)
        Mean row, and sum of squares.
    lag, pairs : float64 (parts, lags, groups x k), (parts, lags)
        Sums of products of rows so many apart, and their numbers.
    """

    groups: tuple[str, ...]
    k: int
    exact: tuple[bool, ...]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    starts: NDArray[np.int64]
    size: int
    every: int
    rows: Float64
    means: Float64
    energy: Float64
    lag: Float64
    pairs: Float64

    def of(self, group: str | None) -> Stretches:
        """Return those of one group, or of all for None.

        Raises
        ------
        ValueError
            No such group.
        """
        if group is None:
            return self
        if group not in self.groups:
            raise ValueError(f"expected one of the groups {', '.join(self.groups)}, got {group!r}")
        g = self.groups.index(group)
        means, energy, lag = (
            x.reshape(*x.shape[:-1], len(self.groups), self.k)[..., g, :] for x in (self.means, self.energy, self.lag)
        )
        return dataclasses.replace(
            self, groups=(group,), exact=self.exact[g : g + 1], means=means, energy=energy, lag=lag
        )


def stretches(run: Run, rows: int | None = None, lags: int = 0, scheduler: object = None) -> Stretches:
    """Read the sketch of a run once; ``rows`` of a stretch as of ``direction_map``.

    Raises
    ------
    TooFewStepsError
        Fewer than two stretches.
    ValueError
        Stretches of fewer than 4 rows, a sketch of fewer than 4 coordinates, or a view whose steps go back.
    """
    size = _size(run, rows)
    if error := unfit(run, rows):
        raise error
    starts = np.arange(run.n_steps // size) * size
    inner = (starts[:, None] + np.arange(PARTS) * size // PARTS).ravel()
    cuts = np.unique([*inner, starts[-1] + size, run.n_steps]).tolist()
    recipe = recipe_of(run, lags)
    source = in_range(run, by_pane(run, cuts))[0].rows  # directions are the same in all units
    panes = contributions(schedule.compute(source, run.contiguous_ranges, cuts, recipe, scheduler))[: len(inner)]
    total, energy, lag, pairs, number = (
        np.stack([np.asarray(pane[name], np.float64) for pane in panes])
        for name in ("total", "energy", "lag", "lag_pairs", "rows")
    )
    with np.errstate(invalid="ignore"):
        means = total / number[:, None]
    return Stretches(
        run.groups, run.k, tuple(exact_groups(run.whole_header)), run.steps[starts], run.steps[starts + size - 1],
        run.steps[inner], size, run.header.every, number, means, energy, lag, pairs,
    )  # fmt: skip


def recipe_of(run: Run, lags: int) -> Recipe:
    """Say what the pass collects of each part."""
    return Recipe(run.n_groups, run.k, lags=lags, gram="none")


def unfit(run: Run, rows: int | None = None) -> ValueError | TooFewStepsError | None:
    """Return the error that says why a run has no stretches; None if it has them."""
    size = _size(run, rows)
    if size < 4 or run.k < 4:
        wanted = "stretches of 4 rows and a sketch of 4 coordinates or more"
        return ValueError(f"{run.where}: expected {wanted}, got {size} and {run.k}")
    if len(rewinds(run.steps)):
        wanted = "steps in order, got a view that goes back; open it with view='latest'"
        return ValueError(f"{run.where}: expected {wanted}")
    if run.n_steps < 2 * size:
        return TooFewStepsError(f"{run.where}: {run.n_steps} steps, at least {2 * size} needed for two stretches")
    return None


def _size(run: Run, rows: int | None) -> int:
    return rows or max(FEWEST_ROWS, run.n_steps // MOST)
