"""When each series left its running band."""

from __future__ import annotations

from collections.abc import Sequence

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.events.words import KINDS, named, steps, told
from gradlog.analysis.report.figure import NARROW, WIDE, Dots, Figure, Legend
from gradlog.analysis.report.figures import Chart, steps_axis, titled
from gradlog.analysis.report.study import Study

MOST_GROUPS = 16


@Chart(
    "events", "events", 0,
    "A dot is a step at which a series left the band of the 64 steps before. Of dots that lie close together, the "
    "leftmost shows what left first.",
)  # fmt: skip
def events(runs: Sequence[Study]) -> list[Figure]:
    """Draw a figure for each run that has events."""
    return [
        _of_run(run, titled("What left its usual range, and when", run, runs), runs) for run in runs if run.events.found
    ]


def _of_run(run: Study, title: str, runs: Sequence[Study]) -> Figure:
    found = run.events.found
    whole = list(dict.fromkeys(d.series for e in found for d in e.series))
    groups = [name for name in run.run.groups if any(d.series == name for e in found for d in e.groups)][:MOST_GROUPS]
    said = f"Steps at which series of {run.label} left their bands: " + ", ".join(steps(e) for e in found[:8])
    legend: Legend = [("dot", "s1", "of the whole model"), ("dot", "s0", "of a group")] if groups else []
    wide = WIDE if len(runs) == 1 else NARROW
    rows = [named(name) for name in whole] + groups
    figure = Figure(title, said, steps_axis(runs), rows, legend, wide, height=max(60, 17 * len(rows)))
    for event in found:
        for part, names, start, colour in ((event.series, whole, 0, "s1"), (event.groups, groups, len(whole), "s0")):
            shown = [d for d in part if d.series in names]
            tips = [f"{told(d, PAGE)}: {KINDS[event.kind]}" for d in shown]
            figure.add(Dots([d.step for d in shown], [start + names.index(d.series) for d in shown], colour, tips))
    return figure
