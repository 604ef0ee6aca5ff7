"""Which segments of different ranks one launch of a job recorded, and the rows that they have together.

Ranks count their segments independently. As a rule one launch has one number; but when a rank dies before it opens its
logger, from then on its numbers are behind. Then time tells, and the step that both begin with.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.common.types import Float64
from gradlog.analysis.reading.store.segment import Segment
from gradlog.errors import SpecMismatchError


@dataclasses.dataclass(frozen=True)
class Launch:
    """The segments of one launch, one for each rank, cut to the ``steps`` (rows,) that all of them hold."""

    members: tuple[Segment, ...]
    steps: NDArray[np.int64]

    @classmethod
    def of(cls, members: Sequence[Segment]) -> Launch:
        """Line up the ranks of a launch by step."""
        first, *others = members
        steps = first.steps
        for other in others:
            if other.run != first.run:
                raise SpecMismatchError(f"{other.where}: another sketch or layout than {first.where}")
            steps = np.intersect1d(steps, other.steps, assume_unique=True)
        if len(steps) == 0 and all(map(len, members)):
            held = ", ".join(f"{m.header.name}: {len(m)} rows" for m in members)
            raise SpecMismatchError(f"the ranks of segment {first.header.number} share no step ({held})")
        return cls(tuple(members), steps)

    def __len__(self) -> int:
        return len(self.steps)

    def until(self, step: int) -> Launch:
        """Keep the rows before a step."""
        return Launch(self.members, self.steps[: np.searchsorted(self.steps, step)])

    def between(self, first: int, last: int) -> Launch:
        """Keep the rows from one step to another, both included."""
        start, stop = np.searchsorted(self.steps, [first, last + 1])
        return Launch(self.members, self.steps[start:stop])

    def places(self, member: Segment, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """Where a member holds rows [start, stop)."""
        return np.searchsorted(member.steps, self.steps[start:stop])

    def gather(self, read: Callable[[Segment, int, int], Float64], start: int, stop: int) -> list[Float64]:
        """Rows [start, stop) of every member, where ``read`` gives its local rows from one place to another."""
        found = []
        for member in self.members:
            places = self.places(member, start, stop)
            low, high = int(places[0]), int(places[-1]) + 1
            block = read(member, low, high)
            found.append(block if high - low == len(places) else block[places - low])
        return found

    @property
    def flags(self) -> NDArray[np.uint32]:
        """Flags of each row: what any rank says."""
        if len(self.members) == 1:
            (start,) = self.places(self.members[0], 0, 1) if len(self) else (0,)
            return self.members[0].flags[start : start + len(self)]
        return np.asarray(functools.reduce(np.bitwise_or, (m.flags[self.places(m)] for m in self.members)))

    @property
    def first_kept_by_successor(self) -> int:
        """First step at which this launch overrides earlier ones."""
        header, first = self.members[0].header, int(self.steps[0])
        return first if header.parent_step is None else min(first, header.parent_step + 1)


def select(launches: list[Launch], view: str) -> list[Launch]:
    """Select the launches' rows in view order; the newest wins for each step when the view is the latest."""
    if view == "all":
        return launches
    kept: list[Launch] = []
    horizon: int | None = None
    for launch in reversed(launches):
        left = launch if horizon is None else launch.until(horizon)
        if len(left):
            kept.append(left)
        first = launch.first_kept_by_successor
        horizon = first if horizon is None else min(horizon, first)
    return kept[::-1]


def group_by_launch(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments by launch, the oldest launch first, members in order of rank.

    From the newest segments of all ranks, the one with the highest number leads. A segment belongs to the leader's
    launch if it has the same number. It also belongs to it if it was opened nearer to the leader than to the leader's
    predecessor, provided that both begin at the same step or one of them has no rows.
    """
    stacks: dict[int, list[Segment]] = {}
    for segment in sorted(segments, key=lambda s: (s.header.rank, s.header.number)):
        stacks.setdefault(segment.header.rank, []).append(segment)
    found = []
    while stacks:
        leader = max((stack[-1] for stack in stacks.values()), key=lambda s: s.header.number)
        before = stacks[leader.header.rank][-2:-1]
        members = [stack[-1] for stack in stacks.values() if _together(leader, before, stack[-1])]
        for member in members:
            stacks[member.header.rank].pop()
        stacks = {rank: stack for rank, stack in stacks.items() if stack}
        found.append(members)
    return found[::-1]


def _together(leader: Segment, before: list[Segment], other: Segment) -> bool:
    if other.header.number == leader.header.number:
        return True
    opened, mine, earlier = opening_time(leader), opening_time(other), [opening_time(s) for s in before]
    if opened is None or mine is None or not earlier or earlier[0] is None:
        return False
    nearer = abs(mine - opened) < abs(mine - earlier[0])
    return nearer and (not len(leader) or not len(other) or bool(leader.steps[0] == other.steps[0]))


def opening_time(segment: Segment) -> datetime.datetime | None:
    """When the segment was opened; None where that cannot be read."""
    try:
        time = datetime.datetime.fromisoformat(segment.header.opened)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
