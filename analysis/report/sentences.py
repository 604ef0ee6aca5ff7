"""The findings of a run in sentences."""

from __future__ import annotations

from typing import Any

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.measures.interpretation import EPOCH, HELPS, HURTS, NONE, SMALL, verdict
from gradlog.analysis.measures.predictors.registry import is_reference
from gradlog.analysis.report.figures import interval
from gradlog.analysis.report.study import Study
from gradlog.analysis.results.json_document import of_lags


def findings(study: Study) -> list[str]:
    """Sentences that sum a run up, each number with its interval."""
    return [text for text in (_order(study), _best(study), _rank(study), _signal(study)) if text]


def _order(study: Study) -> str:
    found: dict[str, list[str]] = {HELPS: [], NONE: [], SMALL: [], HURTS: [], EPOCH: []}
    for name, kappa in study.document["kappa"].items():
        if not is_reference(name) and verdict(kappa) in found:
            found[verdict(kappa)].append(name)
    said = [
        (found[HELPS], "Temporal order helps {}."),
        (
            found[NONE],
            "It makes no difference to {}: shuffled steps would give the same, within the interval or by chance.",
        ),
        (found[SMALL], "What it does to {} is too small to matter."),
        (found[HURTS], "It hurts {}: shuffled steps would be predicted better."),
        (found[EPOCH], "What it does to {} epochs of few steps would do too, and their length is not known."),
    ]
    told = [text.format(_listed(names)) for names, text in said if names]
    steps = study.document["epochs"]["steps"]
    return " ".join([*told, f"Random order keeps to epochs of {steps:,} steps."] if told and steps else told)


def _best(study: Study) -> str:
    kappas = {n: k for n, k in study.document["kappa"].items() if not is_reference(n) and k["value"] is not None}
    if not kappas:
        return ""
    name, best = min(kappas.items(), key=lambda item: float(item[1]["value"]))
    text = f"{name} leaves the least error: kappa {PAGE.number(best['value'])} ({interval(best['low'], best['high'])})"
    return f"{text}, against {PAGE.number(best['null'])} in random order and 1 for predicting zero."


def _rank(study: Study) -> str:
    eps, rank = next(iter(study.document["rank"].items()))
    if rank["low"] is None:
        return ""
    held = f"{PAGE.percent(1 - float(eps), 0)} of the energy of the logged increments"
    between = "between " if rank["high"] not in (None, rank["low"]) else ""
    span = PAGE.rank(rank["low"], rank["high"]).replace(PAGE.to, " and ")
    text = f"{held} lies in {between}{span} directions, certified"
    if rank.get("null_low") is not None:
        shuffled = PAGE.rank(round(rank["null_low"]), round(rank["null_high"]))
        text += f" ({shuffled} in 9 of 10 random orders of the same steps)"
    if study.run.header.sketch.exact:
        return text + "; the gradients themselves were logged, so that is their rank."
    if rank.get("estimate") is None:
        return text + "; how many directions the gradients themselves need is not identifiable from this sketch."
    ends = PAGE.interval(rank["estimate_low"], rank["estimate_high"], PAGE.count)
    return text + f"; of the gradients themselves an estimated {PAGE.count(rank['estimate'])} ({ends})."


def _signal(study: Study) -> str:
    noise: dict[str, Any] = study.document["noise"]
    if noise["source"] is None:
        return f"Signal and minibatch noise cannot be separated by lags: {noise['withheld']}."
    share = noise["signal_share"]
    if share is None:
        return ""
    shown = f"{PAGE.number(share, 3)} ({interval(noise['signal_share_low'], noise['signal_share_high'])})"
    said = f"a share of {shown} of the mean squared norm is signal, the rest minibatch noise"
    return f"From {noise['source']}{of_lags(study.document)}: {said}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
