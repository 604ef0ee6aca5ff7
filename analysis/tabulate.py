"""A comparison as text to paste: Markdown, LaTeX, CSV; every kappa with its interval and its shuffled baseline."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from gradlog.analysis.compare import Comparison
from gradlog.analysis.text import printable

FIELDS = ("value", "low", "high", "null", "gain", "gain_low", "gain_high")


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: per run kappa ± half its interval, what shuffled steps would give, what was published.

    Published figures stand under the run of their name; those of no run here follow at the end.
    """
    columns = ["run", "T", "batch", *comparison.predictors]
    rows = []
    for r in comparison.rows:
        batch = "–" if r.batch is None else f"{r.batch:g}"
        rows.append([r.label, f"{r.steps}", batch, *(_cell(r.kappa[p]) for p in comparison.predictors)])
        rows.append(["  shuffled", "", "", *(_fixed(r.kappa[p]["null"]) for p in comparison.predictors)])
        if r.label in comparison.reference:
            rows.append(_published("  published", comparison.reference[r.label], comparison))
    others = comparison.reference.keys() - {r.label for r in comparison.rows}
    rows += [_published(name, found, comparison) for name, found in comparison.reference.items() if name in others]
    return columns, rows


def _published(label: str, figures: Mapping[str, float], comparison: Comparison) -> list[str]:
    return [f"{label} *", "", "", *(_fixed(figures.get(p)) for p in comparison.predictors)]


def markdown(comparison: Comparison) -> str:
    """Table of GitHub-flavoured Markdown."""
    columns, rows = grid(comparison)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    escaped = [
        [re.sub(r"([\\|<>*_`\[\]])", r"\\\1", c.strip()) if line is not lines[1] else c for c in line] for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped) + f"\n\n{footnote(comparison)}\n"


def latex(comparison: Comparison) -> str:
    """Table with booktabs rules; intervals as ±."""
    columns, rows = grid(comparison)
    body = [" & ".join(_latex(c) for c in row) + r" \\" for row in rows]
    head = " & ".join(_latex(c) for c in columns) + r" \\"
    rule = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", head, r"\midrule"]
    note = f"% {footnote(comparison)}"
    return "\n".join([note, *rule, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def text_csv(comparison: Comparison) -> str:
    """One line for each run and predictor, full precision; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "steps", "batch", "predictor", *("kappa" if f == "value" else f for f in FIELDS)])
    for r in comparison.rows:
        for p in comparison.predictors:
            writer.writerow(
                [_csv(r.label), r.steps, _number(r.batch), p, *(_number(r.kappa[p].get(f)) for f in FIELDS)]
            )
    for name, figures in comparison.reference.items():
        for p in comparison.predictors:
            writer.writerow(
                [_csv(f"{name} (reference)"), "", "", p, _number(figures.get(p)), *[""] * (len(FIELDS) - 1)]
            )
    return out.getvalue()


def footnote(comparison: Comparison) -> str:
    """Say what the cells mean."""
    text = "kappa ± half of the sketch 95 % interval; shuffled: the same gradients in random order."
    return text + (f" * {printable(comparison.source)}, without intervals." if comparison.reference else "")


def _cell(kappa: dict[str, Any]) -> str:
    low, high = kappa.get("low"), kappa.get("high")
    if low is None or high is None:
        return _fixed(kappa["value"])
    half = (high - low) / 2
    return f"{_fixed(kappa['value'])} ±{'<0.001' if 0 < half < 0.0005 else f'{half:.3f}'}"


def _fixed(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _csv(label: str) -> str:
    """Return a label that no spreadsheet takes for a formula."""
    plain = printable(label)
    return f"'{plain}" if plain[:1] in "=+-@" else plain


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _latex(text: str) -> str:
    lead = r"\quad " if text.startswith("  ") else ""
    return lead + "".join(_LATEX.get(c, "\\" + c if c in "&%$#_{}" else c) for c in printable(text.strip()))


WRITERS: dict[str, Any] = {"markdown": markdown, "latex": latex, "csv": text_csv}
