"""A run as a small HTML card for notebooks, from metadata alone: nothing of the sketch is read."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from gradlog.analysis.common.recorded import Info, irregularities, recorded
from gradlog.analysis.common.text import enumerate_some, printable

if TYPE_CHECKING:
    from gradlog.analysis.reading.run import Run

STYLE = "border-collapse:collapse;font-variant-numeric:tabular-nums"


def card(run: Run) -> str:
    """HTML table of what a run holds; text from the run is escaped.

    Parameters
    ----------
    run : Run

    Returns
    -------
    str
        A ``<div>`` that inherits the notebook's colours.
    """
    rows = "".join(
        f'<tr><th style="text-align:left;font-weight:500;padding:2px 16px 2px 0">{escape(name)}</th>'
        f'<td style="text-align:left;padding:2px 0"><bdi>{escape(printable(value))}</bdi></td></tr>'
        for name, value in _facts(run.info)
        if value
    )
    return f'<div><strong>gradlog run</strong><table style="{STYLE}">{rows}</table></div>'


def _facts(info: Info) -> list[tuple[str, str]]:
    known = recorded(info)
    return [
        *((label, known[label]) for label in ("path", "status", "steps")),
        ("look at", "; ".join(irregularities(info))),
        ("recorded", f"{known['gradient']}; {known['model']}"),
        ("sketch", known["sketch"]),
        ("groups", f"{len(info['groups'])}: {enumerate_some(info['groups'], 6)}"),
        ("scalars", known["scalars"]),
    ]
