"""Weights on the last p rows by least squares, fitted in hindsight."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from gradlog.analysis.common.types import Float64
from gradlog.analysis.measures.predictors.base import Evidence, Fitted, fit_weights
from gradlog.analysis.measures.predictors.registry import register_predictor


@register_predictor("ar(P)", int, usual=("ar(8)",), shown_in=("analyze", "report"), place=4, hindsight=True)
@dataclasses.dataclass(frozen=True)
class AR:
    """m_t = sum_{j<=p} w_j g_{t-j} with the least-squares weights of these rows, shared by all columns."""

    lags: int
    betas: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.lags <= 256:
            raise ValueError(f"ar needs an order from 1 to 256, got {self.lags}")

    @property
    def name(self) -> str:
        """ar(p)."""
        return f"ar({self.lags})"

    def fit(self, evidence: Evidence) -> Fitted:
        """See Predictor."""
        M = evidence.moments(self.lags)
        return dataclasses.replace(fit_weights(M, least_squares(M.sum(axis=-1))), hindsight=True)


def least_squares(M: Float64) -> Float64:
    """Weights from moments (lags + 1, lags + 1), of least norm where they are not determined.

    >>> least_squares(np.array([[1.0, 0.5], [0.5, 1.0]])).round(9).tolist()
    [0.5]
    """
    weights: Float64 = np.linalg.pinv(M[1:, 1:], rcond=1e-10, hermitian=True) @ M[1:, 0]
    return weights
