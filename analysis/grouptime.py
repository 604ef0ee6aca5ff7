"""Where and when the prediction error arises: path length by parameter group and window of steps."""

from __future__ import annotations

import dataclasses
import itertools
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis import blocks
from gradlog.analysis.cache import Cache, resolve
from gradlog.analysis.intervals import jackknife
from gradlog.analysis.memo import Memo
from gradlog.analysis.predictors import Evidence, Predictor, needs, parse
from gradlog.analysis.reader import Run
from gradlog.analysis.summary import Float64, Recipe, Totals, contributions

if TYPE_CHECKING:
    from gradlog.analysis.cluster import Progress


@dataclasses.dataclass(frozen=True)
class GroupTime:
    """Path length of one predictor by window and group.

    Attributes
    ----------
    predictor : str
    first, last : int64 (windows,)
        Steps at the ends of each window.
    groups : tuple of str
    share, low, high : float64 (windows, groups)
        Share of a group in the window's path length, with its 95 % interval for the sketch's error; rows of ``share``
        sum to 1. NaN where a window has no path length.
    path : float64 (windows, groups)
        The path lengths, from the sketch.
    """

    predictor: str
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    groups: tuple[str, ...]
    share: Float64
    low: Float64
    high: Float64
    path: Float64


def group_time(
    run: Run,
    predictor: str | Predictor,
    window: int,
    burn_in: int = 0,
    scheduler: Any = None,
    progress: Progress | None = None,
    cache: Cache | bool | str | os.PathLike[str] | None = None,
) -> GroupTime:
    """Share out the path length between groups and windows, in one pass that keeps no spectrum.

    Parameters
    ----------
    run : Run
    predictor : str or Predictor
    window : int
        Rows of a window; the rows that are left over at the end join the last one.
    burn_in : int
        Rows left out at the start; they still serve as history.
    scheduler, progress, cache
        As of ``analyze``.

    Raises
    ------
    ValueError
        Not even one window fits.

    Examples
    --------
    >>> shares = group_time(open_run("run.zarr"), "last", 100)       # doctest: +SKIP
    >>> shares.share.sum(axis=1)                                     # doctest: +SKIP
    array([1., 1., 1.])
    """
    count = (run.length - burn_in) // window
    if count < 1:
        raise ValueError(f"no window of {window} rows in {run.length} rows after burn_in={burn_in}")
    (asked,) = parse([predictor])
    edges = [burn_in + window * i for i in range(count)] + [run.length]
    cuts = sorted({0, *edges})
    recipe = Recipe(run.groups, run.k, gram="none", **needs([asked]))
    folder = resolve(cache)
    memo = Memo(folder, run) if folder else None
    panes = contributions(blocks.compute(run.rows, run.chains, cuts, recipe, scheduler, progress, memo))
    kept = panes[len(cuts) - len(edges) :]
    cells = np.array([_shares(pane, recipe, asked, run.header.sketch.exact) for pane in kept])
    ends = np.array(list(itertools.pairwise(edges)))
    return GroupTime(
        asked.name,
        run.numbers.at(ends[:, 0]),
        run.numbers.at(ends[:, 1] - 1),
        run.header.groups,
        *(cells[:, :, i] for i in range(4)),
    )


def _shares(pane: Totals, recipe: Recipe, predictor: Predictor, exact: bool) -> Float64:
    """Return (groups, 4): share, low, high, path length. An exact sketch has no error."""
    path = predictor.fit(Evidence(pane, recipe.betas)).path.reshape(recipe.groups, recipe.k)
    whole = path.sum(axis=0)
    cells = np.array([jackknife(np.divide, own, whole, exact=exact) for own in path])
    return np.column_stack([cells[:, 0], np.clip(cells[:, 1:], 0, 1), path.sum(axis=1)])
