"""What one pass keeps of a stretch of rows, and how two neighbouring stretches become one.

Summaries form a monoid in step order: ``identity``, ``gap`` and the summaries of blocks of rows generate it, and
``merge`` is associative. A gap says that the next row has no history (the run's start, missing steps, a
non-finite row). Windows, prefixes and the whole run are merges of the same blocks, whatever their sizes.

Arrays are per column, n = groups x k, float64; rows of the recipe's test matrix and Grams apart.

An EMA is carried by its error r_t = g_t - m_t, which obeys r_t = h_t + beta r_{t-1} with increments h: no
difference of large numbers appears when the gradient is predictable. Of a block whose first error rho is not known
yet, the sum of squared errors is p0 + 2 v rho + c rho^2 and the last error is r + d rho.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming.epoch_sums import EpochSums
from gradlog.analysis.streaming.recipe import Recipe

if TYPE_CHECKING:
    from gradlog.analysis.streaming.grams import Grams

Sections = tuple[tuple[int, "Summary"], ...]


class Summary:
    """Summary of a stretch of rows under a recipe.

    Attributes
    ----------
    sums : dict of float64 arrays
        Additive sums; see ``Recipe.zeros``. The large ones of a single block may be float32.
    head, tail : float32 (<= history, n)
        First rows up to the first gap; last rows since the last gap.
    cut : bool
        Whether a gap lies inside or at an end.
    v, c, r, d : float64 (B, n), (B, 1), (B, n), (B, 1)
        Open ends of the EMAs, see the module.
    path : float32 (rows,)
        Squared errors of the predictor ``last`` by row, over all columns: the increment's squared norm, or the row's
        own after a gap; without the first row while what stands before it is not known. Empty without columns.
    epochs : EpochSums
        Sums by epoch, where the recipe asks for them.
    kernels : frozenset of str
        What added up the columns.
    sections : tuple of (int, Summary)
        Number and small sums by group of every section of rows, as far as they lie in this stretch.
    """

    def __init__(self, recipe: Recipe, within: Summary | None = None) -> None:
        """Begin with no rows; ``within`` is the summary that will absorb this one: they share the large sums."""
        B, n = len(recipe.betas), recipe.n
        self.recipe = recipe
        self.sums: dict[str, Float64] = recipe.zeros(within.sums if within else None)
        self.head = self.tail = np.empty((0, n), np.float32)
        self.cut = False
        self.v, self.r = np.zeros((B, n)), np.zeros((B, n))
        self.c, self.d = np.zeros((B, 1)), np.zeros((B, 1))
        self.path = np.empty(0, np.float32)
        self.epochs = EpochSums.none(n if recipe.epoch else 0)
        self.kernels: frozenset[str] = frozenset()
        self.sections: Sections = ()

    @classmethod
    def gap(cls, recipe: Recipe) -> Summary:
        """Return the element after which a row has no history."""
        summary = cls(recipe)
        summary.cut = True
        return summary

    @property
    def is_identity(self) -> bool:
        """Whether merging changes nothing."""
        return not self.cut and len(self.head) == 0

    @property
    def nbytes(self) -> int:
        """Memory held."""
        arrays: list[NDArray[np.floating]] = [*self.sums.values(), self.head, self.tail, self.v, self.c, self.r, self.d]
        own = sum(a.nbytes for a in [*arrays, self.path, self.epochs.squares, self.epochs.sums])
        return own + sum(section.nbytes for _, section in self.sections)

    def state(self) -> Summary:
        """Return the history this stretch leaves behind, with sums of zero."""
        left = Summary.gap(self.recipe)
        left.tail, left.r = self.tail, self.r
        return left

    def absorb(self, right: Summary, grams: Grams | None = None) -> Summary:
        """Merge the stretch that follows into this one, in place, and return it.

        What the increment between both adds to the large sums goes to ``grams``, where they are given.
        """
        if right.is_identity:
            return self
        if self.is_identity:
            own = self.sums
            self.__dict__.update(right.__dict__)
            if right.sums["rows"]:
                own = {name: x if x is own[name] else x.copy() for name, x in right.sums.items()}
            self.sums = own
            return self
        self.sections = joined(self.sections, right.sections)
        for name, value in right.sums.items():
            if value is not self.sums[name]:
                self.sums[name] = self.sums[name].astype(np.float64, copy=False)
                self.sums[name] += value
        squares = []  # of the row whose history was not known
        if len(right.head) == 0:
            self._end(self.tail)
            self.d = np.zeros_like(self.d)
        elif len(self.tail):
            squares.append(self._join(right, grams))
        else:
            squares.append(self._start(right))
        if self.recipe.columns and not self.recipe.by_group:
            self.path = np.concatenate([self.path, np.array(squares, np.float32), right.path])
        self.epochs = self.epochs.merge(right.epochs)
        self.kernels |= right.kernels
        self._ends(right)
        return self

    def copy(self) -> Summary:
        """Return an independent copy."""
        twin = Summary.__new__(Summary)
        twin.__dict__.update(self.__dict__)
        twin.sums = {name: value.copy() for name, value in self.sums.items()}
        return twin

    def _join(self, right: Summary, grams: Grams | None) -> float:
        """Add all terms that need rows of both sides; return the squared norm of the increment between them."""
        s, recipe = self.sums, self.recipe
        a, near = len(self.tail), right.head.astype(np.float64)
        rows = np.concatenate([self.tail.astype(np.float64), near])
        h = near[0] - rows[a - 1]
        s["pairs"] += 1
        s["last"] += recipe.fold(h * h)
        s["increment"] += recipe.fold(h * h)
        for t in (a, a + 1):
            if t < len(rows) and t >= 2:
                s["trend"] += recipe.fold(np.square(rows[t] - 2 * rows[t - 1] + rows[t - 2]))
        if a == 1 and self.cut:  # the chain's second row
            s["trend"] += recipe.fold(h * h)
        if grams:
            grams.add_increment(h)
        else:
            self._add_outer(h)
        for lag in range(1, recipe.lags + 1):
            first, last = max(a, lag), min(a + lag, len(rows))
            if first < last:
                products = np.einsum("tn,tn->n", rows[first:last], rows[first - lag : last - lag])
                s["lag"][lag - 1] += recipe.fold(products)
                s["lag_pairs"][lag - 1] += last - first
        e, delta = h + recipe.beta * self.r, recipe.beta * self.d
        s["p0"] += recipe.fold(2 * right.v * e + right.c * e * e)
        if not self.cut:
            self.v = self.v + delta * (right.v + right.c * e)
            self.c = self.c + delta * delta * right.c
        self.r, self.d = right.r + right.d * e, right.d * delta
        if right.cut and len(right.head) < recipe.history:
            self._end(np.concatenate([self.tail, right.head])[-recipe.history :])
        return float(h @ h)

    def _start(self, right: Summary) -> float:
        """Add the first rows of a chain, whose history is zero; return the squared norm of the first."""
        s, g, fold = self.sums, right.head.astype(np.float64), self.recipe.fold
        s["last"] += fold(g[0] ** 2)
        s["trend"] += fold(g[0] ** 2)
        if len(g) > 1:
            s["trend"] += fold(np.square(g[1] - g[0]))
        s["p0"] += fold(2 * right.v * g[0] + right.c * g[0] ** 2)
        self.r, self.d = right.r + right.d * g[0], np.zeros_like(self.d)
        if right.cut and len(right.head) < self.recipe.history:
            self._end(right.head, known=True)
        return float(g[0] @ g[0])

    def _end(self, tail: Float32, known: bool = False) -> None:
        """Note the edge of a chain that ends with these rows, once they are known to be all that matter."""
        if len(tail) and (known or self.cut or len(tail) == self.recipe.history):
            self.sums["edge"] += self.recipe.fold(edge(tail, self.recipe.lags))

    def _ends(self, right: Summary) -> None:
        q = self.recipe.history
        if not self.cut and len(self.head) < q:
            self.head = np.concatenate([self.head, right.head])[:q]
        if right.cut:
            self.r, self.tail = right.r if len(right.head) == 0 else self.r, right.tail
        else:
            self.tail = np.concatenate([self.tail, right.tail])[-q:]
        self.cut = self.cut or right.cut

    def _add_outer(self, h: Float64) -> None:
        s, recipe = self.sums, self.recipe
        if "gram" in s:
            width = s["gram"].shape[-1]
            for own, gram in zip(h.reshape(-1, width), s["gram"].reshape(-1, width, width), strict=True):
                gram += np.multiply.outer(own, own)
        if recipe.pooled:
            pooled = h.reshape(recipe.groups, recipe.k).sum(axis=0)
            s["pooled"] += np.multiply.outer(pooled, pooled)
        if recipe.test is not None:
            s["image"] += np.multiply.outer(h, h @ recipe.test)


def merge(left: Summary, right: Summary) -> Summary:
    """Return the summary of ``left`` followed by ``right``; both stay as they are."""
    return left.copy().absorb(right)


def joined(left: Sections, right: Sections) -> Sections:
    """Sections of one stretch and the next: what both hold of the same one is merged; all stay as they are."""
    if left and right and left[-1][0] == right[0][0]:
        return (*left[:-1], (left[-1][0], merge(left[-1][1], right[0][1])), *right[1:])
    return left + right


def edge(tail: Float32 | Float64, lags: int) -> Float64:
    """Return sums of g_{s-i} g_{s-j} over the rows s past a chain's end, i, j = 1..lags, as (lags, lags, n).

    With M_ij = sum over the chain's rows t of g_{t-i} g_{t-j} and R_a = sum g_t g_{t-a}, zero history:
    M_ij = R_|i-j| - edge_ij, where edge_ij sums the last min(i, j) products of lag |i-j|.
    """
    rows = tail.astype(np.float64)
    out = np.zeros((lags, lags, rows.shape[1]))
    for lag in range(lags):
        products = rows[lag:] * rows[: max(len(rows) - lag, 0)]
        for i in range(1, lags - lag + 1):
            last = products[max(len(products) - i, 0) :].sum(axis=0)
            out[i - 1, i + lag - 1] = out[i + lag - 1, i - 1] = last
    return out
