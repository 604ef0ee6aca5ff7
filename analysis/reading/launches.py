"""Which segments of different ranks were recorded by one launch of a job.

Ranks count their segments independently. As a rule one launch has one number; but when a rank dies before it opens its
logger, from then on its numbers are behind. Then time tells, and the step that both begin with.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from gradlog.analysis.reading.segment import Segment


def launches(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments by launch, the oldest launch first, members in order of rank.

    From the newest segments of all ranks, the one with the highest number leads. With it belong those of the same
    number, and those that were opened nearer to it than to the segment before it of its rank, provided that both begin
    at the same step or one of them has no rows.
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
    return nearer and (not len(leader) or not len(other) or leader.numbers[0] == other.numbers[0])


def opening_time(segment: Segment) -> datetime.datetime | None:
    """When the segment was opened; None where that cannot be read."""
    try:
        time = datetime.datetime.fromisoformat(segment.header.opened)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
