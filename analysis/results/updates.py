"""Reads stretches of gradients and updates of a run, to compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.jackknife import ENDS, pool
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.exact_groups import exact_groups
from gradlog.analysis.measures.spec import Values
from gradlog.analysis.measures.updates import GradientAndUpdate, Products, compare
from gradlog.analysis.reading.rows import RowSource
from gradlog.analysis.reading.run import Run
from gradlog.analysis.reading.store.segment import snapshots
from gradlog.errors import TooFewStepsError
from gradlog.format.header import SKIPPED
from gradlog.format.names import HALF_NORM2, UPDATE_NORM, WEIGHT_NORM

STRETCHES, SHORTEST, LONGEST = 48, 8, 64
"""Stretches, by default, and steps of the shortest and the longest one."""

FAR = 4096
"""Steps after a snapshot up to which updates are added to it, for the weights as they are then."""

BLOCKS = 16
"""Blocks of steps whose spread shows the noise of the steps, at most."""


def gradient_and_update(run: Run, rows: int | None = None) -> GradientAndUpdate:
    """Compare the gradients of a run with its updates, whole and by group, over stretches of steps.

    Parameters
    ----------
    run : Run
        Recorded with ``what=("gradient", "update")``.
    rows : int, optional
        Steps of a stretch, side by side; 1 for every step alone. By default at most 48 stretches of 8 to 64 steps are
        read, spread over the run.

    Returns
    -------
    GradientAndUpdate

    Raises
    ------
    TooFewStepsError
        The run has no updates beside its gradients, or is shorter than a stretch.
    ValueError
        ``rows`` is less than 1.

    Notes
    -----
    All are ratios of sums over the steps of a stretch. Their intervals are the sketch's, by a delete-one jackknife over
    its coordinates. Those of the curvatures hold the noise of the steps too, from 8 steps on. Exact norms of the
    gradients cannot narrow these ratios: the update's norm is known from its sketch alone.

    ``curvature`` is exact on full batches and otherwise too large in the mean, by the share of minibatch noise over the
    learning rate for SGD. ``corrected`` is free of that where half batches were logged and ``edge`` is known.
    ``shared`` is free of it for every optimizer, if batches are independent; in epochs of fewer than 16 batches it is
    too small. It is the curvature between successive steps, and known where their cosine is 0.2 or more.

    Examples
    --------
    >>> found = gradient_and_update(open_run("run.zarr"))              # doctest: +SKIP
    >>> found.curvature.value[-1, 0] / found.edge.value[-1, 0]         # doctest: +SKIP
    0.98
    """
    return compare(products(run, rows), run.groups)


def quantities(run: Run, first: int) -> list[Values]:
    """Measure the whole run from row ``first`` on, and each group; nothing where updates are missing or too few."""
    if not _pairs(run) or run.n_steps - first < SHORTEST:
        return []
    found = compare(products(run, first=first).together, run.groups)
    estimates = {f"update_{f.name}": getattr(found, f.name) for f in dataclasses.fields(found)[3:]}
    return [
        {n + end: x[0, i] for n, e in estimates.items() for end, x in zip(ENDS, (e.value, e.low, e.high), strict=True)}
        for i in range(len(found.scopes))
    ]


def _pairs(run: Run) -> bool:
    """Whether the run has updates beside gradients."""
    return run.header.what != "update" and run.updates is not None


def products(run: Run, rows: int | None = None, first: int = 0) -> Products:
    """Read stretches of a run and add up.

    Parameters
    ----------
    run : Run
        With an update beside each gradient.
    rows : int, optional
        Steps of a stretch, side by side. By default at most 48 stretches of 8 to 64 steps, spread over the run.
    first : int
        Row at which the first stretch begins.

    Raises
    ------
    TooFewStepsError
        There are no updates, or fewer steps than one stretch has.
    ValueError
        ``rows`` is less than 1.
    """
    updates = run.updates
    if updates is None or not _pairs(run):
        said = 'attach or open with what=("gradient", "update")'
        raise TooFewStepsError(f"{run.where}: expected an update beside each gradient; {said}")
    if rows is not None and rows < 1:
        raise ValueError(f"expected stretches of 1 step or more, got {rows}")
    steps = run.n_steps - first
    size = rows or min(max(SHORTEST, -(-steps // STRETCHES)), LONGEST)
    if steps < size:
        raise TooFewStepsError(f"{run.where}: {steps} steps, at least {size} needed for one stretch")
    count = steps // size if rows else min(STRETCHES, steps // size)
    starts = first + (np.arange(count) * size if rows else np.linspace(0, steps - size, count).round().astype(int))
    exact, noise = exact_groups(run.whole_header), _half_norms(run)
    sums: dict[str, list[Float64]] = {}
    blocks: dict[str, list[Float64]] = {}
    counted, norms, exactly = [], [], _norms(run)
    for start, place in zip(starts.tolist(), _weights(run, updates, starts), strict=True):
        stretch = _Stretch(run, updates, start, start + size)
        counted.append(int(stretch.valid.sum()))
        for name, total in (stretch.sums() | {"tt": np.square(place)}).items():
            scopes = [pool(total.reshape(-1), run.k, exact), *total]
            sums.setdefault(name, []).append(np.stack(scopes))
        squares = stretch.squares(exactly)
        norms.append(np.column_stack([squares.sum(axis=1), squares]))
        for name, parts in stretch.blocks(noise).items():
            blocks.setdefault(name, []).append(np.column_stack([parts.sum(axis=1), parts]))
    return Products(
        run.steps[starts],
        run.steps[starts + size - 1],
        {name: np.stack(found) for name, found in sums.items()},
        blocks,
        np.array(counted),
        np.array([all(exact), *exact]),
        np.stack(norms, axis=1),
    )


class _Stretch:
    """Rows [start, stop) of a view with their neighbours; what is not finite or was skipped does not count."""

    def __init__(self, run: Run, updates: RowSource, start: int, stop: int) -> None:
        low, high = max(start - 1, 0), min(stop + 1, run.n_steps)
        shape = (high - low, run.n_groups, run.k)
        g, u = (source.read(low, high).reshape(shape).astype(np.float64) for source in (run.rows, updates))
        good = run.finite[low:high] & ((run.flags[low:high] & SKIPPED) == 0)
        moved = good & np.isfinite(u).all(axis=(1, 2))
        follows = np.diff(run.steps[low:high]) == (1 if run.header.every == 1 else 0)  # else updates are missing
        inside = slice(start - low, start - low + stop - start)
        self.start, self.valid = start, moved[inside]
        before, after = (np.zeros(high - low, bool) for _ in "pd")
        before[1:], after[:-1] = moved[1:] & moved[:-1] & follows, moved[:-1] & good[1:] & follows
        p, d = np.zeros_like(u), np.zeros_like(g)
        p[1:], d[:-1] = u[:-1], np.diff(g, axis=0)
        self._masks = {"": self.valid, "_p": before[inside], "_d": after[inside], "_pd": (before & after)[inside]}
        self._values = {"g": g[inside], "u": u[inside], "p": p[inside], "d": d[inside]}

    def sums(self) -> dict[str, Float64]:
        """Add up over the rows, (groups, k) each."""
        over = {"": ("gg", "gu", "uu"), "_p": ("gg", "gu", "uu", "gp", "pp", "up"), "_d": ("du", "uu"),
                "_pd": ("dp", "up", "uu", "pp")}  # fmt: skip
        return {
            name + ending: np.einsum("tgk,tgk->gk", *(self._values[x][mask] for x in name))
            for ending, mask in self._masks.items()
            for name in over[ending]
        }

    def blocks(self, noise: Float64) -> dict[str, Float64]:
        """Add up over coordinates and blocks of rows, (blocks, groups) each."""
        found = {}
        for name, ending in (("du", "_d"), ("uu", "_d"), ("dp", "_pd"), ("up", "_pd")):
            rows = np.einsum("tgk,tgk->tg", *(self._values[x][self._masks[ending]] for x in name))
            found[name + ending] = _added(rows)
        found["hh_d"] = _added(noise[self.start : self.start + len(self.valid)][self._masks["_d"]])
        return found

    def squares(self, norms: Float64) -> Float64:
        """Mean squared norms of update and weights by group, (2, groups), over the steps that logged both."""
        rows = norms[:, self.start : self.start + len(self.valid)][:, self.valid]
        rows = np.square(rows[:, np.isfinite(rows).all(axis=(0, 2))])
        return rows.mean(axis=1) if rows.shape[1] else np.full(rows.shape[::2], np.nan)


def _added(rows: Float64) -> Float64:
    """Add up blocks of rows, (blocks, groups)."""
    edges = np.linspace(0, len(rows), min(BLOCKS, max(len(rows), 1)) + 1).astype(int)[:-1]
    return np.add.reduceat(rows, edges, axis=0) if len(rows) else np.zeros((1, rows.shape[1]))


def _half_norms(run: Run) -> Float64:
    """Squared norms of the minibatch noise in each row by group, NaN where no half batch was logged."""
    return _logged(run, [HALF_NORM2.format(g) for g in range(run.n_groups)] if run.halves else [])


def _norms(run: Run) -> Float64:
    """Exact norms of update and weights, (2, rows, groups), NaN where none was logged."""
    kinds = [[kind + group for group in run.groups] for kind in (UPDATE_NORM, WEIGHT_NORM)]
    return np.stack([_logged(run, names if {*names} <= {*run.scalar_names} else []) for names in kinds])


def _logged(run: Run, names: list[str]) -> Float64:
    """Scalars of each row, (rows, groups); NaN without names."""
    if not names:
        return np.full((run.n_steps, run.n_groups), np.nan)
    return np.concatenate([np.stack([b.scalars[n] for n in names], axis=1) for b in run.columns(names, norms=False)])


def _weights(run: Run, updates: RowSource, starts: NDArray[np.int64]) -> Iterator[Float64]:
    """Sketch of the weights before each of these rows, from the last snapshot on; NaN where none is near."""
    known, unknown = snapshots(run.segments), np.full((run.n_groups, run.k), np.nan)
    _, rows, _ = np.intersect1d(run.steps, list(known), return_indices=True)
    place, at = unknown, 0
    for start in starts.tolist():
        newest = int(np.searchsorted(rows, start, "right")) - 1
        if newest >= 0 and rows[newest] >= at:
            at = int(rows[newest])
            place = known[int(run.steps[at])].astype(np.float64)
        whole = run.header.every == 1 and run.steps[start] - run.steps[at] == start - at <= FAR
        if np.isfinite(place).all() and whole:
            place = place + updates.read(at, start).sum(axis=0, dtype=np.float64).reshape(place.shape)
        else:
            place = unknown
        at = start
        yield place
