"""Whole numbers that mostly go up by a constant: the step of every row, its flags, its place in a segment.

A million steps without a gap are one ramp. What grows with a run is then the number of its irregularities alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Ramps:
    """A sequence of integers as pieces that go up by ``stride``.

    Attributes
    ----------
    starts, firsts : int64 (pieces,)
        Place and value of the first number of each piece.
    length : int
        How many numbers there are.
    stride : int
        What each number of a piece adds to the one before; 0 for values that stay the same.

    Examples
    --------
    >>> ramps = Ramps.of([np.array([0, 2, 4]), np.array([6, 20, 22])], stride=2)
    >>> len(ramps.starts), len(ramps), ramps[-1], ramps.values(2, 5).tolist()
    (2, 6, 22, [4, 6, 20])
    """

    starts: Int64
    firsts: Int64
    length: int
    stride: int

    @classmethod
    def of(cls, blocks: Iterable[NDArray[np.integer]], stride: int) -> Ramps:
        """Ramps of the numbers that come block by block."""
        starts: list[Int64] = []
        firsts: list[Int64] = []
        length, after = 0, None
        for block in blocks:
            if len(block) == 0:
                continue
            values = block.astype(np.int64)
            new = np.flatnonzero(np.diff(values) != stride) + 1
            if after is None or values[0] != after:
                new = np.concatenate([[0], new])
            starts.append(new + length)
            firsts.append(values[new])
            length, after = length + len(values), values[-1] + stride
        return cls(_joined(starts), _joined(firsts), length, stride)

    @classmethod
    def count(cls, length: int) -> Ramps:
        """Return 0, 1, ..., length - 1."""
        return cls.of([np.arange(min(length, 1))], 1).longer(length)

    def longer(self, length: int) -> Ramps:
        """Let the last piece go on, or cut off, so that there are so many numbers."""
        pieces = int(np.searchsorted(self.starts, length))
        return dataclasses.replace(self, starts=self.starts[:pieces], firsts=self.firsts[:pieces], length=length)

    @classmethod
    def joined(cls, parts: list[Ramps], stride: int) -> Ramps:
        """Return one sequence after the other."""
        lengths = np.cumsum([0, *(p.length for p in parts)])
        starts = _joined([p.starts + base for p, base in zip(parts, lengths, strict=False)])
        firsts = _joined([p.firsts for p in parts])
        return cls(starts, firsts, int(lengths[-1]), stride).fused()

    def fused(self) -> Ramps:
        """Leave out the pieces that only continue the one before."""
        due = self.firsts[:-1] + self.stride * np.diff(self.starts)
        kept = np.concatenate([[True], self.firsts[1:] != due])[: len(self.starts)]
        return dataclasses.replace(self, starts=self.starts[kept], firsts=self.firsts[kept])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> int:
        """Return one number; negative places count from the end."""
        place = place + self.length if place < 0 else place
        if not 0 <= place < self.length:
            raise IndexError(place)
        return int(self.at(np.array([place]))[0])

    def at(self, places: NDArray[np.integer]) -> Int64:
        """Return the numbers at these places."""
        piece = np.searchsorted(self.starts, places, "right") - 1
        found: Int64 = self.firsts[piece] + self.stride * (places - self.starts[piece])
        return found

    def values(self, start: int = 0, stop: int | None = None) -> Int64:
        """Return the numbers at [start, stop)."""
        return self.at(np.arange(start, self.length if stop is None else stop))

    @property
    def ends(self) -> Int64:
        """Place after the last number of each piece."""
        return np.append(self.starts[1:], self.length)[: len(self.starts)]

    def below(self, value: int) -> int:
        """How many numbers of an increasing sequence are smaller than this one."""
        piece = int(np.searchsorted(self.firsts, value)) - 1
        if piece < 0:
            return 0
        reached = int(self.starts[piece]) + -((int(self.firsts[piece]) - value) // self.stride)
        return min(reached, int(self.ends[piece]))

    def increases(self) -> bool:
        """Whether every number is larger than the one before."""
        last = self.firsts + self.stride * (self.ends - self.starts - 1)
        return bool((self.firsts[1:] > last[:-1]).all()) and (self.stride > 0 or len(self.starts) == self.length)

    def jumps(self) -> Int64:
        """Pairs of neighbouring numbers between which a piece ends, (jumps, 2)."""
        return np.stack([self.at(self.starts[1:] - 1), self.firsts[1:]], axis=1)


def _joined(parts: Sequence[NDArray[Any]]) -> Int64:
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
