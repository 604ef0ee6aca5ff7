"""Exact Gram of the rows, H H^T: the cheapest route where few rows have many columns. It holds all rows in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.blas_threads import single_threaded
from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.rows import RowSource, increment_rows
from gradlog.analysis.spectrum import rank, shuffled_rank
from gradlog.analysis.spectrum.rank import Spectrum
from gradlog.analysis.spectrum.routes.base import Route, Sums

ROWS, BYTES = 1024, 192 * 2**20
"""Rows, and bytes of all in float64, up to which it is the cheapest."""

TOGETHER = 1024
"""Columns of a float32 product."""


class RowGram(Route):
    """See the module. Grams of single groups come from the pass."""

    method = "rows"
    asked = "exact Gram of the rows, as asked"
    further = 1

    _finite: NDArray[np.bool_]
    _rows: Float64
    _increments: Float64
    _at: NDArray[np.int64]
    """View row of each increment."""

    @staticmethod
    def suits(rows: int, columns: int) -> str:
        """See Route."""
        few = rows <= ROWS and 8 * rows * columns <= BYTES
        return f"{rows} rows of {columns} columns: the exact Gram of the rows is cheapest" if few else ""

    def memory(self, rows: int, columns: int) -> int:
        """See Route."""
        return 8 * rows * (columns + 4 * rows)

    def read(self, source: RowSource, chains: NDArray[np.int64]) -> None:
        """See Route."""
        if source.history:
            raise ValueError("svd='rows' does without the rows before a sample's stretches: ask for another route")
        self._finite = np.zeros(len(source), bool)
        for start, stop in chains:
            self._finite[start:stop] = True
        self._at = increment_rows(chains)
        G = source.read(0, len(source))
        G[~self._finite] = 0
        self._rows, self._increments = np.zeros((len(G), len(G))), np.zeros((len(self._at), len(self._at)))
        with single_threaded():
            for low in range(0, source.n, TOGETHER):
                X = np.ascontiguousarray(G[:, low : low + TOGETHER])
                H = X[self._at] - X[self._at - 1]
                self._rows += X @ X.T
                self._increments += H @ H.T

    def spectrum(self, sums: Sums) -> Spectrum | None:
        """See Route."""
        if sums.group is not None:
            return super().spectrum(sums)
        keep = np.flatnonzero((self._at >= sums.start) & (self._at < sums.stop))
        gram = self._increments[np.ix_(keep, keep)]
        return rank.of_products(gram, sums.increment_energy, min(len(keep), sums.recipe.n))

    def scatter(self, sums: Sums) -> Spectrum | None:
        """See Route. From G G^T: doubly centred it has the eigenvalues of the scatter."""
        if sums.group is not None:
            return super().scatter(sums)
        keep = sums.start + np.flatnonzero(self._finite[sums.start : sums.stop])
        gram = self._rows[np.ix_(keep, keep)]
        centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
        energy, size = float(np.trace(gram)), min(len(gram) - 1, sums.recipe.n)
        return shuffled_rank.resolved(rank.of_products(2 * centred, 2 * float(np.trace(centred)), size), energy)
