"""What the manifests of a segment tell one after another: declared gaps that stay, and dates that fit.

The recorder takes steps in order. So a flush knows all gaps before its last row, later ones repeat them, and only the
last gap of a list may still grow. To take rows out and declare them as dropped, a forger has to rewrite every manifest.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradlog.format import fields
from gradlog.format.header import WIDENED_GAP, RunHeader

if TYPE_CHECKING:
    from gradlog.analysis.audit.reader import Evidence

Gap = tuple[int, int, str]

MINUTE = 60.0
"""Seconds by which the clocks of two machines may differ, or that a store elsewhere takes to open a run."""


class Flush(NamedTuple):
    """One manifest: the last step written by then, the gaps declared by then, and when."""

    last: int | None
    dropped: tuple[Gap, ...]
    time: float


def flush(manifest: Mapping[str, object], before: int | None) -> Flush:
    """Take what is compared from a manifest, given the last step written before it."""
    steps = fields.sequence(manifest["steps"], "steps", 2)
    last = fields.step(steps[1], "a step") if steps else before
    return Flush(last, fields.dropped(manifest["dropped"]), seconds(manifest.get("time")))


def changed_gaps(e: Evidence) -> Iterator[str]:
    """Say where a later manifest, or the segment's header, contradicts the gaps of an earlier one; at most one."""
    states = itertools.chain(e.flushes(), [Flush(None, e.header.dropped, float("nan"))])
    for i, (earlier, later) in enumerate(itertools.pairwise(states)):
        fault = _contradiction(earlier, later.dropped)
        if fault:
            where = f"manifest {i + 1}" if i + 1 < e.header.flushes else "the segment's header"
            yield f"{e.name}: {where} declares other dropped steps than manifest {i}: {fault}"
            return


def _contradiction(earlier: Flush, later: Sequence[Gap]) -> str:
    """Say which gap shrank, moved, went or came too late; empty for none."""
    count = len(earlier.dropped)
    for old, new in itertools.zip_longest(earlier.dropped, later[:count]):
        if new is None:
            return f"{_span(old)} are no longer declared"
        if new != old and not (old is earlier.dropped[-1] and _grew(old, new, earlier.last)):
            return f"{_span(old)} became {_span(new)}"
    late = [gap for gap in later[count:] if earlier.last is not None and gap[0] <= earlier.last]
    return f"{_span(late[0])} came to it, and step {earlier.last} had been written already" if late else ""


def _grew(old: Gap, new: Gap, written: int | None) -> bool:
    """Whether the last gap of a list went on: at once after its end or, past so many gaps, over recorded steps."""
    widened = new[2].startswith(WIDENED_GAP)
    if new[0] != old[0] or new[1] <= old[1] or (new[2] != old[2] and not widened):
        return False
    return written is None or (new[1] > written and (widened or old[1] >= written))


def _span(gap: Gap) -> str:
    return f"steps {gap[0]} to {gap[1]}"


def odd_dates(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[str]:
    """Say where the creation, the opening of segments, and their manifests are dated in no order."""
    created, opened = seconds(header.created), [seconds(e.header.opened) for e in evidence]
    first = min((t for t in opened if t == t), default=float("nan"))
    if abs(first - created) > MINUTE:
        yield f"the run is dated {header.created}, its first segment was opened {_date(first)}"
    for e, start in zip(evidence, opened, strict=True):
        before, end = start - 1, seconds(e.header.closed) + 1
        for i, state in enumerate(e.flushes()):
            if state.time < before or state.time > end:
                yield (
                    f"{e.name}: manifest {i} is dated {_date(state.time)}, not between what came before it and the "
                    "closing"
                )
                break
            before = max(before, state.time)


def seconds(text: object) -> float:
    """Seconds of a date in ISO 8601; NaN where it is none."""
    try:
        return datetime.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return float("nan")


def _date(time: float) -> str:
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="seconds")
