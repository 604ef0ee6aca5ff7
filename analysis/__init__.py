"""The analyzer: an opened run, and one pass over it. Nothing heavy is imported before it is used.

All that is public is here; the modules below may move.

>>> from gradlog.analysis import open_run, analyze
>>> result = analyze(open_run("run.zarr"))          # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlog.analysis.audit.findings import Report
    from gradlog.analysis.audit.run import audit_run
    from gradlog.analysis.caching.cache import Cache
    from gradlog.analysis.comparison.analyze_each import analyze_each, analyze_many
    from gradlog.analysis.comparison.compare import Comparison, Row, compare, compare_archive
    from gradlog.analysis.comparison.divergence import Cosines, cosines
    from gradlog.analysis.comparison.replicates import Configuration, Difference, Mean, Replicates, replicates
    from gradlog.analysis.directions.autocorrelation import Autocorrelation, autocorrelation
    from gradlog.analysis.directions.direction_map import DirectionMap, direction_map
    from gradlog.analysis.directions.probes import Conflict, ProbeCosines, probe_conflicts, probe_cosines
    from gradlog.analysis.directions.turns import Turn, turns
    from gradlog.analysis.directions.weights_path import WeightsPath, weights_path
    from gradlog.analysis.events.events import Event, Events, find_events
    from gradlog.analysis.events.neighbours import Neighbours, neighbours
    from gradlog.analysis.following.watch import Look, is_live, silence, watch
    from gradlog.analysis.measures.predictors import Evidence, Fitted, Linear, Predictor, register_predictor
    from gradlog.analysis.measures.updates import Estimate, GradientAndUpdate
    from gradlog.analysis.reading.run import Run, open_run
    from gradlog.analysis.reading.sketcher import Probe, Sketcher
    from gradlog.analysis.report import plots
    from gradlog.analysis.report.write import archive_report, html_report, write_report
    from gradlog.analysis.results.analyze import analyze
    from gradlog.analysis.results.forms.export import export_result, export_rows
    from gradlog.analysis.results.forms.json_document import to_json
    from gradlog.analysis.results.group_time import GroupTime, group_time
    from gradlog.analysis.results.updates import gradient_and_update
    from gradlog.analysis.trackers.export import export_to_tracker

__all__ = [
    "Autocorrelation", "Cache", "Comparison", "Configuration", "Conflict", "Cosines", "Difference", "DirectionMap",
    "Estimate", "Event", "Events", "Evidence", "Fitted", "GradientAndUpdate", "GroupTime", "Linear", "Look", "Mean",
    "Neighbours", "Predictor", "Probe", "ProbeCosines", "Replicates", "Report", "Row", "Run", "Sketcher", "Turn",
    "WeightsPath", "analyze", "analyze_each", "analyze_many", "archive_report", "audit_run", "autocorrelation",
    "compare", "compare_archive", "cosines", "direction_map", "export_result", "export_rows", "export_to_tracker",
    "find_events", "gradient_and_update", "group_time", "html_report", "is_live", "neighbours", "open_run", "plots",
    "probe_conflicts", "probe_cosines", "register_predictor", "replicates", "silence", "to_json", "turns", "watch",
    "weights_path", "write_report",
]  # fmt: skip

_HOME = {
    name: module
    for module, names in {
        "audit.findings": ["Report"],
        "audit.run": ["audit_run"],
        "caching.cache": ["Cache"],
        "comparison.analyze_each": ["analyze_each", "analyze_many"],
        "comparison.compare": ["Comparison", "Row", "compare", "compare_archive"],
        "comparison.divergence": ["Cosines", "cosines"],
        "comparison.replicates": ["Configuration", "Difference", "Mean", "Replicates", "replicates"],
        "directions.autocorrelation": ["Autocorrelation", "autocorrelation"],
        "directions.direction_map": ["DirectionMap", "direction_map"],
        "directions.probes": ["Conflict", "ProbeCosines", "probe_conflicts", "probe_cosines"],
        "directions.turns": ["Turn", "turns"],
        "directions.weights_path": ["WeightsPath", "weights_path"],
        "events.events": ["Event", "Events", "find_events"],
        "events.neighbours": ["Neighbours", "neighbours"],
        "following.watch": ["Look", "is_live", "silence", "watch"],
        "measures.predictors": ["Evidence", "Fitted", "Linear", "Predictor", "register_predictor"],
        "measures.updates": ["Estimate", "GradientAndUpdate"],
        "reading.run": ["Run", "open_run"],
        "reading.sketcher": ["Probe", "Sketcher"],
        "report.write": ["archive_report", "html_report", "write_report"],
        "results.analyze": ["analyze"],
        "results.forms.export": ["export_result", "export_rows"],
        "results.group_time": ["GroupTime", "group_time"],
        "results.forms.json_document": ["to_json"],
        "results.updates": ["gradient_and_update"],
        "trackers.export": ["export_to_tracker"],
    }.items()
    for name in names
}


def __getattr__(name: str) -> object:
    if name == "plots":
        return import_module(f"{__name__}.report.plots")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
