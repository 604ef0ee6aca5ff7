"""The rows of one process lifetime, its ranks lined up by step, and which lifetimes' rows make up a view."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.reading.segment import Segment
from gradlog.analysis.reading.step_runs import Ramps
from gradlog.errors import SpecMismatchError

ROWS = 2**16
"""Rows whose ranks are lined up together."""


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """The segments of one process lifetime, one a rank, cut to the steps that all of them hold."""

    members: tuple[Segment, ...]
    numbers: Ramps  # step of each row
    local: tuple[Ramps, ...]  # each row's place in each member

    @classmethod
    def of(cls, members: Sequence[Segment]) -> Lifetime:
        """Line up the ranks of a lifetime by step."""
        first, *others = members
        for other in others:
            if other.run != first.run:
                raise SpecMismatchError(f"{other.where}: another sketch or layout than {first.where}")
        if not others:
            return cls((first,), first.numbers, (Ramps.count(len(first)),))
        every = first.run.every
        windows = [_common(members, low, low + ROWS) for low in range(0, len(first), ROWS)]
        numbers, *local = (
            Ramps.joined([w[i] for w in windows], every if i == 0 else 1) for i in range(len(members) + 1)
        )
        if len(numbers) == 0 and all(map(len, members)):
            held = ", ".join(f"{m.header.name}: {len(m)} rows" for m in members)
            raise SpecMismatchError(f"the ranks of segment {first.header.number} share no step ({held})")
        return cls(tuple(members), numbers, tuple(local))

    def __len__(self) -> int:
        return len(self.numbers)

    def until(self, step: int) -> Lifetime:
        """Keep the rows before a step."""
        rows = self.numbers.below(step)
        return Lifetime(self.members, self.numbers.longer(rows), tuple(x.longer(rows) for x in self.local))

    def gather(self, read: Callable[[Segment, int, int], Any], start: int, stop: int) -> list[Any]:
        """Rows [start, stop) of every member, where ``read`` gives its local rows from one place to another."""
        found = []
        for member, local in zip(self.members, self.local, strict=True):
            places = local.values(start, stop)
            low, high = int(places[0]), int(places[-1]) + 1
            block = read(member, low, high)
            found.append(block if high - low == len(places) else block[places - low])
        return found

    @property
    def marks(self) -> Ramps:
        """Flags of each row: what any rank says."""
        if len(self.members) == 1:
            return self.members[0].marks.longer(len(self))
        ranges = ((low, min(low + ROWS, len(self))) for low in range(0, len(self), ROWS))
        return Ramps.of((np.bitwise_or.reduce(self.gather(_flags, *r)) for r in ranges), 0)

    @property
    def first_kept_by_successor(self) -> int:
        """Step from which on this lifetime replaces older ones."""
        header = self.members[0].header
        first = self.numbers[0]
        return first if header.parent_step is None else min(first, header.parent_step + 1)


def _common(members: Sequence[Segment], low: int, high: int) -> list[Ramps]:
    """Find the steps that all members hold, of rows [low, high) of the first, and their places in each."""
    steps = members[0].numbers.values(low, min(high, len(members[0])))
    ranges = [(m.numbers.below(int(steps[0])), m.numbers.below(int(steps[-1]) + 1)) for m in members]
    held = [m.numbers.values(*r) for m, r in zip(members, ranges, strict=True)]
    for other in held[1:]:
        steps = np.intersect1d(steps, other, assume_unique=True)
    places = [r[0] + np.searchsorted(h, steps) for r, h in zip(ranges, held, strict=True)]
    return [Ramps.of([steps], members[0].run.every), *(Ramps.of([p], 1) for p in places)]


def _flags(member: Segment, low: int, high: int) -> NDArray[np.int64]:
    return member.marks.values(low, high)


def select(lifetimes: list[Lifetime], view: str) -> list[Lifetime]:
    """Select the lifetimes' rows in view order; the newest wins for each step when the view is the latest."""
    if view == "all":
        return lifetimes
    kept: list[Lifetime] = []
    horizon: int | None = None
    for piece in reversed(lifetimes):
        left = piece if horizon is None else piece.until(horizon)
        if len(left):
            kept.append(left)
        first = piece.first_kept_by_successor
        horizon = first if horizon is None else min(horizon, first)
    return kept[::-1]
