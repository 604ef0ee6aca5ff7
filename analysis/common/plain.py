"""Documents for JSON, which knows no NaN and no infinity."""

from __future__ import annotations

import math
from collections.abc import Mapping


def plain(document: Mapping[str, object], lost: list[str] | None = None) -> dict[str, object]:
    """Put None for numbers that are not finite, however deep inside; their places are added to ``lost``.

    >>> places = []
    >>> plain({"kappa": {"last": [1.0, float("nan")]}}, places), places
    ({'kappa': {'last': [1.0, None]}}, ['kappa.last[1]'])
    """
    return {key: _plain(value, key, [] if lost is None else lost) for key, value in document.items()}


def _plain(value: object, place: str, lost: list[str]) -> object:
    if isinstance(value, dict):
        return {k: _plain(v, f"{place}.{k}", lost) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, f"{place}[{i}]", lost) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(place)
        return None
    return value
