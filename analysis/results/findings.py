"""What a result says, in sentences: the findings that the terminal and the report begin with."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from gradlog.analysis.common.text import PAGE, Style, enumerate_some, listed
from gradlog.analysis.events.words import sentence
from gradlog.analysis.measures.gradient_noise import batch_size, beside
from gradlog.analysis.measures.interpretation import EPOCH, HELPS, HURTS, NONE, SMALL, UNKNOWN, verdict
from gradlog.analysis.measures.predictors.registry import in_hindsight, is_reference
from gradlog.analysis.results.forms.json_document import Document, of_lags
from gradlog.analysis.spectrum.rank import saturated

FEW = 0.1
"""Share of the steps: where fewer hold half of the path, a few steps dominate."""

NEARLY_ALL = 0.9
"""Share of the energy that is one group's, or of the steps that were clipped, which decides the numbers of all."""

STABLE = 0.5
"""Share of the edge of stability below which the curvature is said to stay."""

WINDOW = 100
"""Rows of the windows that advice speaks of; a run too short for two of them is not given it."""

GUIDE = "docs/what-next.md"
"""Page that says of each finding what it can mean and what not, under the finding's heading."""


class Finding(NamedTuple):
    """A sentence or two about a run.

    Attributes
    ----------
    text, next_step, heading : str
        What was found, what to do next in a phrase, and the heading of the guide about it.
    figure : str
        Name of the figure of a report that shows it.
    first : bool
        Whether all others are to be read in its light, so that it comes before them.
    lost : bool
        Whether the gradient was lost (NaN or inf) in a step that was not skipped, which comes before everything.
    """

    text: str
    next_step: str = ""
    heading: str = ""
    figure: str = ""
    first: bool = False
    lost: bool = False


def findings(document: Document, style: Style = PAGE) -> list[Finding]:
    """Sum a result up in order of importance.

    Parameters
    ----------
    document : mapping
        ``to_json(result)``.
    style : Style
        How numbers look.

    Returns
    -------
    list of Finding
        What all others are to be read in the light of: NaN, what dominates, clipping, events. Then whether
        the next gradient is predictable, what neighbouring gradients have in common, the rank, the signal, and what
        dominates the path.
    """
    parts = (
        _energy, _clipped, _predictable, _neighbours, _by_group, _rank, _signal, _batch, _turns, _steps, _events,
        _group, _update,
    )  # fmt: skip
    found = [finding for part in parts if (finding := part(document, style))]
    found.sort(key=lambda finding: (not finding.first, not finding.lost))
    short = document["rows"] < 2 * WINDOW
    return [x._replace(next_step="", heading="") if short and "--window" in x.next_step else x for x in found]


def dominant(document: Document) -> tuple[str, float] | None:
    """Name the group that holds over 90 % of the energy, and its share; None where none does, or groups are unknown."""
    energies = {name: group["energy"] for name, group in document["by_group"].items()}
    if len(energies) < 2 or not document["energy"]:
        return None
    name = max(energies, key=lambda name: float(energies[name]))
    share = energies[name] / document["energy"]
    return (name, share) if share > NEARLY_ALL else None


def _energy(document: Document, style: Style) -> Finding | None:
    """Name a group whose gradients are nearly all that the numbers of the whole run speak of."""
    found = dominant(document)
    if found is None:
        return None
    name, share = found
    text = f"One group is nearly all of the gradient: {name} holds {style.percent(share)} of the energy. "
    text += "The numbers of the whole run speak of it; for the others see each group's own."
    advice = 'compare the groups\' own kappas, and record the updates beside them: what=("gradient", "update")'
    return Finding(text, advice, "One group dominates", "heat_map", first=True)


def _clipped(document: Document, style: Style) -> Finding | None:
    """Say that nearly every step was clipped, and what that does to the gradients that were recorded."""
    share = document.get("clipping", {}).get("share")
    if share is None or share < NEARLY_ALL:
        return None
    text = f"Nearly every step was clipped: {style.percent(share, 0)} of those that logged it, by "
    text += f"{style.number(document['clipping']['factor'], 2)} on average. "
    text += (
        "The recorded gradients are those before clipping, the optimizer got others."
        if document["run"]["stage"] == "preclip"
        else "The recorded gradients were cut to about one length: their norms say little, and every step weighs alike."
    )
    return Finding(text, "read clip_norm, the norm before clipping", "Nearly every step was clipped", "norm", True)


