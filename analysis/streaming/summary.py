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

import dataclasses
import itertools
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float32, Float64
from gradlog.analysis.streaming import top_rows
from gradlog.analysis.streaming.edges import edge, mirrored
from gradlog.analysis.streaming.epoch_sums import EpochSums

if TYPE_CHECKING:
    from gradlog.analysis.streaming.grams import Grams

TRIANGLES = ("gram", "pooled")
GRAMS = (*TRIANGLES, "image")
LARGE = (*GRAMS, "edge")
"""First words of the names of large sums; while they are added up, of Grams the upper triangle alone counts."""

S = 16
PAIRS = S * (S + 1) // 2
"""Increments of a segment, over which ``ema`` runs all at once, and the products of two of them."""

Sections = tuple[tuple[int, "Summary"], ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a pass collects.

    Attributes
    ----------
    groups, k : int
        Layout of the n = groups x k columns.
    betas : tuple of float
        EMAs, each in [0, 1).
    lags : int
        Lag products <g_t, g_{t-a}> for a = 1..lags.
    gram : {"full", "groups", "none"}
        Gram of the increments: n x n, or one k x k block a group.
    pooled : bool
        Also the k x k Gram of the SUM of the groups' sketches.
    scatter : bool
        Also the Gram of the rows themselves, in the same form, for the rank of shuffled steps.
    test : float32 array (n, l), or None
        Test matrix Omega: collect (H^T H) Omega, for spectra too wide for a Gram.
    columns : bool
        Whether to collect the per-column sums; a further pass for the spectrum alone does not need them.
    epoch : (int, int), or None
        Steps of an epoch, and the number of a step at which one begins: collect sums by epoch.
    kernel : {"numpy", "numba"}
        What shall add up the columns; where numba is missing, numpy does, and ``Summary.kernels`` says so.
    section : int
        Also the sums of every so many rows of the view, by group (see ``sections``); 0 for none.
    by_group : bool
        Keep the small sums by group instead of by column.
    """

    groups: int
    k: int
    betas: tuple[float, ...] = ()
    lags: int = 2
    gram: str = "full"
    pooled: bool = False
    scatter: bool = False
    test: Float32 | None = None
    columns: bool = True
    epoch: tuple[int, int] | None = None
    kernel: str = "numpy"
    section: int = 0
    by_group: bool = False

    @property
    def n(self) -> int:
        """Columns."""
        return self.groups * self.k

    def split(self) -> tuple[Recipe, Recipe]:
        """Return two that collect the same between them: one without Grams, small, and one with Grams alone."""
        light = dataclasses.replace(self, gram="none", pooled=False)
        return light, dataclasses.replace(self, betas=(), lags=0, test=None, columns=False, epoch=None, section=0)

    def fold(self, per_column: Float64, by_group: bool = False) -> Float64:
        """Return sums as the recipe keeps them: (..., n), or (..., groups)."""
        if not (by_group or self.by_group):
            return per_column
        return np.asarray(per_column.reshape(*per_column.shape[:-1], self.groups, self.k).sum(axis=-1))

    @property
    def history(self) -> int:
        """Rows kept at both ends of a summary."""
        return max(2, self.lags)

    @property
    def beta(self) -> Float64:
        """The betas as a column, to broadcast over columns of rows."""
        return np.asarray(self.betas, np.float64)[:, None]

    @cached_property
    def basis(self) -> tuple[Float64, Float64]:
        """Orthonormal (n, l) and triangular (l, l) factor of the test matrix."""
        assert self.test is not None
        Q, R = np.linalg.qr(self.test.astype(np.float64))
        return Q, R

    def zeros(self, shared: dict[str, Float64] | None = None) -> dict[str, Float64]:
        """Return sums of no rows; every entry adds up over rows. Large ones that are shared are the same arrays."""
        return {
            name: shared[name] if shared and name.startswith(LARGE) else np.zeros(shape)
            for name, shape in self.shapes().items()
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the sums."""
        n, p, k = self.groups if self.by_group else self.n, self.lags, self.k
        shapes: dict[str, tuple[int, ...]] = {
            "rows": (),  # finite rows
            "pairs": (),  # increments
            "energy": (n,),  # sum g^2
            "total": (n,),  # sum g
            "last": (n,),  # sum (g_t - g_{t-1})^2, first rows of chains with g_{t-1} = 0
            "trend": (n,),  # likewise for 2 g_{t-1} - g_{t-2}
            "increment": (n,),  # sum h^2, no first rows
            "lag": (p, n),  # sum g_t g_{t-a}
            "lag_pairs": (p,),  # their number
            "edge": (p, p, n),  # what the ends of chains take off the lag products, see moments
            "p0": (len(self.betas), n),  # EMA errors whose history is known
        }
        if self.section and self.betas:
            shapes["segments"] = (PAIRS, self.groups)  # products of segments, see ``ema``
        gram = {"full": (n, n), "groups": (self.groups, k, k)}.get(self.gram)
        if gram is not None:
            shapes["gram"] = gram
        if self.pooled:
            shapes["pooled"] = (k, k)
        if self.test is not None:
            shapes["image"] = (n, self.test.shape[1])
        if self.scatter:
            shapes |= {f"{name}_rows": shapes[name] for name in ("gram", "pooled", "image") if name in shapes}
        return shapes


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
    path : Carriers
        Squared errors of the predictor ``last`` by row, over all columns: the increment's squared norm, or the row's
        own after a gap; without the first row while what stands before it is not known.
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
        self.path = top_rows.NONE
        self.epochs = EpochSums.none(n if recipe.epoch else 0)
        self.kernels: frozenset[str] = frozenset()
        self.sections: tuple[tuple[int, Summary], ...] = ()

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
        arrays: list[NDArray[Any]] = [*self.sums.values(), self.head, self.tail, self.v, self.c, self.r, self.d]
        arrays += [self.epochs.squares, self.epochs.sums]
        own = sum(a.nbytes for a in arrays) + sum(np.asarray(a).nbytes for a in self.path)
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
        before = int(self.sums["rows"])
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
        if not self.recipe.by_group:
            self.path = self.path.merge(right.path, before, np.array(squares, np.float32))
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


Totals = dict[str, Any]


def contributions(panes: list[Summary]) -> list[Totals]:
    """Return what the rows of each pane add to every sum, given all history before them; starts after a gap.

    The entries of each pane are those of ``Recipe.zeros``, which add over panes, and ``path`` and ``epochs``,
    whose rows follow on: any window is a sum of its panes. The Grams are whole, and ``edge`` is what ``moments`` needs.
    The list is empty afterwards: totals take the place of summaries.
    """
    found = []
    state = Summary.gap(panes[0].recipe)
    panes.reverse()
    while panes:
        pane = panes.pop()
        before, lags = state.tail, pane.recipe.lags
        sums = {name: x.astype(np.float64, copy=False) for name, x in pane.sums.items()}
        pane.sums = sums | {"rows": sums["rows"].copy()}
        state.sums = sums | {"rows": np.zeros(())}  # the state's own are zero: add what joins it to the pane's
        state = state.absorb(pane)
        totals: Totals = dict(state.sums)
        totals["edge"] += pane.recipe.fold(edge(state.tail, lags) - edge(before, lags))
        for name in totals:
            if name.startswith(TRIANGLES):
                totals[name] = mirrored(totals[name])
        totals["path"], totals["epochs"] = state.path, state.epochs
        found.append(totals)
        state = state.state()
    return found


def add(parts: list[Totals]) -> Totals:
    """Totals of several panes together."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name in parts[0] if name not in ("path", "epochs")]
    joined = {name: sum((p[name] for p in parts[1:]), start=parts[0][name].copy()) for name in names}
    rows = itertools.accumulate((int(p["rows"]) for p in parts), initial=0)
    joined["path"] = top_rows.NONE
    joined["epochs"] = reduce(EpochSums.merge, (p["epochs"] for p in parts))
    for part, before in zip(parts, rows, strict=False):
        joined["path"] = joined["path"].merge(part["path"], before)
    return joined


def moments(totals: Totals, lags: int, columns: slice) -> Float64:
    """Return sums of g_{t-i} g_{t-j} over the rows, i, j = 0..lags, as (lags + 1, lags + 1, columns).

    Lag products, less the products at the edges of ended chains and those that belong to a neighbouring pane.
    """
    R = np.concatenate([totals["energy"][None, columns], totals["lag"][:lags, columns]])
    i = np.arange(lags + 1)
    M: Float64 = R[np.abs(i[:, None] - i)]
    M[1:, 1:] -= totals["edge"][:lags, :lags, columns]
    return M
