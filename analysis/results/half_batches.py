"""Where two independent gradients at one theta come from: logged halves of the batch, or ranks that log their own.

A logged half is a column of ``half_norm2:G`` scalars, one for each group: the exact squared norm of half the
difference of both halves' gradients. With ``stage="local"`` each rank's row is the gradient of its own part of the
batch, and the view's row is their sum s of W ranks: W / (W - 1) (sum ||g_i||^2 - ||s||^2 / W) takes the place of that
squared norm, from the sketches.

In epochs of m batches drawn without replacement the halves have no sample in common: <g_a, g_b> is in the mean the
squared gradient of the distribution that the data are a sample of. For that of the data, and for the noise of
a batch about it, 1 - 1 / m of the squared norm counts: exactly, while the parameters hardly move in an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.gradient_noise import BLOCKS, HalfBatches
from gradlog.analysis.reading.run import Run
from gradlog.format.names import HALF_NORM2

SHORT = 100
"""Steps of an epoch up to which what is left of it is told from all data."""

Rows = tuple[int, NDArray[np.bool_], Float64, Float64]
"""First view row, which rows count, and of each row and group ||g||^2 and the squared norm of half the difference."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Sums over the rows between consecutive edges: ``rows`` (panes,), ``energy`` and ``noise`` (panes, group).

    ``source`` says where they come from; ``parts`` is how many batches of the logged size are behind a row.
    """

    source: str
    edges: NDArray[np.int64]
    rows: Float64
    energy: Float64
    noise: Float64
    sketched: int = 0
    parts: int = 1

    def blocks(self, start: int, stop: int, group: int | None) -> HalfBatches | None:
        """Blocks of view rows [start, stop), one of the ranges the table was made for; None if no row counts."""
        at = np.searchsorted(self.edges, _edges(start, stop))
        columns = slice(None) if group is None else slice(group, group + 1)
        sums = [np.append(np.zeros((1, x.shape[1])), np.cumsum(x, axis=0), axis=0) for x in self._by_group(columns)]
        rows, energy, noise = (np.diff(x[at].sum(axis=1)) for x in sums)
        return HalfBatches(rows, energy, noise, self.sketched) if rows.sum() else None

    def _by_group(self, columns: slice) -> tuple[Float64, Float64, Float64]:
        return self.rows[:, None], self.energy[:, columns], self.noise[:, columns]


def table(run: Run, ranges: Iterable[tuple[int, int]], steps_per_epoch: int = 0) -> Table | None:
    """Add up for these ranges of view rows; None where no row has two gradients at one theta."""
    if run.halves:
        source, rows, sketched, parts = "half batches", _logged(run), 0 if run.has_exact_norms else run.k, 1
    elif run.header.stage == "local" and run.info["ranks"] > 1:
        exact = run.header.sketch.exact
        source, rows, sketched, parts = "ranks", _ranks(run), 0 if exact else run.k, run.info["ranks"]
    else:
        return None
    edges = np.unique(np.concatenate([_edges(*r) for r in ranges]))
    panes = len(edges) - 1
    count, energy, noise = np.zeros(panes), np.zeros((panes, run.n_groups)), np.zeros((panes, run.n_groups))
    for start, good, square, half in rows:
        at = np.searchsorted(edges, start + np.flatnonzero(good), "right") - 1
        inside = (at >= 0) & (at < panes)
        at = at[inside]
        np.add.at(count, at, 1)
        np.add.at(energy, at, square[good][inside])
        np.add.at(noise, at, half[good][inside])
    noise *= 1 - 1 / steps_per_epoch if steps_per_epoch else 1.0
    return Table(source, edges, count, energy, noise, sketched, parts)


def caution(found: Table | None, steps_per_epoch: int) -> list[str]:
    """Say that steps in epochs react to the samples they have used, so that those left pull harder."""
    if found is None or not 1 < steps_per_epoch <= SHORT:
        return []
    return [
        f"signal: in epochs of {steps_per_epoch} steps it includes the pull of what is left of an epoch, "
        "which at large learning rates is more than the gradient of all data"
    ]


def _edges(start: int, stop: int) -> NDArray[np.int64]:
    return np.linspace(start, stop, BLOCKS + 1).round().astype(np.int64)


def _logged(run: Run) -> Iterator[Rows]:
    names = [HALF_NORM2.format(g) for g in range(run.n_groups)]
    for block in run.columns(names):
        noise = np.stack([block.scalars[name] for name in names], axis=1)
        yield block.start, block.finite & np.isfinite(noise).all(axis=1), block.norms, noise


def _ranks(run: Run) -> Iterator[Rows]:
    for block in run.columns():
        own, ranks = run.rows.rank_norms(block.start, block.start + len(block.norms))
        W = np.maximum(ranks, 2)[:, None]
        yield block.start, block.finite & (ranks > 1), block.norms, W / (W - 1) * (own - block.norms / W)