def _by_group(document: Document, style: Style) -> Finding | None:
    """Give the verdict on ``last`` group by group where one group decides that of the whole run."""
    if dominant(document) is None:
        return None
    said: dict[str, list[str]] = {}
    for name, group in document["by_group"].items():
        said.setdefault(verdict(group["kappa"].get("last", {})), []).append(name)
    order = (HELPS, HURTS, EPOCH, SMALL, NONE)
    told = [f"{word}: {enumerate_some(said[word], 4)}" for word in order if word in said]
    return Finding(f"Order effect on last, group by group: {'; '.join(told)}.", figure="heat_map") if told else None


def _predictable(document: Document, style: Style) -> Finding | None:
    """Say how much the best predictor explains, beside shuffled steps, and what order does to each predictor."""
    kappas = {n: k for n, k in document["kappa"].items() if not is_reference(n) and k["value"] is not None}
    if not kappas:
        return None
    name, best = min(kappas.items(), key=lambda item: float(item[1]["value"]))
    fitted = ", fitted afterwards," if in_hindsight(name) else ""
    known = style.of_error(best["low"], best["high"], lambda end: style.number(end, 3))
    text = f"{_answer(best, style)}: {name}{fitted} has the least error, kappa {style.number(best['value'], 3)}"
    text += f" ({known}), shuffled {style.number(best['null'], 3)}. " + _effects(kappas, document["epochs"]["steps"])
    words = {verdict(kappa) for kappa in kappas.values()}
    if verdict(best) == EPOCH:
        epochs = "say how long an epoch is: --steps-per-epoch N, 0 if every batch is drawn anew"
        advice = (epochs, 'The verdict is "epoch unknown"')
    elif words & {HELPS, HURTS, EPOCH, UNKNOWN}:
        advice = ("", "")
    else:
        advice = (f"look at parts of the run: --window {WINDOW} --by-group", "Kappa lies near its shuffled value")
    return Finding(text, *advice, "kappas")


def _answer(best: Document, style: Style) -> str:
    said, share, shuffled = verdict(best), 1 - best["value"], 1 - (best["null"] or 1.0)
    digits = 0 if share > 0.1 else 1
    predictable = f"{style.percent(share, digits)} of the gradients' squared norm is predictable"
    predictable += f", {style.percent(max(shuffled, 0.0), digits)} if shuffled"
    if share > 0 and said in (HELPS, EPOCH):
        return predictable if said == HELPS else f"{predictable}, provided that epochs are long"
    return {
        HELPS: "The gradients are more predictable than if shuffled, but predicting zero errs less",
        HURTS: "The gradients are less predictable than if shuffled",
        NONE: "The gradients are as predictable as if shuffled",
        SMALL: "The gradients are nearly as predictable as if shuffled",
        EPOCH: "Whether the gradients are predictable depends on how long an epoch is",
    }.get(said, "Whether the gradients are predictable cannot be judged")


def _effects(kappas: Document, steps_per_epoch: int | None) -> str:
    """Say what the order of the steps does to each predictor, in the words of the tables."""
    said = {verdict(kappa) for kappa in kappas.values()}
    if len(said) == 1 and len(kappas) > 1 and UNKNOWN not in said:
        return f"Order effect on all {len(kappas)} predictors: {said.pop()}."
    told = []
    for word, after in ((HELPS, " "), (HURTS, " "), (EPOCH, ": "), (SMALL, ": "), (NONE, ": ")):
        names = [name for name, kappa in kappas.items() if verdict(kappa) == word]
        told += [f"{word}{after}{listed(names)}"] if names else []
    if not told:
        return "Order effect: no predictor can be judged."
    kept = f" Shuffled steps stay in their epochs of {steps_per_epoch:,} steps." if steps_per_epoch else ""
    return f"Order effect: {'; '.join(told)}.{kept}"


def _neighbours(document: Document, style: Style) -> Finding | None:
    """Say what it means that order helps or hurts ``last``."""
    said = verdict(document["kappa"].get("last", {}))
    if said == HURTS:
        next_to = document["lag_coherence"].get("1", {})
        opposed = next_to.get("high") is not None and next_to["high"] < 0
        alike = "oppose each other" if opposed else "are less alike than those of random steps"
        measured = f": coherence {style.fixed(next_to['value'], 2, sign=True)} at lag 1" if opposed else ""
        advice = "train once more with half the learning rate, and compare"
        return Finding(f"Successive gradients {alike}{measured}.", advice, "`last` hurts", "kappa_over_time")
    if said != HELPS:
        return None
    advice = "" if document["epochs"]["steps"] else "rule out the order of the data: --steps-per-epoch N"
    text = "Successive gradients are more alike than those of random steps."
    return Finding(text, advice, "`last` helps", "kappa_over_time")


