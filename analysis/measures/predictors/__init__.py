"""Predictors m_t of the next gradient from past ones: one file for each kind, found by being here."""

from importlib import import_module
from pkgutil import iter_modules

from gradlog.analysis.measures.predictors.base import Evidence, Fitted, Linear, Predictor
from gradlog.analysis.measures.predictors.registry import needs, parse, register_predictor, usual

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Evidence", "Fitted", "Linear", "Predictor", "needs", "parse", "register_predictor", "usual"]
