"""Tables of runs compared: all runs at a glance, configurations over seeds and their differences."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.comparison.replicates import Configuration, Difference, Mean, Replicates
from gradlog.analysis.measures.predictors.registry import without_reference
from gradlog.analysis.report.figures import interval
from gradlog.analysis.report.study import Study
from gradlog.analysis.report.tables import Cell, Table, count_cell, gain_cell, number_cell, rank_cell

NOTE = (
    "A heading sorts. kappa: squared prediction error over energy, with its sketch 95 % interval; gain: "
    "against the same steps in random order. Rank: certified, of the logged increments; small: of shuffled steps."
)


def overview(studies: Sequence[Study]) -> Table:
    """Show steps, kappa, gain and rank of each run."""
    names = without_reference(studies[0].document["kappa"])[:2]
    eps = next(iter(studies[0].document["rank"]))
    columns = [
        "run",
        "steps",
        "status",
        *(c for p in names for c in (f"kappa, {p}", "gain")),
        f"rank at {eps}",
        "warnings",
    ]
    return Table("One row per run", columns, [_row(s, names, eps) for s in studies], NOTE)


def _row(study: Study, names: Sequence[str], eps: str) -> list[Cell]:
    info, kappas = study.run.info, study.document["kappa"]
    cells = [
        Cell(study.label, study.label, "name"),
        count_cell(info["steps"]),
        Cell(info["status"], info["status"], "name"),
    ]
    for kappa in (kappas[p] for p in names):
        cells += [number_cell(kappa["value"], interval(kappa["low"], kappa["high"])), gain_cell(kappa)]
    rank = study.document["rank"][eps]
    orders = PAGE.interval(rank.get("null_low"), rank.get("null_high"), PAGE.count)
    return [
        *cells,
        rank_cell(rank, orders and f"shuffled {orders}"),
        count_cell(len(json.loads(study.result.attrs["warnings"]))),
    ]


def configuration_table(found: Replicates | None) -> Table | None:
    """Mean, spread between runs and interval of each configuration and predictor."""
    if found is None:
        return None
    rows = [_mean_row(c, p, m) for c in found.configurations for p, m in c.kappa.items()]
    columns = ["configuration", "predictor", "runs", "mean kappa", "sd between runs", "95 % interval of the mean"]
    return Table("Configurations", columns, rows, " ".join(found.warnings))


def _mean_row(c: Configuration, predictor: str, mean: Mean) -> list[Cell]:
    known = mean.n > 1
    return [
        Cell(c.label, c.label, "name"),
        Cell(predictor, predictor, "name"),
        Cell(f"{mean.n}", mean.n),
        number_cell(mean.value),
        number_cell(mean.sd if known else None),
        Cell(PAGE.interval(mean.low, mean.high) if known else "none", mean.value, "soft"),
    ]


def difference_table(found: Replicates | None) -> Table | None:
    """Differences of every two configurations, p values adjusted for their number."""
    if found is None or not found.differences:
        return None
    columns = ["difference", "predictor", "of mean kappa", "95 % interval", "seeds", "p"]
    note = (
        f"{len(found.differences)} differences; p is adjusted for all of them (Holm). Over the seeds that two "
        "configurations share the interval is a paired one; where they share none it is Welch's."
    )
    return Table("Differences", columns, [_difference_row(d) for d in found.differences], note)


def _difference_row(d: Difference) -> list[Cell]:
    title = f"{d.first} − {d.second}"
    return [
        Cell(title, title, "name"),
        Cell(d.predictor, d.predictor, "name"),
        number_cell(d.value),
        Cell(PAGE.interval(d.low, d.high), d.low, "soft"),
        Cell(f"{d.seeds} paired" if d.seeds else "not paired", d.seeds),
        Cell("< 0.001" if d.p < 0.001 else f"{d.p:.3f}", d.p),
    ]
