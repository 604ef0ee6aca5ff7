"""A run as a small HTML card for notebooks, from metadata alone: nothing of the sketch is read."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from gradlog.analysis.common.text import printable

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


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    steps = "none" if info["steps"] == 0 else f"{info['steps']:,}, {info['first_step']:,} to {info['last_step']:,}"
    odd = [
        (len(info["nonfinite"]), "non-finite"),
        (info["skipped"], "skipped"),
        (info["partial"], "partial"),
        (info["abandoned"], "abandoned"),
        (len(info["gaps"]), "gaps"),
    ]
    sketch = "the gradient itself" if info["kind"] == "exact/1" else f"{info['kind']}, k = {info['k']} a group"
    names = ", ".join(info["groups"][:6]) + (", …" if len(info["groups"]) > 6 else "")
    return [
        ("path", info["path"]),
        ("status", info["status"] + (f": {info['reason']}" if info["reason"] else "")),
        ("steps", steps),
        ("look at", ", ".join(f"{count:,} {word}" for count, word in odd if count)),
        ("recorded", f"{info['what']}, {info['stage']}; {info['dimension']:,} numbers in {info['tensors']:,} tensors"),
        ("sketch", sketch),
        ("groups", f"{len(info['groups'])}: {names}"),
        ("scalars", ", ".join(info["scalars"])),
    ]
