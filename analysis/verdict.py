"""What a kappa says about the order of the steps, in a word and in a sentence."""

from __future__ import annotations

from typing import Any

NEGLIGIBLE = 0.02
"""A gain smaller than this is called noise, however narrow the interval of the sketch."""


def verdict(kappa: dict[str, Any]) -> str:
    """One word on the order of the steps.

    Parameters
    ----------
    kappa : dict
        An entry of ``to_json(result)["kappa"]``: gain, gain_low, gain_high, gain_chance. The gain's interval counts,
        not kappa's: the baseline comes from the same sketch and errs with it.

    Returns
    -------
    {"smoother", "rougher", "noise", "-"}
        Better or worse than the same gradients in random order; not told apart from it, to ``NEGLIGIBLE``, within the
        interval of the gain or within what random orders differ by; no baseline or no interval to judge by.

    Examples
    --------
    >>> verdict({"gain": 0.05, "gain_low": -0.02, "gain_high": 0.12})
    'noise'
    >>> verdict({"gain": 0.05, "gain_low": 0.04, "gain_high": 0.06, "gain_chance": 0.08})
    'noise'
    """
    gain, low, high = (kappa.get(f"gain{end}") for end in ("", "_low", "_high"))
    if gain is None or low is None or high is None:
        return "-"
    if low <= 0 <= high or abs(gain) < max(NEGLIGIBLE, kappa.get("gain_chance") or 0.0):
        return "noise"
    return "smoother" if gain > 0 else "rougher"


SENTENCES = {
    "smoother": "temporal order helps this predictor",
    "rougher": "temporal order hurts this predictor",
    "noise": "temporal order does not help this predictor",
    "-": "no baseline or interval to judge by",
}


def sentence(kappa: dict[str, Any]) -> str:
    """Put the verdict into half a sentence.

    >>> sentence({"gain": 0.75, "gain_low": 0.7, "gain_high": 0.8})
    'temporal order helps this predictor'
    """
    return SENTENCES[verdict(kappa)]
