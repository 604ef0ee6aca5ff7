"""Exponential moving averages with a given beta."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from gradlog.analysis.measures.predictors.base import Evidence, Fitted
from gradlog.analysis.measures.predictors.registry import register_predictor


@register_predictor(
    "ema(B)",
    float,
    usual=("ema(0.9)", "ema(0.99)"),
    shown_in=("analyze", "report", "windows", "compare"),
    place=2,
)
@dataclasses.dataclass(frozen=True)
class EMA:
    """m_t = beta m_{t-1} + (1 - beta) g_{t-1}, no bias correction."""

    beta: float
    lags: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ValueError(f"ema needs 0 <= beta < 1, got {self.beta}")

    @property
    def name(self) -> str:
        """ema(beta)."""
        return f"ema({self.beta:g})"

    @property
    def betas(self) -> tuple[float, ...]:
        """See Predictor."""
        return (self.beta,)

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        return Fitted(evidence.ema(self.beta), np.empty(0), beta=self.beta)
