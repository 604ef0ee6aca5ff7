"""``gradlog info RUN --step N``: one step beside its neighbours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradlog.analysis.common.text import TERMINAL
from gradlog.analysis.events import words
from gradlog.cli import plain_text
from gradlog.format.names import UPDATE_NORM, WEIGHT_NORM

if TYPE_CHECKING:
    from gradlog.analysis.events.neighbours import Neighbours

MOST_SCALARS, MOST_GROUPS = 3, 12

MEANING = (
    "  usual: median of the steps before; cosine: with the gradient of this step,",
    "  and its sketch 95 % interval",
)


def text(found: Neighbours) -> list[str]:
    """Lines for the terminal: the steps around it, and its groups."""
    step = f"{found.steps[found.at]:,}"
    return [
        plain_text.heading(f"step {step} and its neighbours"),
        *(
            plain_text.note(f"{found.recorded:,} rows of this view hold step {step}; the newest is shown")
            if found.recorded > 1
            else []
        ),
        *_steps(found),
        "",
        plain_text.heading(f"groups at step {step}"),
        *_groups(found),
    ]


def _steps(found: Neighbours) -> list[str]:
    logged = [name for name in found.scalars if name != "wall_time" and not name.endswith("_seconds")]
    logged = [name for name in logged if not name.startswith((WEIGHT_NORM, UPDATE_NORM))]
    names = sorted(logged, key=lambda name: (name != "loss", name != "lr"))[:MOST_SCALARS]
    number = TERMINAL.number
    rows = [
        [f"{step:,}{' <' if i == found.at else '  '}", *(number(found.scalars[n][i]) for n in names),
         number(found.norm[i]), words.cosine((found.cosine[i], found.cosine_low[i], found.cosine_high[i]), TERMINAL)]
        for i, step in enumerate(found.steps.tolist())
    ]  # fmt: skip
    return plain_text.table(["step", *names, "gradient norm", "cosine"], rows)


def _groups(found: Neighbours) -> list[str]:
    """List the groups, those farthest above their usual norm first."""
    whole = sum(norm * norm for norm, _ in found.groups.values())
    rows = []
    measured = any(not math.isnan(_weights(found, name)[0]) for name in found.groups)
    for name, (norm, usual) in found.groups.items():
        times = norm / usual if usual > 0 else math.nan
        share = norm * norm / whole if whole > 0 else math.nan
        rows.append((times, [name, *map(TERMINAL.number, (norm, usual)), TERMINAL.number(times, 2),
                             TERMINAL.percent(None if math.isnan(share) else share),
                             *(map(TERMINAL.number, _weights(found, name)) if measured else ())]))  # fmt: skip
    rows.sort(key=lambda row: -row[0] if row[0] == row[0] else -math.inf)
    shown = [cells for _, cells in rows[:MOST_GROUPS]]
    more = [f"  and {len(rows) - len(shown)} more groups"] if len(rows) > len(shown) else []
    more_columns = ["weights", "update"] if measured else []
    table = plain_text.table(["group", "norm", "usual", "times", "of the square", *more_columns], shown)
    return [*table, *more, "", *MEANING]


def _weights(found: Neighbours, group: str) -> tuple[float, float]:
    """Norms of a group's parameters and of their change in the step; NaN where they were not recorded."""
    weights, update = (found.scalars.get(kind + group) for kind in (WEIGHT_NORM, UPDATE_NORM))
    if weights is None or update is None:
        return math.nan, math.nan
    return float(weights[found.at]), float(update[found.at])
