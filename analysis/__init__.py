"""The analyzer: an opened run, and one pass over it. Nothing heavy is imported before it is used.

>>> from gradlog.analysis import open_run, analyze
>>> result = analyze(open_run("run.zarr"))          # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlog.analysis.archive import analyze_each, analyze_many
    from gradlog.analysis.audits.audit import audit_run
    from gradlog.analysis.pipeline import analyze
    from gradlog.analysis.predictors import Linear
    from gradlog.analysis.reader import Run, open_run
    from gradlog.analysis.result_json import to_json

__all__ = ["Linear", "Run", "analyze", "analyze_each", "analyze_many", "audit_run", "open_run", "to_json"]

_HOME = {
    "open_run": "reader",
    "Run": "reader",
    "analyze": "pipeline",
    "analyze_each": "archive",
    "analyze_many": "archive",
    "to_json": "result_json",
    "audit_run": "audits.audit",
    "Linear": "predictors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