def _rank(document: Document, style: Style) -> Finding | None:
    """Compare the certified rank at the first eps with that of shuffled steps, and give the estimate."""
    run, (eps, rank) = document["run"], next(iter(document["rank"].items()))
    if rank["low"] is None:
        return None
    exact = run["kind"] == "exact/1"
    head, advice, heading = _beside_shuffled(rank, None if exact else run["k"] * len(run["groups"]))
    hold = "holds" if rank["high"] == 1 else "hold"
    text = f"{head}: {style.rank(rank['low'], rank['high'])} {hold} {style.percent(1 - float(eps), 0)} of the energy"
    if rank.get("null_low") is not None:
        text += f", {style.rank(round(rank['null_low']), round(rank['null_high']))} if shuffled"
    if not exact and rank.get("estimate") is None:
        text += "; the true rank is not identifiable"
    elif not exact:
        ends = style.interval(rank["estimate_low"], rank["estimate_high"], style.count)
        text += f"; estimated true rank {style.count(rank['estimate'])} ({ends})"
    return Finding(f"{text}.", advice, heading, "tail")


def _beside_shuffled(rank: Document, ceiling: int | None) -> tuple[str, str, str]:
    """Compare the certified rank with the range of 9 in 10 random orders; what to do next, and heading."""
    low, high, least, most = (rank.get(end) for end in ("low", "high", "null_low", "null_high"))
    if ceiling is not None and high is not None and saturated(high, ceiling):
        heading = 'The estimate of the rank is "not identifiable"'
        return "The rank is too near the sketch's limit to be known", "record again with a larger k", heading
    if low is None or least is None or most is None:
        return "Directions of the changes between steps", "", ""
    if high is not None and high < least:
        advice = f"see in which groups, and when: --by-group --window {WINDOW}"
        return (
            "Changes between steps keep to fewer directions than if shuffled",
            advice,
            "The rank lies far below shuffled",
        )
    if low > most:
        advice = "read the estimated true rank instead of the comparison"
        return "Changes between steps fill more directions than if shuffled", advice, "The rank lies far above shuffled"
    return "Changes between steps fill as many directions as if shuffled", "", ""


def _signal(document: Document, style: Style) -> Finding | None:
    noise = document["noise"]
    if noise["source"] is None:
        return Finding(f"Signal against minibatch noise: unknown ({noise['withheld']}).")
    if noise["signal_share"] is None:
        return None
    low, high = noise["signal_share_low"], noise["signal_share_high"]
    ends = "" if low == high else f" ({style.interval(low, high, style.percent)})"
    text = f"{style.percent(noise['signal_share'])}{ends} of the mean squared norm is signal, not minibatch noise"
    text += f"; from {noise['source']}{of_lags(document)}."
    advice = f"see how the noise scale grows: --window {WINDOW}"
    return Finding(text, advice, "The share of the signal is low", "noise_scale")


def _batch(document: Document, style: Style) -> Finding | None:
    """Say what a larger batch would save, where two gradients at one theta tell, and for which groups it is otherwise.

    A batch with the signal share s needs 1 / s times the steps of an endless one, twice that batch (1 + s) / 2s: the
    share (1 - s) / 2 is saved.
    """
    noise = document["noise"]
    batch = batch_size(noise)
    if noise["source"] in (None, "lags") or not math.isfinite(batch):
        return None
    side, size = beside(batch, noise), functools.partial(style.number, digits=3)
    shares = [noise[f"signal_share{end}"] for end in ("", "_high", "_low")]
    if None in shares:  # too few steps for an interval
        return None
    saved, least, most = (style.percent((1 - share) / 2, 0) for share in shares)
    ends = style.interval(noise["noise_scale_low"], noise["noise_scale_high"], size)
    scale = f"{size(noise['noise_scale'])} ({ends})" if noise["noise_scale"] is not None else ends
    text = (
        f"The batch of {style.count(batch)} lies {side or 'at'} the noise scale, {scale}: twice the batch would need "
    )
    text += f"{saved} ({least}{style.to}{most}) fewer steps of plain gradient descent."
    others = batch_by_group(document, batch)
    told = [f"{word} that of {enumerate_some(names, 4)}" for word, names in others.items() if word and word != side]
    return Finding(f"{text} It lies {' and '.join(told)}." if told else text, figure="noise_scale")


def batch_by_group(document: Document, batch: float) -> dict[str, list[str]]:
    """Names of the groups whose noise scale the batch size surely lies below, above, and neither ("")."""
    found: dict[str, list[str]] = {"below": [], "above": [], "": []}
    for name, group in document["by_group"].items():
        found[beside(batch, group["noise"])].append(name)
    return {word: names for word, names in found.items() if names}


