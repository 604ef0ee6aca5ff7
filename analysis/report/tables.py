"""Tables of a report: cells of text with the number that they sort by. Every number comes with its interval."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.measures.interpretation import HELPS, HURTS, NEGLIGIBLE, caution, looked_at, sentence, verdict
from gradlog.analysis.measures.predictors.registry import fitted_in_hindsight, is_reference
from gradlog.analysis.report.study import SHARED, Study

MOST_GROUPS = 200


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text of a cell, what to sort by, its class, and a second line."""

    text: str
    key: float | str
    kind: str = ""
    more: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A sortable table: title, column names, rows of cells, and what to know when reading it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


def kappa_table(studies: Sequence[Study]) -> Table:
    """Kappa with interval, baseline, gain, and the verdict in words."""
    rows = [
        [*_who(s, studies), *_kappa(n, k)]
        for s in studies
        for n, k in s.document["kappa"].items()
        if not is_reference(n)
    ]
    columns = [
        *_run_column(studies),
        "predictor",
        "kappa",
        "sketch 95 %",
        "within the run",
        "both",
        "shuffled",
        "gain",
        "in words",
    ]
    words = [verdict(k) for s in studies for n, k in s.document["kappa"].items() if not is_reference(n)]
    note = (
        "kappa = sum of squared prediction errors over sum of squared gradient norms; predicting zero gives 1. "
        "shuffled: what the same gradients would show in random order. gain = 1 − kappa / shuffled. sketch 95 %: the "
        "sketch's error; within the run: how far kappa fluctuates, from blocks of the run's own steps; both: the two "
        f"together. Another seed or a longer run may differ by more; {fitted_in_hindsight()} are fitted in hindsight. "
        "Order hurts a predictor that would do better on shuffled steps, and makes no difference where the gain's "
        "interval holds 0 or one random order in twenty would show as much; too small to matter is what a correlation "
        f"of {NEGLIGIBLE:.0%} between gradients and predictions would give. {caution(looked_at(words))}"
    )
    return Table("Kappa", columns, rows, note)


def rank_table(studies: Sequence[Study]) -> Table:
    """r*(eps) of the logged matrix, of shuffled steps, and of the gradients themselves."""
    rows = [[*_who(s, studies), *_rank(e, r)] for s in studies for e, r in s.document["rank"].items()]
    columns = [
        *_run_column(studies),
        "eps",
        "certified, logged matrix",
        "shuffled",
        "9 in 10 orders",
        "gradients themselves",
        "estimate's range",
    ]
    note = (
        "r*(eps) directions leave at most eps of the increments' energy. The certified range is of the matrix that was "
        "logged; a sketch of k coordinates cannot show more than k directions per group. Shuffled: the mean over "
        "random orders of the same steps, with the range of 9 in 10 orders. The estimate undoes the sketch's effect, "
        "its range is the spread over parts of the sketch and the usual error; where parts disagree it is withheld. Of "
        "the ranges given for gradients that are known, 98 in 100 or more held the rank."
    )
    return Table("Rank of the increments", columns, rows, note)


def group_table(studies: Sequence[Study]) -> Table | None:
    """Energy, kappa and rank of each parameter group."""
    rows = [
        [*_who(s, studies), *_group(name, found, s)]
        for s in studies
        for name, found in _largest(s.document["by_group"])
        if len(s.document["by_group"]) > 1
    ]
    if not rows:
        return None
    eps = next(iter(studies[0].document["rank"]))
    columns = [
        *_run_column(studies),
        "group",
        "share of energy",
        f"kappa, {SHARED}",
        "sketch 95 %",
        "shuffled",
        f"rank at {eps}, certified",
        "shuffled rank",
    ]
    note = "Shares of energy are exact unless the run was recorded by several ranks."
    if any(len(s.document["by_group"]) > MOST_GROUPS for s in studies):
        note += f" Only the {MOST_GROUPS} groups of a run with the largest energy are listed."
    return Table("Parameter groups", columns, rows, note)


def _largest(groups: dict[str, Any]) -> list[tuple[str, Any]]:
    """Select the groups with the largest energy, at most 200, in their own order."""
    least = sorted((g["energy"] for g in groups.values()), reverse=True)[:MOST_GROUPS][-1:]
    return [(name, g) for name, g in groups.items() if g["energy"] >= least[0]][:MOST_GROUPS]


def stationarity_table(studies: Sequence[Study]) -> Table | None:
    """Both sides of the bound on the mean squared norm, the left one with and without minibatch noise."""
    sides = {
        "mean norm²": "left",
        "its bound": "right",
        "ratio": "ratio",
        "noise-free norm²": "left_noise_free",
        "its ratio": "ratio_noise_free",
    }
    note = (
        "2 (F₀ − F*) / (ηT) + P / T bounds the mean squared norm; a ratio of 1 or more is what the bound promises "
        "under its assumptions. They are about the gradient without minibatch noise: the last ratio, withheld where "
        "signal and noise cannot be separated."
    )
    return _bound_table("Bound on the mean squared norm", "stationarity", sides, note, studies)


def regret_table(studies: Sequence[Study]) -> Table | None:
    """Both sides of the bound on the regret, and what the best step size would make of it."""
    sides = {"regret": "left", "its bound": "right", "ratio": "ratio", "best η": "best_eta", "bound at best η": "best"}
    note = "D² / η + ηP / 2 bounds the regret, the sum of the losses above F*; the best η is D √(2 / P)."
    return _bound_table("Bound on the regret", "regret", sides, note, studies)


