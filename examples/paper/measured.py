"""What gradlog says of a recorded row, beside what the paper printed, as lines of three tables."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from examples.paper.findings import FINDINGS, findings_line
from examples.paper.rows import PREDICTORS, Row
from gradlog.analysis import analyze, open_run, to_json

EPS = ("0.1", "0.05", "0.01")
STAND_IN = "stand-in data"


@dataclasses.dataclass(frozen=True)
class Measured:
    """A finished row: the document of ``gradlog analyze --json``, exact kappas if taken, and the run's own facts."""

    row: Row
    found: dict[str, Any]
    exact: dict[str, float]
    steps: int
    batch: int
    lr: float
    data: str
    minutes: float
    recorder: float
    findings: tuple[str, ...]


def measure(row: Row, path: Path) -> Measured:
    """Analyze one run; ``minutes`` without the exact measurement, ``recorder`` over the rest of a step, the median."""
    run = open_run(path)
    notes, scalars = run.info["provenance"]["notes"], run.scalar_columns
    exact = path.with_suffix(".exact.json")
    step, recorder, outside = (scalars[f"{name}_seconds"] for name in ("step", "recorder", "exact"))
    found = to_json(analyze(run, predictors=PREDICTORS, directions=True))
    return Measured(
        row=row,
        found=found,
        exact=json.loads(exact.read_text())["kappa"] if exact.exists() else {},
        steps=run.info["steps"],
        batch=notes["batch"],
        lr=notes["lr"],
        data=notes["data_name"] if notes["data_name"] == row.data else f"{STAND_IN}: {notes['data_name']}",
        minutes=float(np.nansum(step - outside)) / 60,
        recorder=float(np.nanmedian(recorder / (step - outside - recorder))),
        findings=findings_line(row.name, found),
    )


KAPPA = ("run", "predictor", "paper", "here", "sketch 95 %", "full gradients", "shuffled", "gain", "data")
RANK = ("run", "T", "batch", "lr", *(f"r*({e})" for e in EPS), "minutes", "recorder", "data")


def kappa_lines(m: Measured) -> list[tuple[str, ...]]:
    """Four lines under the titles ``KAPPA``."""
    lines = []
    for name, paper in zip(PREDICTORS, m.row.paper, strict=True):
        k = m.found["kappa"][name]
        lines.append(
            (
                m.row.name,
                name,
                "-" if math.isnan(paper) else f"{paper:.3f}",
                f"{k['value']:.3f}",
                f"{k['low']:.3f} to {k['high']:.3f}",
                f"{m.exact[name]:.3f}" if m.exact else "-",
                f"{k['null']:.3f}",
                f"{k['gain']:+.3f}",
                m.data.split(":")[0],
            )
        )
    return lines


def rank_line(m: Measured) -> tuple[str, ...]:
    """One line under the titles ``RANK``."""
    ranks = [rank_text(m.found["rank"][e]) for e in EPS]
    return (
        m.row.name,
        str(m.steps),
        str(m.batch),
        f"{m.lr:g}",
        *ranks,
        f"{m.minutes:.1f}",
        f"{100 * m.recorder:.2f} %",
        m.data,
    )


def rank_text(rank: dict[str, Any]) -> str:
    """Certified rank of the logged rows, of 9 in 10 random orders, and the estimate for the gradients themselves."""
    certified = f"{rank['low']}" if rank["low"] == rank["high"] else f"{rank['low']} to {rank['high']}"
    estimate = "withheld"
    if rank["estimate"] is not None:
        estimate = f"{rank['estimate']:.0f} ({rank['estimate_low']:.0f} to {rank['estimate_high']:.0f})"
    mean, low, high = rank["null"], rank["null_low"], rank["null_high"]
    orders = "not known" if low is None else f"{low:.0f} to {high:.0f}"
    shuffled = orders if mean is None else f"{mean:.0f} ({orders})"
    return f"{certified}, shuffled {shuffled}, gradients {estimate}"


def text(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)).rstrip() for x in (titles, *lines))


def markdown(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Pipes."""
    return "\n".join("| " + " | ".join(x) + " |" for x in (titles, ("---",) * len(titles), *lines))


def latex(titles: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Format as a booktabs tabular."""

    def row(cells: tuple[str, ...]) -> str:
        return " & ".join(c.replace("_", r"\_").replace("%", r"\%") for c in cells) + r" \\"

    head = [rf"\begin{{tabular}}{{{'l' * len(titles)}}}", r"\toprule", row(titles), r"\midrule"]
    return "\n".join([*head, *map(row, lines), r"\bottomrule", r"\end{tabular}"])


FORMATS = {"table": text, "markdown": markdown, "latex": latex}


def page(rows: list[Measured], layout: str) -> str:
    """All tables in one of ``FORMATS``, or everything as JSON."""
    if layout == "json":
        found = {
            m.row.name: dataclasses.asdict(m) | {"paper": dict(zip(PREDICTORS, m.row.paper, strict=True))} for m in rows
        }
        return json.dumps(found, indent=1).replace("NaN", "null")
    draw = FORMATS[layout]
    tables = {
        KAPPA: [line for m in rows for line in kappa_lines(m)],
        RANK: [rank_line(m) for m in rows],
        FINDINGS: [m.findings for m in rows],
    }
    return "\n\n".join(draw(titles, lines) for titles, lines in tables.items())
