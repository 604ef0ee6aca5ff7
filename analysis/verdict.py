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
        An entry of ``to_json(result)["kappa"]``: value, low, high, null, gain.

    Returns
    -------
    {"smoother", "rougher", "noise", "-"}
        Better or worse than the same gradients in random order; not told apart from it; no baseline to compare with.

    Examples
    --------
    >>> verdict({"value": 1.05, "low": 1.04, "high": 1.06, "null": 1.053, "gain": 0.003})
    'noise'
    """
    null, gain = kappa.get("null"), kappa.get("gain")
    if null is None or gain is None or kappa["value"] is None:
        return "-"
    low, high = (kappa["value"] if kappa.get(end) is None else kappa[end] for end in ("low", "high"))
    if low <= null <= high or abs(gain) < NEGLIGIBLE:
        return "noise"
    return "smoother" if gain > 0 else "rougher"


SENTENCES = {
    "smoother": "temporal order helps this predictor",
    "rougher": "temporal order hurts this predictor",
    "noise": "temporal order does not help this predictor",
    "-": "no baseline to compare with",
}


def sentence(kappa: dict[str, Any]) -> str:
    """Put the verdict into half a sentence.

    >>> sentence({"value": 0.5, "low": 0.4, "high": 0.6, "null": 2.0, "gain": 0.75})
    'temporal order helps this predictor'
    """
    return SENTENCES[verdict(kappa)]