def _bound_table(title: str, kind: str, sides: dict[str, str], note: str, studies: Sequence[Study]) -> Table | None:
    known = [s for s in studies if _has_bounds(s)]
    rows = [[*_who(s, studies), *_bound(name, s, kind, sides)] for s in known for name in s.document["kappa"]]
    if not rows:
        return None
    inputs = "; ".join(f"{s.label}: {_inputs(s)}" if len(studies) > 1 else _inputs(s) for s in known)
    whose = " ".join(dict.fromkeys(str(s.document["bounds"]["about"]) for s in known))
    note = (
        f"{note} Intervals follow that of the path length P and cover the sketch's error only; where both sides have "
        f"one, the ratio takes the worst of both. Inputs: {inputs}. {whose}"
    )
    return Table(title, [*_run_column(studies), "predictor", *sides], rows, note)


def _run_column(studies: Sequence[Study]) -> list[str]:
    return ["run"] if len(studies) > 1 else []


def _who(study: Study, studies: Sequence[Study]) -> list[Cell]:
    return [Cell(study.label, study.label, "name")] if len(studies) > 1 else []


def _kappa(name: str, kappa: dict[str, Any]) -> list[Cell]:
    shown = f"{name} (beta {kappa['beta']:.4g})" if kappa.get("beta") is not None else name
    return [
        Cell(shown, name, "name"),
        number_cell(kappa["value"]),
        _interval(kappa["low"], kappa["high"]),
        half_cell(kappa.get("run_half"), kappa.get("run_withheld") or ""),
        half_cell(kappa.get("total_half")),
        number_cell(kappa["null"]),
        gain_cell(kappa),
        Cell(
            sentence(kappa),
            verdict(kappa),
            f"verdict {verdict(kappa) if verdict(kappa) in (HELPS, HURTS) else ''}".strip(),
        ),
    ]


def gain_cell(kappa: dict[str, Any]) -> Cell:
    """Gain over shuffled steps, with its interval."""
    value, low, high = kappa["gain"], kappa.get("gain_low"), kappa.get("gain_high")
    if value is None:
        return number_cell(None)
    signed = functools.partial(PAGE.percent, sign=True)
    return Cell(signed(value), value, more=PAGE.interval(low, high, signed) or "no interval")


def _rank(eps: str, rank: dict[str, Any]) -> list[Cell]:
    known, least = rank.get("estimate"), rank.get("estimate_low")
    return [
        Cell(eps, float(eps), "name"),
        rank_cell(rank),
        count_cell(rank.get("null")),
        Cell(_range(rank, "null"), _key(rank.get("null_low")), "soft"),
        Cell("not identifiable" if known is None else PAGE.count(known), _key(known)),
        Cell(_range(rank, "estimate"), _key(least)),
    ]


def _group(name: str, found: dict[str, Any], study: Study) -> list[Cell]:
    whole, rank = study.document["energy"], next(iter(found["rank"].values()))
    share = found["energy"] / whole if whole else None
    kappa = found["kappa"].get(SHARED) or dict.fromkeys(("value", "low", "high", "null"))
    return [
        Cell(name, name, "name"),
        Cell(PAGE.percent(share), _key(share)),
        number_cell(kappa["value"]),
        _interval(kappa["low"], kappa["high"]),
        number_cell(kappa["null"]),
        rank_cell(rank),
        count_cell(rank.get("null"), _range(rank, "null")),
    ]


def _range(rank: dict[str, Any], name: str) -> str:
    """Range of r* over random orders of the same steps, or of its estimate."""
    return PAGE.interval(rank.get(f"{name}_low"), rank.get(f"{name}_high"), PAGE.count)


def _bound(name: str, study: Study, kind: str, sides: dict[str, str]) -> list[Cell]:
    found = study.document["bounds"][kind][name]
    cells = (number_cell(found[end], _ends(found[f"{end}_low"], found[f"{end}_high"])) for end in sides.values())
    return [Cell(name, name, "name"), *cells]


def _ends(low: float | None, high: float | None) -> str:
    """Show an interval under its value; nothing where the value has no error."""
    return "" if low == high else PAGE.interval(low, high)


def _has_bounds(study: Study) -> bool:
    return any(sides["right"] is not None for sides in study.document["bounds"]["stationarity"].values())


def _inputs(study: Study) -> str:
    given = study.document["bounds"]["inputs"]
    names = {"eta": "η", "first_loss": "F₀", "lowest_loss": "F*", "diameter": "D"}
    return ", ".join(f"{name} = {PAGE.number(given[key])} ({given['sources'][key]})" for key, name in names.items())


def number_cell(value: float | None, more: str = "") -> Cell:
    """Show a number, and what belongs under it."""
    return Cell(PAGE.number(value), _key(value), more=more)


def half_cell(half: float | None, withheld: str = "") -> Cell:
    """Show a half-width, or why there is none."""
    return Cell(PAGE.half(half), _key(half), more=withheld)


def count_cell(value: float | None, more: str = "") -> Cell:
    """Show a whole number, and what belongs under it."""
    return Cell(PAGE.count(value), _key(value), more=more)


def rank_cell(rank: dict[str, Any], more: str = "") -> Cell:
    """Certified range of r*."""
    return Cell(PAGE.rank(rank["low"], rank["high"]), _key(rank["low"]), more=more)


def _interval(low: float | None, high: float | None) -> Cell:
    return Cell(PAGE.of_error(low, high), _key(low), "soft")


def _key(value: float | None) -> float:
    return -math.inf if value is None else float(value)
