"""What is asked of every scope of an analysis, and what the exact norms tell of the sketch's error."""

from __future__ import annotations

import dataclasses

import numpy as np

from gradlog.analysis.common.jackknife import FEWEST, Control, pool
from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors import Evidence, Predictor

Values = dict[str, Float64 | float]
"""Numbers of one scope, by the names of ``results.quantities``: one, or one for each predictor, eps or lag."""


FAR = 5.0
"""Standard deviations of a sketched energy, at the most they can be, beyond which the norms are not of these rows."""


@dataclasses.dataclass(frozen=True)
class AnalysisSpec:
    """What is asked of every scope.

    Attributes
    ----------
    predictors : list of Predictor
    eps : tuple of float
        Tail energies at which ranks are read.
    k : int
        Coordinates of a group.
    exact : bool
        The sketch has no error at all.
    norms : bool
        The logged norms have no error.
    scale : float
        What the rows were multiplied by, a power of two.
    exact_groups : tuple of bool
        Which groups the sketch shows without error.
    drawn_anew : bool
        There are no epochs of minibatches.
    """

    predictors: list[Predictor]
    eps: tuple[float, ...]
    k: int
    exact: bool
    norms: bool = True
    scale: float = 1.0
    exact_groups: tuple[bool, ...] = ()
    drawn_anew: bool = False

    def within(self, group: int | None) -> AnalysisSpec:
        """Ask the same of one group, or of all."""
        if group is None or not self.exact_groups:
            return self
        own = self.exact_groups[group]
        return dataclasses.replace(self, exact=own, exact_groups=(own,))

    def pool(self, per_column: Float64) -> Float64:
        """Sum over the groups in question: (..., columns) -> (..., k)."""
        return pool(per_column, self.k, self.exact_groups)


def control(evidence: Evidence, energy: float, spec: AnalysisSpec) -> Control | None:
    """Return what the exact norms tell of the sketch's error; None where they are not exact, or not of these rows."""
    if spec.exact or not spec.norms or spec.k < FEWEST or contradict(evidence, energy, spec):
        return None
    return Control(spec.pool(evidence.of("energy")), energy * spec.scale**2)


def contradict(evidence: Evidence, energy: float, spec: AnalysisSpec) -> bool:
    """Whether an energy is too far from the sketch's, whose variance is at most 2 / k times the square."""
    away = abs(float(evidence.of("energy").sum()) / spec.scale**2 - energy)
    return away > FAR * float(np.sqrt(2 / spec.k)) * energy
