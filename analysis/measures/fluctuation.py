"""How far the ratios of a run would move with other minibatches along its path: from the blocks of its own steps.

A ratio K = sum N / sum D of sums over steps has in block b of B the remainder r_b = N_b - K D_b. Their successive
differences estimate its variance (von Neumann 1941; Allan 1966), ::

    SE^2 = B / (2 (B - 1)) sum_b (r_{b+1} - r_b)^2 / (sum D)^2

and do not count a slow trend of the energy as noise, which the spread of the remainders would. The half-width is the
wider of two, from blocks of one length and of twice that, each at Student's quantile with (B - 1) / 1.5 degrees of
freedom. It is about this trajectory: other seeds may differ by more. ``benchmarks/fluctuation_coverage.py`` counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gradlog.analysis.common.jackknife import LEVEL
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors import Evidence, Fitted, Predictor
from gradlog.analysis.streaming.recipe import SUMS
from gradlog.analysis.streaming.sections import FEWEST_ROWS
from gradlog.analysis.streaming.totals import Totals

LARGEST = 0.3
"""Share of the energy from which on one block decides."""

REASONS = {
    0: "",
    1: f"fewer than {FEWEST_ROWS} steps",
    2: f"one block of steps holds over {100 * LARGEST:.0f} % of the energy",
    3: "the predictor remembers more steps than a block has",
    4: "no energy",
}
"""Why the fluctuation is withheld, by the number in ``kappa_run_withheld``; 0 where it is not."""


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Sums of equal stretches of steps: as the totals of a pass, whose columns are the blocks of each group in turn.

    Attributes
    ----------
    totals : dict
    betas : tuple of float
    count, length : int
        Blocks, and rows in each.
    """

    totals: Totals
    betas: tuple[float, ...]
    count: int
    length: int

    @classmethod
    def of(cls, parts: Sequence[Totals], betas: tuple[float, ...], length: int) -> Blocks:
        """Blocks of the sums by group of each."""
        totals: Totals = {}
        for name in parts[0].keys() & SUMS.keys():
            joined = np.stack([p[name] for p in parts], axis=-1)
            if SUMS[name].count:
                totals[name] = joined.sum(axis=-1)
            else:  # not -1: there may be no lags or betas
                totals[name] = joined.reshape(*joined.shape[:-2], joined.shape[-2] * joined.shape[-1])
        return cls(totals, betas, len(parts), length)

    def evidence(self, group: int | None = None) -> Evidence:
        """Evidence of one group's blocks, or of all."""
        columns = slice(None) if group is None else slice(group * self.count, (group + 1) * self.count)
        return Evidence(self.totals, self.betas, columns)

    def pool(self, per_column: Float64) -> Float64:
        """Sum over groups: (..., groups x blocks) -> (..., blocks)."""
        return np.asarray(per_column.reshape(*per_column.shape[:-1], -1, self.count).sum(axis=-2))


def half_width(numerator: Float64, denominator: Float64) -> Float64:
    """Half-width of the 95 % interval of a ratio of sums, from blocks of one length on the last axis.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(400)
    >>> round(float(half_width(40 + noise, np.full(400, 40.0))), 4)   # about 2 / sqrt(400) / 40
    0.0025
    """
    count = numerator.shape[-1]
    if count < 3:
        return np.full(numerator.shape[:-1], np.nan)
    total = denominator.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = numerator - (numerator.sum(axis=-1) / total)[..., None] * denominator
        squares = np.square(np.diff(rest, axis=-1)).sum(axis=-1)
        error = np.sqrt(count / (2 * (count - 1)) * squares) / total
    from scipy import special  # the command's help does without

    return np.asarray(special.stdtrit((count - 1) / 1.5, 0.5 + LEVEL / 2) * error)


def doubled(per_block: Float64) -> Float64:
    """Blocks of twice the length; an odd last one joins those before it."""
    return np.asarray(np.add.reduceat(per_block, np.arange(0, max(per_block.shape[-1] - 1, 1), 2), axis=-1))


def wider(numerator: Float64, denominator: Float64, length: int, memory: float = 0) -> float:
    """Half-width from blocks and from doubled ones, of those that are longer than the memory; NaN where none are."""
    pairs = ((numerator, denominator, length), (doubled(numerator), doubled(denominator), 2 * length))
    return max((float(half_width(n, d)) for n, d, rows in pairs if rows > memory), default=float("nan"))


def memory(fitted: Fitted) -> float:
    """Past rows that a prediction is made of, about."""
    return float(len(fitted.weights) if fitted.beta is None else 1 / (1 - np.asarray(fitted.beta)))


@dataclasses.dataclass(frozen=True)
class Ratios:
    """What the fluctuation of a scope's ratios comes from.

    Attributes
    ----------
    paths : float64 (predictor, blocks)
    energy : float64 (blocks,)
    memory : float64 (predictor,)
    products : float64 (lag, blocks)
        Sums of products of rows so many apart, each lag scaled to all rows.
    length : int
    """

    paths: Float64
    energy: Float64
    memory: Float64
    products: Float64
    length: int

    @classmethod
    def of(cls, blocks: Blocks, predictors: Sequence[Predictor], lags: int, group: int | None = None) -> Ratios:
        """Of all groups together, or of one. Predictors are fitted to all of the rows."""
        evidence = blocks.evidence(group)
        fitted = [p.fit(evidence) for p in predictors]
        pairs = blocks.totals["lag_pairs"][:lags]
        scale = np.divide(blocks.totals["rows"], pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
        return cls(
            np.stack([blocks.pool(f.path) for f in fitted]),
            blocks.pool(evidence.of("energy")),
            np.array([memory(f) for f in fitted]),
            blocks.pool(evidence.of("lag")[:lags]) * scale[:, None],
            blocks.length,
        )

    @property
    def reason(self) -> int:
        """Why nothing can be said of this scope; 0 where something can."""
        total = self.energy.sum()
        if not total > 0:
            return 4
        return 2 if self.energy.max() > LARGEST * total else 0

    def withheld(self) -> Float64:
        """Why kappa's fluctuation is withheld, by predictor."""
        return np.array([self.reason or (3 if 2 * self.length <= m else 0) for m in self.memory], np.float64)

    def over_energy(self, numerator: Float64, memory: float = 0) -> float:
        """Half-width of the ratio to the energy; NaN where it is withheld."""
        return float("nan") if self.reason else wider(numerator, self.energy, self.length, memory)

    def kappas(self) -> Float64:
        """Half-widths of kappa, (predictor,)."""
        return np.array([self.over_energy(p, m) for p, m in zip(self.paths, self.memory, strict=True)])

    def differences(self) -> Float64:
        """Half-widths of the differences of two kappas, (predictor, predictor)."""
        P = len(self.paths)
        found = np.zeros((P, P))
        for i in range(P):
            for j in range(i):
                remembered = max(self.memory[i], self.memory[j])
                found[i, j] = found[j, i] = self.over_energy(self.paths[i] - self.paths[j], remembered)
        return found

    def shares(self, whole: Ratios) -> Float64:
        """Half-widths of the shares of this group's path lengths in those of all groups, (predictor,)."""
        pairs = zip(self.paths, whole.paths, whole.memory, strict=True)
        return np.array([np.nan if whole.reason else wider(n, d, self.length, m) for n, d, m in pairs])
