"""Tables of a report. Every number comes with its interval."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.comparison.replicates import Replicates
from gradlog.analysis.events import words
from gradlog.analysis.events.events import Event
from gradlog.analysis.measures.interpretation import NEGLIGIBLE, caution, looked_at, verdict
from gradlog.analysis.measures.predictors.registry import fitted_in_hindsight, is_reference, without_reference
from gradlog.analysis.report.cells import (
    Cell,
    Column,
    Table,
    count_cell,
    gain_cell,
    half_cell,
    interval_cell,
    key_of,
    name_cell,
    number_cell,
    range_of,
    rank_cell,
    run_column,
    verdict_cell,
)  # fmt: skip
from gradlog.analysis.report.study import SHARED, Study
from gradlog.analysis.results.forms.json_document import Document
from gradlog.analysis.results.known_trainings import CAVEAT, nearest, of_run
from gradlog.analysis.results.known_trainings import EPS as KNOWN_EPS

MOST_GROUPS = 200


def overview(studies: Sequence[Study]) -> Table:
    """Show steps, kappa, gain and rank of each run."""
    eps = next(iter(studies[0].document["rank"]))
    columns: list[Column] = [
        ("run", lambda s: name_cell(s.label)),
        ("steps", lambda s: count_cell(s.run.info["steps"], s.run.info["status"])),
        ("largest event", _largest_event),
        ("most energy", _most_energy),
    ]
    for p in without_reference(studies[0].document["kappa"])[:2]:
        columns.append((f"kappa, {p}", lambda s, p=p: _with_interval(s.document["kappa"][p])))
        columns.append(("gain", lambda s, p=p: gain_cell(s.document["kappa"][p])))
    columns.append((f"rank at {eps}", lambda s: _beside_shuffled(s.document["rank"][eps])))
    columns.append(("warnings", lambda s: count_cell(len(json.loads(s.result.attrs["warnings"])))))
    note = (
        "A heading sorts. kappa: squared prediction error over energy, with its sketch 95 % interval; gain: "
        "against the same steps in random order. Most energy: the group with the largest share. Largest event: of all, "
        "with the first group to leave its range. Rank: certified, of the logged increments; small: of shuffled steps."
    )
    return Table.of("One row per run", columns, [(s,) for s in studies], note)


def _most_energy(study: Study) -> Cell:
    """Show the group with the largest share of the energy."""
    groups = study.document["by_group"]
    name = max(groups, key=lambda name: float(groups[name]["energy"]), default=None)
    if name is None or len(groups) < 2:
        return Cell(PAGE.none, -1.0)
    share = _share(groups[name]["energy"], study.document["energy"])
    return dataclasses.replace(share, more=name)


def _largest_event(study: Study) -> Cell:
    """Show when the largest event began, and the group that left first in it."""
    if not study.events.found:
        return Cell("none" if study.events.steps > study.events.unwatched else PAGE.none, -1)
    largest = max(study.events.found, key=lambda event: event.score)
    return Cell(words.steps(largest), largest.first_step, more=largest.groups[0].series if largest.groups else "")


def _with_interval(kappa: Document) -> Cell:
    return number_cell(
        kappa["value"], "no interval" if kappa["low"] is None else PAGE.of_error(kappa["low"], kappa["high"])
    )


def _beside_shuffled(rank: Document) -> Cell:
    orders = range_of(rank, "null")
    return rank_cell(rank, orders and f"shuffled {orders}")


def kappa_table(studies: Sequence[Study]) -> Table:
    """Kappa with interval, baseline, gain, and the verdict in words."""
    entries = [(s, n, k) for s in studies for n, k in s.document["kappa"].items() if not is_reference(n)]
    columns: list[Column] = [
        *run_column(studies),
        ("predictor", lambda s, n, k: _fitted(n, k)),
        ("kappa", lambda s, n, k: number_cell(k["value"])),
        ("order effect", lambda s, n, k: verdict_cell(k)),
        ("sketch 95 %", lambda s, n, k: interval_cell(k["low"], k["high"])),
        ("within the run", lambda s, n, k: half_cell(k.get("run_half"), k.get("run_withheld") or "")),
        ("both", lambda s, n, k: half_cell(k.get("total_half"))),
        ("shuffled", lambda s, n, k: number_cell(k["null"])),
        ("gain", lambda s, n, k: gain_cell(k)),
    ]
    note = (
        "kappa = sum of squared prediction errors over sum of squared gradient norms; predicting zero gives 1. "
        "shuffled: what the same gradients would show in random order. gain = 1 − kappa / shuffled. sketch 95 %: the "
        "sketch's error; within the run: how far kappa fluctuates, from blocks of the run's own steps; both: the two "
        f"together. Another seed or a longer run may differ by more; {fitted_in_hindsight()} are fitted in hindsight. "
        "Order hurts a predictor that would do better on shuffled steps, and makes no difference where the gain's "
        "interval holds 0 or one random order in twenty would show as much; too small to matter is what a correlation "
        f"of {PAGE.percent(NEGLIGIBLE, 0)} between gradients and predictions would give. "
        f"{caution(looked_at(verdict(k) for _, _, k in entries))}"
    )
    return Table.of("Kappa", columns, entries, note)


def usual_table(studies: Sequence[Study]) -> Table:
    """Figures of the runs above those of known trainings, the nearest to the first run first."""
    own = [(of_run(s.document)._replace(name=s.label), "") for s in studies]
    columns: list[Column] = [
        ("training", lambda t, said: name_cell(t.name)),
        ("optimizer", lambda t, said: name_cell(t.optimizer or PAGE.none)),
        ("parameters", lambda t, said: count_cell(t.parameters)),
        ("steps", lambda t, said: count_cell(t.steps)),
        ("batch", lambda t, said: count_cell(t.batch)),
        *((f"kappa, {p}", lambda t, said, p=p: number_cell(t.kappa[p])) for p in own[0][0].kappa),
        (f"rank at {KNOWN_EPS}", lambda t, said: count_cell(t.rank, f"shuffled {PAGE.count(t.shuffled)}")),
        ("lag 1", lambda t, said: Cell(PAGE.fixed(t.coherence, 2, True), key_of(t.coherence))),
        ("signal", lambda t, said: Cell(PAGE.percent(t.signal), key_of(t.signal))),
        ("in common", lambda t, said: name_cell(said)),
    ]
    note = (
        f"{CAVEAT} In common, with the first run here: the kind of optimizer; a size within ten times; a number of "
        "steps within twice. Lag 1: coherence of neighbouring gradients. Rank: of the logged matrix."
    )
    return Table.of("Is this usual? Known trainings", columns, [*own, *nearest(studies[0].document)], note, True)


def _fitted(name: str, kappa: Document) -> Cell:
    return name_cell(f"{name} (beta {kappa['beta']:.4g})" if kappa.get("beta") is not None else name, name)


def event_table(studies: Sequence[Study]) -> Table | None:
    """Events of all runs, with what is known of each; None without any."""
    entries = [(s, e) for s in studies for e in s.events.found]
    columns: list[Column] = [
        *run_column(studies),
        ("when", lambda s, e: name_cell(words.steps(e), e.first_step)),
        ("like", lambda s, e: name_cell(words.KINDS[e.kind].partition(":")[0], e.kind)),
        ("left first", lambda s, e: name_cell(words.told(e.first, PAGE), e.score)),
        ("first group", lambda s, e: _first_group(e)),
        ("largest share", lambda s, e: _largest_share(e)),
        ("cosine", lambda s, e: _cosine(e.direction.mean)),
    ]
    note = (
        "A series leaves its band where it rises far above the running median of the 64 steps before: times that "
        "median, and in usual deviations. Largest share: of what the squared norm has above its median. Cosine: of "
        "the gradient with the mean of those before. What an event is like is a description, not a proof of its cause."
    )
    return Table.of("Events", columns, entries, note) if entries else None


def _first_group(event: Event) -> Cell:
    told = words.told(event.groups[0], PAGE) if event.groups else PAGE.none
    return Cell(told, told, "name", words.lead(event))


def _largest_share(event: Event) -> Cell:
    shown = words.shares(event, PAGE)
    return Cell(shown[0] if shown else PAGE.none, max(event.shares.values(), default=0.0))


def _cosine(ends: tuple[float, float, float]) -> Cell:
    value, low, high = ends
    if math.isnan(value):
        return Cell(PAGE.none, value)
    return Cell(PAGE.fixed(value, 2, True), value, more=PAGE.interval(low, high, lambda x: PAGE.fixed(x, 2, True)))


def rank_table(studies: Sequence[Study]) -> Table:
    """r*(eps) of the logged matrix, of shuffled steps, and of the gradients themselves."""
    columns: list[Column] = [
        *run_column(studies),
        ("eps", lambda s, e, r: name_cell(e, float(e))),
        ("logged rank", lambda s, e, r: rank_cell(r)),
        ("shuffled", lambda s, e, r: count_cell(r.get("null"))),
        ("9 in 10 orders", lambda s, e, r: Cell(range_of(r, "null"), key_of(r.get("null_low")), "soft")),
        ("estimated true rank", lambda s, e, r: _estimate(r.get("estimate"))),
        ("range", lambda s, e, r: Cell(range_of(r, "estimate"), key_of(r.get("estimate_low")))),
    ]
    note = (
        "r*(eps) directions leave at most eps of the increments' energy. The certified range is of the matrix that was "
        "logged; a sketch of k coordinates cannot show more than k directions per group. Shuffled: the mean over "
        "random orders of the same steps, with the range of 9 in 10 orders. The estimate undoes the sketch's effect, "
        "its range is the spread over parts of the sketch and the usual error; where parts disagree it is withheld. Of "
        "the ranges given for gradients that are known, 98 in 100 or more held the rank."
    )
    entries = [(s, e, r) for s in studies for e, r in s.document["rank"].items()]
    return Table.of("Rank of the increments", columns, entries, note)


def _estimate(known: float | None) -> Cell:
    return Cell("not identifiable" if known is None else PAGE.count(known), key_of(known))


def group_table(studies: Sequence[Study]) -> Table | None:
    """Energy, kappa and rank of each parameter group."""
    several = [s for s in studies if len(s.document["by_group"]) > 1]
    if not several:
        return None
    eps = next(iter(studies[0].document["rank"]))
    columns: list[Column] = [
        *run_column(studies),
        ("group", lambda s, n, g: name_cell(n)),
        ("share of energy", lambda s, n, g: _share(g["energy"], s.document["energy"])),
        (f"order effect on {SHARED}", lambda s, n, g: verdict_cell(g["kappa"].get(SHARED, {}))),
        (f"kappa, {SHARED}", lambda s, n, g: number_cell(_shared(g)["value"])),
        ("sketch 95 %", lambda s, n, g: interval_cell(_shared(g)["low"], _shared(g)["high"])),
        ("shuffled", lambda s, n, g: number_cell(_shared(g)["null"])),
        (f"rank at {eps}, certified", lambda s, n, g: rank_cell(_first_rank(g))),
        ("shuffled rank", lambda s, n, g: count_cell(_first_rank(g).get("null"), range_of(_first_rank(g), "null"))),
    ]
    note = "Shares of energy are exact unless the run was recorded by several ranks."
    if any(len(s.document["by_group"]) > MOST_GROUPS for s in studies):
        note += f" Only the {MOST_GROUPS} groups of a run with the largest energy are listed."
    entries = [(s, n, g) for s in several for n, g in _largest(s.document["by_group"])]
    return Table.of("Parameter groups", columns, entries, note, detail=True)


def _largest(groups: Document) -> list[tuple[str, Document]]:
    """Select the groups with the largest energy, at most 200, in their own order."""
    least = sorted((g["energy"] for g in groups.values()), reverse=True)[:MOST_GROUPS][-1]
    return [(name, g) for name, g in groups.items() if g["energy"] >= least][:MOST_GROUPS]


def _share(energy: float, whole: float) -> Cell:
    share = energy / whole if whole else None
    return Cell(PAGE.percent(share), key_of(share))


def _shared(group: Document) -> Document:
    return group["kappa"].get(SHARED) or dict.fromkeys(("value", "low", "high", "null"))


def _first_rank(group: Document) -> Document:
    found: Document = next(iter(group["rank"].values()))
    return found


def stationarity_table(studies: Sequence[Study]) -> Table | None:
    """Both sides of the bound on the mean squared norm, the left one with and without minibatch noise."""
    sides = {
        "mean norm²": "left", "its bound": "right", "ratio": "ratio", "noise-free norm²": "left_noise_free",
        "its ratio": "ratio_noise_free",
    }  # fmt: skip
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
    if not known:
        return None
    columns: list[Column] = [*run_column(studies), ("predictor", lambda s, n, b: name_cell(n))]
    columns += [(name, lambda s, n, b, end=end: _side(b, end)) for name, end in sides.items()]
    inputs = "; ".join(f"{s.label}: {_inputs(s)}" if len(studies) > 1 else _inputs(s) for s in known)
    whose = " ".join(dict.fromkeys(str(s.document["bounds"]["about"]) for s in known))
    note = (
        f"{note} Intervals follow that of the path length P and cover the sketch's error only; where both sides have "
        f"one, the ratio takes the worst of both. Inputs: {inputs}. {whose}"
    )
    entries = [(s, n, s.document["bounds"][kind][n]) for s in known for n in s.document["kappa"]]
    return Table.of(title, columns, entries, note)


def _side(bound: Document, end: str) -> Cell:
    """Show a side with its interval under it, where it has an error."""
    low, high = bound[f"{end}_low"], bound[f"{end}_high"]
    return number_cell(bound[end], "" if low == high else PAGE.interval(low, high))


def _has_bounds(study: Study) -> bool:
    return any(sides["right"] is not None for sides in study.document["bounds"]["stationarity"].values())


def _inputs(study: Study) -> str:
    given = study.document["bounds"]["inputs"]
    names = {"eta": "η", "first_loss": "F₀", "lowest_loss": "F*", "diameter": "D"}
    return ", ".join(f"{name} = {PAGE.number(given[key])} ({given['sources'][key]})" for key, name in names.items())


def configuration_table(found: Replicates | None) -> Table | None:
    """Mean, spread between runs and interval of each configuration and predictor."""
    if found is None:
        return None
    columns: list[Column] = [
        ("configuration", lambda c, p, m: name_cell(c.label)),
        ("predictor", lambda c, p, m: name_cell(p)),
        ("runs", lambda c, p, m: count_cell(m.n)),
        ("mean kappa", lambda c, p, m: number_cell(m.value)),
        ("sd between runs", lambda c, p, m: number_cell(m.sd if m.n > 1 else None)),
        ("95 % interval of the mean", lambda c, p, m: Cell(PAGE.interval(m.low, m.high) or "none", m.value, "soft")),
    ]
    entries = [(c, p, m) for c in found.configurations for p, m in c.kappa.items()]
    return Table.of("Configurations", columns, entries, " ".join(found.warnings), detail=True)


def difference_table(found: Replicates | None) -> Table | None:
    """Differences of every two configurations, p values adjusted for their number."""
    if found is None or not found.differences:
        return None
    columns: list[Column] = [
        ("difference", lambda d: name_cell(f"{d.first} − {d.second}")),
        ("predictor", lambda d: name_cell(d.predictor)),
        ("of mean kappa", lambda d: number_cell(d.value)),
        ("95 % interval", lambda d: Cell(PAGE.interval(d.low, d.high), d.low, "soft")),
        ("seeds", lambda d: Cell(f"{d.seeds} paired" if d.seeds else "not paired", d.seeds)),
        ("p", lambda d: Cell("< 0.001" if d.p < 0.001 else f"{d.p:.3f}", d.p)),
    ]
    note = (
        f"{len(found.differences)} differences; p is adjusted for all of them (Holm). Over the seeds that two "
        "configurations share the interval is a paired one; where they share none it is Welch's."
    )
    return Table.of("Differences", columns, [(d,) for d in found.differences], note, detail=True)
