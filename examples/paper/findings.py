"""What happened in a recorded row: groups, events, noise, the update beside the gradient, the path of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

FINDINGS = (
    "run", "leading group", "its share", "events", "turns", "signal", "lag 1", "update and -gradient", "update before",
    "update / weights", "curvature", "unstable from", "distance / length",
)  # fmt: skip
UPDATE = (("cosine", 2), ("previous", 2), ("relative", 4), ("shared", 2), ("edge", 1))


def findings_line(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    """One line under the titles ``FINDINGS``; ``found``: what ``gradlog analyze --directions --json`` prints."""
    energies = {group: part["energy"] for group, part in found["by_group"].items()}
    leader = max(energies, key=lambda group: energies[group])
    update, directions = found.get("update", {}), found["directions"]
    turns = directions.get("turns", {"usual": None})
    return (
        name,
        leader,
        f"{100 * energies[leader] / found['energy']:.0f} %",
        steps(event["peak_step"] for event in found["events"]["events"]),
        "not known" if turns["usual"] is None else steps(turns["step"]),
        interval(found["noise"], "signal_share"),
        interval(found["lag_coherence"]["1"], "value"),
        *(interval(update.get(key, {}), "value", digits) for key, digits in UPDATE),
        f"{directions['weights']['efficiency']:.2f}" if update else "-",
    )


def steps(found: Iterable[int]) -> str:
    """List steps."""
    return ", ".join(map(str, found)) or "none"


def interval(figures: dict[str, Any], name: str, digits: int = 2) -> str:
    """Give a value with the ends of its interval; a dash for what was withheld."""
    low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    values = [figures.get(key) for key in (name, low, high)]
    if any(value is None or math.isnan(value) for value in values):
        return "-"
    value, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{value} ({low} to {high})"
