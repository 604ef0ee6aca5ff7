"""Which rows carry a sum, in memory that does not grow with them: the largest rows, and the distribution of all.

The distribution is the distinct float32 values and how often each occurs. Once there are more than ``DISTINCT``, the
last bits of their mantissas are cleared, as few as it takes. Clearing bits of what was cleared before is clearing them
at once, so the outcome depends on the values alone, not on how they were split and merged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

LARGEST = 1000
"""Rows that are listed."""

DISTINCT, PART = 2**13, 2**15
"""Values that are told apart (three decades keep a thousandth, fewer rows every bit), and rows sorted together."""


NOTHING = np.empty(0, np.float32)


class Carriers(NamedTuple):
    """Non-negative values of some rows.

    Attributes
    ----------
    at, largest : int64, float32 (<= LARGEST,)
        Rows with the largest values, in order of rows, and these values; of equals the first rows.
    values, counts : float32, int64 (<= DISTINCT,)
        Ascending values with the last ``cleared`` bits 0, and the number of rows of each.
    cleared : int
    """

    at: Int64
    largest: Float32
    values: Float32
    counts: Int64
    cleared: int

    @classmethod
    def of(cls, values: Float32, first: int = 0) -> Carriers:
        """Of rows ``first``, ``first`` + 1, ..."""
        if len(values) > PART:
            return cls.of(values[:PART], first).merge(cls.of(values[PART:], first + PART))
        return _carriers(np.arange(first, first + len(values)), values, values, np.ones(len(values), np.int64), 0)

    def merge(self, other: Carriers, shift: int = 0, between: Float32 = NOTHING) -> Carriers:
        """Of both, in order of rows; the rows of the other are ``shift`` further on, behind those ``between``."""
        return _carriers(
            np.concatenate([self.at, np.arange(shift, shift + len(between)), other.at + shift]),
            np.concatenate([self.largest, between, other.largest]),
            np.concatenate([self.values, between, other.values]),
            np.concatenate([self.counts, np.ones(len(between), np.int64), other.counts]),
            max(self.cleared, other.cleared),
        )

    def fewest(self, share: float) -> int:
        """Fewest rows that hold this share of the sum; exact where no bits were cleared."""
        bits = self.values.view(np.uint32)
        middle = self.values.astype(np.float64)
        if self.cleared:
            middle = (middle + (bits + np.uint32(1 << self.cleared)).view(np.float32)) / 2
        value, count = middle[::-1], self.counts[::-1]
        reached = np.cumsum(value * count)
        if len(reached) == 0 or reached[-1] <= 0:
            return 0
        i = int(np.searchsorted(reached, share * reached[-1]))
        missing = share * reached[-1] - (reached[i] - value[i] * count[i])
        return int(count[:i].sum()) + max(1, min(int(np.ceil(missing / value[i])), int(count[i])))


def _carriers(at: Int64, largest: Float32, values: Float32, counts: Int64, cleared: int) -> Carriers:
    if len(at) > LARGEST:
        least = np.partition(largest, len(largest) - LARGEST)[len(largest) - LARGEST]
        above, equal = np.flatnonzero(largest > least), np.flatnonzero(largest == least)
        kept = np.sort(np.concatenate([above, equal[: LARGEST - len(above)]]))
        at, largest = at[kept], largest[kept]
    order = np.argsort(values)
    values, counts = _cleared(values[order], counts[order], cleared)
    if len(values) > DISTINCT:
        bits = values.view(np.uint32)
        apart = bits[1:] ^ bits[:-1]  # neighbours become one where no bit that is left differs
        cleared = int(np.partition(apart, len(apart) - DISTINCT)[len(apart) - DISTINCT]).bit_length()
        values, counts = _cleared(values, counts, cleared)
    return Carriers(at, largest, values, counts, cleared)


def _cleared(values: Float32, counts: Int64, bits: int) -> tuple[Float32, Int64]:
    """Distinct ones of ascending values without their last bits, and the sums of their counts."""
    if len(values) == 0:
        return values, counts
    cut = values.view(np.uint32) >> np.uint32(bits) << np.uint32(bits)
    first = np.flatnonzero(np.concatenate([[True], cut[1:] != cut[:-1]]))
    return cut[first].view(np.float32), np.add.reduceat(counts, first)


NONE = Carriers.of(NOTHING)
