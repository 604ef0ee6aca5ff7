"""What the order of the steps does to a predictor, in a word and in a sentence: one vocabulary for every output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HELPS, HURTS, NONE, SMALL, UNKNOWN = "helps", "hurts", "no difference", "too small to matter", "-"
EPOCH = "epoch unknown"

NEGLIGIBLE = 0.02
"""Correlation between gradient and prediction, beyond that of shuffled steps, that is too small to matter."""

ERRS = 20
"""Without any order, one verdict in so many says helps or hurts all the same."""


def verdict(kappa: Mapping[str, float | None]) -> str:
    """Say what the order of the steps does to a predictor.

    Parameters
    ----------
    kappa : mapping
        An entry of ``to_json(result)["kappa"]``: gain, gain_low, gain_high, gain_chance, gain_floor. The gain's
        interval counts, not kappa's: the baseline comes from the same sketch and errs with it.

    Returns
    -------
    {"helps", "hurts", "no difference", "too small to matter", "epoch unknown", "-"}
        *helps*, *hurts*: the predictor does better, or worse, than on the same gradients in random order. *No
        difference*: the gain's interval holds 0, or random orders differ by as much. *Too small to matter*: the gain
        is below the floor, which a correlation of ``NEGLIGIBLE`` between gradients and predictions would give.
        *Epoch unknown*: minibatches drawn without replacement could show as much (``gain_epochs``), and nothing says
        how long an epoch is. *-*: no baseline or no interval to judge by.

    Examples
    --------
    >>> verdict({"gain": 0.05, "gain_low": -0.02, "gain_high": 0.12})
    'no difference'
    >>> verdict({"gain": 0.05, "gain_low": 0.04, "gain_high": 0.06, "gain_chance": 0.08})
    'no difference'
    >>> verdict({"gain": 0.01, "gain_low": 0.009, "gain_high": 0.011, "gain_floor": 0.02})
    'too small to matter'
    >>> verdict({"gain": -0.1, "gain_low": -0.12, "gain_high": -0.08, "gain_epochs": -0.25})
    'epoch unknown'
    """
    gain, low, high = (kappa.get(f"gain{end}") for end in ("", "_low", "_high"))
    if gain is None or low is None or high is None:
        return UNKNOWN
    if low <= 0 <= high or abs(gain) < (kappa.get("gain_chance") or 0.0):
        return NONE
    floor = kappa.get("gain_floor")
    if abs(gain) < (NEGLIGIBLE if floor is None else floor):
        return SMALL
    epochs = kappa.get("gain_epochs")
    surely = min(abs(low), abs(high)) - (kappa.get("gain_chance") or 0.0)
    if epochs and gain * epochs > 0 and surely <= abs(epochs):
        return EPOCH
    return HELPS if gain > 0 else HURTS


SENTENCES = {
    HELPS: "temporal order helps this predictor",
    HURTS: "temporal order hurts this predictor",
    NONE: "temporal order makes no difference to this predictor",
    SMALL: "what temporal order does to this predictor is too small to matter",
    EPOCH: "epochs of few steps, if the data come in such, would do the same to this predictor",
    UNKNOWN: "no shuffled value or interval to judge by",
}


def sentence(kappa: Mapping[str, float | None]) -> str:
    """Put the verdict into half a sentence.

    >>> sentence({"gain": 0.75, "gain_low": 0.7, "gain_high": 0.8})
    'temporal order helps this predictor'
    """
    return SENTENCES[verdict(kappa)]


def looked_at(words: Iterable[str]) -> int:
    """Count the verdicts among words.

    >>> looked_at(["helps", "-", "no difference"])
    2
    """
    return sum(word in (HELPS, HURTS, NONE, SMALL, EPOCH) for word in words)


def caution(count: int) -> str:
    """Say how many verdicts were looked at, and how often one errs.

    >>> caution(6)
    '6 verdicts: without any order, about 1 in 20 says helps or hurts all the same.'
    """
    return f"{count:,} verdicts: without any order, about 1 in {ERRS} says {HELPS} or {HURTS} all the same."
