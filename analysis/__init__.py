"""The analyzer: an opened run, and one pass over it. Nothing heavy is imported before it is used.

All that is public is here; the modules below may move.

>>> from gradlog.analysis import open_run, analyze
>>> result = analyze(open_run("run.zarr"))          # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlog.analysis import plots
    from gradlog.analysis.archive import analyze_each, analyze_many
    from gradlog.analysis.audits.audit import audit_run
    from gradlog.analysis.audits.report import Report
    from gradlog.analysis.cache import Cache
    from gradlog.analysis.compare import Comparison, Row, compare, compare_archive
    from gradlog.analysis.cosine import Cosines, cosines
    from gradlog.analysis.export import export_result, export_rows
    from gradlog.analysis.grouptime import GroupTime, group_time
    from gradlog.analysis.pipeline import analyze
    from gradlog.analysis.predictors import Evidence, Fitted, Linear, Predictor
    from gradlog.analysis.reader import Run, open_run
    from gradlog.analysis.replicates import Configuration, Difference, Mean, Replicates, replicates
    from gradlog.analysis.report import archive_report, html_report, write_report
    from gradlog.analysis.result_json import to_json
    from gradlog.analysis.watch import Look, is_live, silence, watch

__all__ = [
    "Cache", "Comparison", "Configuration", "Cosines", "Difference", "Evidence", "Fitted", "GroupTime", "Linear",
    "Look", "Mean", "Predictor", "Replicates", "Report", "Row", "Run", "analyze", "analyze_each", "analyze_many",
    "archive_report", "audit_run", "compare", "compare_archive", "cosines", "export_result", "export_rows",
    "group_time", "html_report", "is_live", "open_run", "plots", "replicates", "silence", "to_json", "watch",
    "write_report",
]  # fmt: skip

_HOME = {
    name: module
    for module, names in {
        "archive": ["analyze_each", "analyze_many"],
        "audits.audit": ["audit_run"],
        "audits.report": ["Report"],
        "cache": ["Cache"],
        "compare": ["Comparison", "Row", "compare", "compare_archive"],
        "cosine": ["Cosines", "cosines"],
        "export": ["export_result", "export_rows"],
        "grouptime": ["GroupTime", "group_time"],
        "pipeline": ["analyze"],
        "predictors": ["Evidence", "Fitted", "Linear", "Predictor"],
        "reader": ["Run", "open_run"],
        "replicates": ["Configuration", "Difference", "Mean", "Replicates", "replicates"],
        "report": ["archive_report", "html_report", "write_report"],
        "result_json": ["to_json"],
        "watch": ["Look", "is_live", "silence", "watch"],
    }.items()
    for name in names
}


def __getattr__(name: str) -> Any:
    if name == "plots":
        return import_module(f"{__name__}.plots")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Where a function has the name of its module, the function stays in sight when the module is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, getattr(value, name) if _HOME.get(name) == name else value)


sys.modules[__name__].__class__ = _Package