def _turns(document: Document, style: Style) -> Finding | None:
    """Say at which steps the direction turned, where directions are known."""
    turns = document.get("directions", {}).get("turns")
    if turns is None or turns["usual"] is None:
        return None
    each = zip(turns["step"], turns["cosine"], strict=True)
    told = enumerate_some([f"{step:,} (cosine {style.fixed(cosine, 2, sign=True)})" for step, cosine in each], 4)
    usual = f"the mean gradients before and after a step have cosine {style.fixed(turns['usual'], 2, sign=True)}"
    if told:
        return Finding(f"Training turned at step {told}; elsewhere {usual}.", figure="direction_map")
    return Finding(f"Training turned at no single step: {usual}.", figure="direction_map")


def _steps(document: Document, style: Style) -> Finding | None:
    """Say whether a few steps hold half of the path, and whether they are the first ones."""
    half, rows = document["path_shares"]["half_steps"], document["rows"]
    if not half:
        return None
    largest = document["path_shares"]["steps"][: min(half, 3)]
    holds = f"{half:,} of {rows:,} hold half of the squared error of last"
    if half > FEW * rows:
        return Finding(f"{_none(document, style)}: {holds}.", figure="norm")
    most = listed([f"{s['step']:,} ({style.percent(s['share'])})" for s in largest])
    heading = "One step, or a few, hold most of the path"
    first, last = document["run"]["first_step"], document["run"]["last_step"]
    if max(s["step"] for s in largest) <= first + FEW * (last - first):
        advice = f"leave the beginning out, and compare: --burn-in {round(FEW * rows)}"
        return Finding(f"The first steps dominate: {holds}, most of all {most}.", advice, heading, "norm", True)
    advice = f"gradlog events, and gradlog info --step {largest[0]['step']}, show what happened there"
    return Finding(f"A few steps dominate: {holds}, most of all {most}.", advice, heading, "norm", True)


def _events(document: Document, style: Style) -> Finding | None:
    """Say what left its usual range, and where to look where it is like something known."""
    events = document.get("events")
    if not events or not events["count"]:
        return None
    text = sentence(events, style)
    known = [e for e in events["events"] if e["kind"]]
    if not known:
        return Finding(text, figure="events", first=True)
    step = max(known, key=lambda e: math.inf if e["score"] is None else e["score"])["peak_step"]
    advice = f"gradlog events, and gradlog info --step {step}, show what happened there"
    lost = any(e["kind"] == "non-finite" and e["skipped"] <= e["last_step"] - e["first_step"] for e in known)
    return Finding(text, advice, "Something odd happened", "events", first=True, lost=lost)


def _update(document: Document, style: Style) -> Finding | None:
    """Say where the updates point, and that they are stable, where the curvature at most makes that certain."""
    update = document.get("update")
    if update is None or update["cosine"]["value"] is None:
        return None
    text = f"Updates have cosine {style.fixed(update['cosine']['value'], 2, sign=True)} with the negative gradient"
    if update["previous"]["value"] is not None:
        text += f" and {style.fixed(update['previous']['value'], 2, sign=True)} with the update before"
    most, edge = update["curvature"]["high"], update["edge"]["value"]
    if most is not None and edge is not None and 0 < most < STABLE * edge:
        text += f"; along them the loss curves at most {style.percent(most / edge)} as much, on average, as at the edge"
        text += " of stability"
    return Finding(f"{text}.", figure="curvature")


def _none(document: Document, style: Style) -> str:
    """Say that no few steps dominate, and that no step left its usual range, where most could be judged."""
    events = document.get("events")
    if not events or events["count"]:
        return "Many steps contribute"
    judged = document["run"]["steps"] - events["unwatched"]
    if judged > events["unwatched"]:
        return "No step stands out"
    return "Many steps contribute" + (f", and no event is among the last {style.count(judged)}" if judged > 0 else "")


def _group(document: Document, style: Style) -> Finding | None:
    """Name the group that holds more than half of the path, where that is more than twice an equal share."""
    shares = {g: x["last"] for g, x in document["path_shares"]["by_group"].items() if x.get("last") is not None}
    if not shares:
        return None
    name, share = max(shares.items(), key=lambda item: item[1])
    whole = dominant(document)
    if share <= max(0.5, 2 / len(shares)) or (whole and whole[0] == name):
        return None
    text = f"One group dominates: {name} holds {style.percent(share, 0)} of the squared error of last."
    return Finding(text, "compare the groups' own kappas: --by-group", "One group dominates", "heat_map")
