"""Predictors with fixed weights whose squared errors the pass adds up itself: zero, last and trend."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import ClassVar

import numpy as np

from gradlog.analysis.measures.predictors.base import Evidence, Fitted
from gradlog.analysis.measures.predictors.registry import register_predictor


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Fixed weights on g_{t-1}, g_{t-2}, ...; where only one row is known, 1 on that.

    Attributes
    ----------
    name : str
    errors : str
        Sum of the pass that is the path length.
    weights : tuple of float
    """

    name: str
    errors: str
    weights: tuple[float, ...]
    betas: ClassVar[tuple[float, ...]] = ()
    lags: ClassVar[int] = 0

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        one_row = np.ones(1) if len(self.weights) > 1 else None
        return Fitted(evidence.of(self.errors), np.array(self.weights, np.float64), one_row=one_row)


# m_t = 0, so that kappa = 1: a line to compare with
register_predictor("zero", shown_in=("analyze", "report"), place=0, reference=True)(
    partial(Fixed, "zero", "energy", ())
)

# m_t = g_{t-1}
register_predictor("last", shown_in=("analyze", "report", "windows", "compare"), place=1)(
    partial(Fixed, "last", "last", (1.0,))
)

# m_t = 2 g_{t-1} - g_{t-2}, m_1 = g_0
register_predictor("trend", shown_in=("analyze", "report", "windows", "compare"), place=3)(
    partial(Fixed, "trend", "trend", (2.0, -1.0))
)
