"""Axes of a drawing: data to pixels, and round numbers to label them with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True)
class Axis:
    """A range of data, with its name and unit, linear or logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False
    at: tuple[float, ...] = ()
    """Where the ticks are, if not at round values."""

    def place(self, values: ArrayLike, start: float, stop: float) -> NDArray[np.float64]:
        """Pixels of values when the axis runs from ``start`` to ``stop``; values outside go to its ends."""
        low, high = self._warp(self.low), self._warp(self.high)
        share = (self._warp(values) - low) / (high - low)
        return np.asarray(start + np.clip(share, 0, 1) * (stop - start))

    def ticks(self, most: int = 6) -> list[float]:
        """At most about ``most`` round values inside the range."""
        if self.at:
            return list(self.at)
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)

    def _warp(self, values: ArrayLike) -> NDArray[np.float64]:
        if not self.log:
            return np.asarray(values, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(np.asarray(values, np.float64))


def linear(label: str, *values: ArrayLike, start: float | None = None) -> Axis:
    """Axis that shows all finite values, from ``start`` if given."""
    low, high = _ends(values, (0.0, 1.0))
    low = low if start is None else start
    if high - low <= max(
        1e-300, 1e-9 * max(abs(low), abs(high))
    ):  # a constant, to the last digits that ticks could tell apart
        low, high = low - abs(low) * 0.1 - 1e-12, high + abs(high) * 0.1 + 1e-12
    room = 0.04 * (high - low)
    return Axis(label, low if start is not None else low - room, high + room)


def logarithmic(label: str, *values: ArrayLike) -> Axis:
    """Logarithmic axis that shows all finite positive values."""
    positive = [np.where(np.asarray(v, float) > 0, np.asarray(v, float), np.nan) for v in values]
    low, high = _ends(positive, (0.1, 10.0))
    room = max((high / low) ** 0.05, 1.04)
    return Axis(label, low / room, high * room, log=True)


STEP = "step"
"""Label of the axes that a page lets its reader zoom into."""


def exact(label: str, *values: ArrayLike) -> Axis:
    """Linear axis without room at the ends, for steps."""
    low, high = _ends(values, (0.0, 1.0))
    return Axis(label, low, high if high > low else low + 1)


def _ends(values: Iterable[ArrayLike], otherwise: tuple[float, float]) -> tuple[float, float]:
    flat = np.concatenate([np.ravel(np.asarray(v, np.float64)) for v in values] or [np.empty(0)])
    flat = flat[np.isfinite(flat)]
    return (float(flat.min()), float(flat.max())) if len(flat) else otherwise


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [m * 10.0**e for e in range(first, last + 1) for m in mantissas if low <= m * 10.0**e <= high]
        if len(found) <= most:
            break
    if len(found) < 2:
        return _linear_ticks(low, high, max(3, most // 2))
    return found[:: -(-len(found) // most)]


def tick_text(value: float) -> str:
    """Short label of a tick.

    >>> tick_text(0.0), tick_text(0.0008), tick_text(20000.0), tick_text(2e-5), tick_text(1e-6)
    ('0', '0.0008', '20k', '2×10⁻⁵', '10⁻⁶')
    """
    size = abs(value)
    if size == 0:
        return "0"
    if 1e3 <= size < 1e9 and size >= 1e4:
        unit, letter = (1e6, "M") if size >= 1e6 else (1e3, "k")
        return f"{value / unit:.4g}{letter}"
    if 1e-4 <= size < 1e4:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(size) + 1e-9)
    mantissa = f"{value / 10.0**exponent:.3g}"
    power = "10" + str(exponent).translate(SUPERSCRIPT)
    return power if mantissa == "1" else f"{mantissa}×{power}"
