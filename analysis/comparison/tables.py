"""A comparison as text to paste: Markdown, LaTeX, CSV; every kappa with its interval and its shuffled baseline."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence

from gradlog.analysis.common.text import PAGE, no_formula, printable
from gradlog.analysis.comparison.compare import Comparison
from gradlog.analysis.comparison.replicates import Mean, Replicates

CELLS = "kappa ± half of the sketch 95 % interval; shuffled: the same gradients in random order."
FIELDS = ("value", "low", "high", "null", "gain", "gain_low", "gain_high")


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: per run kappa ± half its interval, what shuffled steps would give, what was published.

    Published figures stand under the run of their name; those of no run here follow at the end.
    """
    columns = ["run", "T", "batch", *comparison.predictors]
    rows = []
    for r in comparison.rows:
        batch = "–" if r.batch is None else f"{r.batch:g}"
        rows += kappa_rows([r.label, f"{r.steps}", batch], [r.kappa[p] for p in comparison.predictors])
        if r.label in comparison.reference:
            rows.append(_published("  published", comparison.reference[r.label], comparison))
    others = comparison.reference.keys() - {r.label for r in comparison.rows}
    rows += [_published(name, found, comparison) for name, found in comparison.reference.items() if name in others]
    return columns, rows


def kappa_rows(run: Sequence[str], kappas: Sequence[Mapping[str, float | None]]) -> list[list[str]]:
    """Rows of one run: kappa ± half its interval, and what shuffled steps would give; ``run``: the cells before."""
    blank = [""] * (len(run) - 1)
    return [[*run, *map(_cell, kappas)], ["  shuffled", *blank, *(PAGE.fixed(k["null"]) for k in kappas)]]


def configurations(found: Replicates) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: per configuration mean ± half its interval, and the spread between its runs."""
    predictors = list(found.configurations[0].kappa)
    columns = ["configuration", "n", *predictors]
    rows = []
    for c in found.configurations:
        means = [c.kappa[p] for p in predictors]
        rows.append([c.label, f"{len(c.runs)}", *(_mean(m) for m in means)])
        rows.append(["  sd", "", *(PAGE.fixed(m.sd if m.n > 1 else None) for m in means)])
    return columns, rows


def _mean(mean: Mean) -> str:
    return _cell({"value": mean.value, "low": mean.low, "high": mean.high} if mean.n > 1 else {"value": mean.value})


SPREAD = "mean ± half of its 95 % interval over n runs; sd: between runs. p is adjusted for all differences (Holm)."


def _published(label: str, figures: Mapping[str, float], comparison: Comparison) -> list[str]:
    return [f"{label} *", "", "", *(PAGE.fixed(figures.get(p)) for p in comparison.predictors)]


def markdown(comparison: Comparison) -> str:
    """Table of GitHub-flavoured Markdown."""
    text = f"{_markdown(*grid(comparison))}\n\n{footnote(comparison)}\n"
    found = comparison.replicates
    if found is None:
        return text
    said = "".join(f"* {_escaped(line)}\n" for line in _differences(found))
    return f"{text}\n{_markdown(*configurations(found))}\n\n{SPREAD}\n\n{said}".rstrip("\n") + "\n"


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    lines = [list(map(_escaped, columns)), rule, *([_escaped(c.strip()) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", printable(cell))


def _differences(found: Replicates) -> list[str]:
    return [*(d.sentence for d in found.differences), *found.warnings]


def latex(comparison: Comparison) -> str:
    """Table with booktabs rules; intervals as ±."""
    lines = [f"% {footnote(comparison)}", *_tabular(*grid(comparison))]
    found = comparison.replicates
    if found is not None:
        lines += [f"% {SPREAD}", *(f"% {printable(line)}" for line in _differences(found))]
        lines += _tabular(*configurations(found))
    return "\n".join(lines) + "\n"


def _tabular(columns: list[str], rows: list[list[str]]) -> list[str]:
    head, *body = [" & ".join(_latex(c) for c in row) + r" \\" for row in (columns, *rows)]
    rule = [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", head, r"\midrule"]
    return [*rule, *body, r"\bottomrule", r"\end{tabular}"]


def text_csv(comparison: Comparison) -> str:
    """One line for each run and predictor, full precision; empty where there is no number."""
    lines: list[Sequence[object]] = [["run", "steps", "batch", "predictor", "kappa", *FIELDS[1:]]]
    for r in comparison.rows:
        head = [_csv(r.label), r.steps, r.batch]
        lines += [[*head, p, *(r.kappa[p].get(f) for f in FIELDS)] for p in comparison.predictors]
    for name, figures in comparison.reference.items():
        head, none = [_csv(f"{name} (reference)"), None, None], [None] * (len(FIELDS) - 1)
        lines += [[*head, p, figures.get(p), *none] for p in comparison.predictors]
    return _written(lines)


def configurations_csv(found: Replicates) -> str:
    """One line for each mean and each difference, full precision; ``against`` is empty for a mean."""
    lines: list[Sequence[object]] = [["configuration", "against", "predictor", "n", "kappa", "sd", "low", "high", "p"]]
    for c in found.configurations:
        for p, m in c.kappa.items():
            numbers = (None if math.isnan(x) else x for x in (m.value, m.sd, m.low, m.high))
            lines.append([_csv(c.label), None, p, m.n, *numbers, None])
    lines += [
        [_csv(d.first), _csv(d.second), d.predictor, d.seeds or None, d.value, None, d.low, d.high, d.p]
        for d in found.differences
    ]
    return _written(lines)


def _written(lines: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def footnote(comparison: Comparison) -> str:
    """Say what the cells mean."""
    return CELLS + (f" * {printable(comparison.source)}, without intervals." if comparison.reference else "")


def _cell(kappa: Mapping[str, float | None]) -> str:
    low, high = kappa.get("low"), kappa.get("high")
    if low is None or high is None or low == high:
        return PAGE.fixed(kappa["value"])
    half = (high - low) / 2
    return f"{PAGE.fixed(kappa['value'])} ±{'<0.001' if 0 < half < 0.0005 else PAGE.fixed(half)}"


def _csv(label: str) -> str:
    return str(no_formula(printable(label)))


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _latex(text: str) -> str:
    lead = r"\quad " if text.startswith("  ") else ""
    return lead + "".join(_LATEX.get(c, "\\" + c if c in "&%$#_{}" else c) for c in printable(text.strip()))


WRITERS: dict[str, Callable[[Comparison], str]] = {"markdown": markdown, "latex": latex, "csv": text_csv}
