"""Whether each step is there once or accounted for, and how the segments hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.audit.flushes import changed_gaps, odd_dates, seconds
from gradlog.analysis.audit.reader import Evidence
from gradlog.analysis.common.text import enumerate_some
from gradlog.format.header import PARTIAL, SKIPPED, RunHeader

IRREGULAR = 0.1
"""Share of steps at another distance than the usual one, above which the numbering itself is irregular."""


def steps(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Each step of each segment follows the one before, or a record says why not."""
    texts, dropped, skipped, partial, rows = [], 0, 0, 0, 0
    for e in evidence:
        rows += len(e.steps)
        skipped += int(np.count_nonzero(e.flags & SKIPPED))
        partial += int(np.count_nonzero(e.flags & PARTIAL))
        dropped += sum(last - first + 1 for first, last, _ in e.header.dropped)
        back = e.steps[1:][np.diff(e.steps) <= 0]
        if len(back):
            texts.append(f"{e.name}: step numbers do not increase at steps {enumerate_some(back.tolist())}")
        odd = e.steps[e.steps % header.every != 0]
        if len(odd):
            texts.append(f"{e.name}: steps {enumerate_some(odd.tolist())} are not divisible by every={header.every}")
        texts += changed_gaps(e)
        gaps, irregular = _gaps(e, header.every)
        if irregular:
            yield Line("WARN", "steps", f"{e.name}: step numbers have no regular distance; gaps cannot be told")
        else:
            texts += [f"{e.name}: unexplained gap between steps {a} and {b}" for a, b in gaps]
    known = [(dropped, "dropped and recorded as such"), (skipped, "skipped by the optimizer"), (partial, "partial")]
    remarks = "".join(f", {n:,} {what}" for n, what in known if n)
    every = "" if header.every == 1 else f" (every {header.every}th step)"
    yield from problems("steps", texts, f"{rows:,} rows, no unexplained gap{every}{remarks}")


def _gaps(e: Evidence, every: int) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of steps with others missing between them, and whether the numbering has no rule at all."""
    distance = np.diff(e.steps)
    if len(distance) == 0:
        return [], False
    values, counts = np.unique(distance, return_counts=True)
    usual = max(every, int(values[np.argmax(counts)]))
    at = np.flatnonzero(distance > usual)
    gaps = [(int(e.steps[i]), int(e.steps[i + 1])) for i in at]
    explained = [(first - every, last + every) for first, last, _ in e.header.dropped]
    open_gaps = [g for g in gaps if not _covered(g, explained)]
    others = np.count_nonzero(distance != usual)
    return open_gaps, bool(open_gaps and others > max(1, IRREGULAR * len(distance)))


def _covered(gap: tuple[int, int], explained: list[tuple[int, int]]) -> bool:
    """Whether the recorded drops, taken together, fill a gap."""
    reached = gap[0]
    for first, last in sorted(explained):
        if first <= reached < last:
            reached = last
    return reached >= gap[1]


def lineage(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Draw which segment continues which, and look for one that is named but gone."""
    by_name = {e.name: e for e in evidence}
    texts, odd = [], []
    for e in evidence:
        h = e.header
        parent = by_name.get(str(h.parent)) if h.parent is not None else None
        if h.parent is not None and parent is None:
            texts.append(f"{e.name} continues {h.parent}, which is not in the run: its history was removed")
        if parent is not None and (parent.header.number >= h.number or parent.header.rank != h.rank):
            texts.append(f"{e.name} cannot continue {h.parent}")
        if len(e.steps) and parent is not None and len(parent.steps):
            at = int(parent.steps[-1]) if h.parent_step is None else int(h.parent_step)
            if at > parent.steps[-1]:
                texts.append(f"{e.name} continues {h.parent} after step {at}; that ends at {int(parent.steps[-1])}")
            distance = int(np.median(np.diff(e.steps))) if len(e.steps) > 1 else 1
            if e.steps[0] - at > max(distance, 1):
                early = f" ({h.parent} ended as {parent.header.status!r})" if parent.header.status != "closed" else ""
                odd.append(f"steps {at + 1} to {int(e.steps[0]) - 1} before {e.name} are not in the run{early}")
        if h.status not in ("closed", "recovered"):
            odd.append(f"{e.name}: status is {h.status!r}" + (f": {h.reason}" if h.reason else ""))
        if h.parent is None and len(e.steps) and e.steps[0] >= max(header.every, 1):
            odd.append(f"{e.name} begins at step {int(e.steps[0])}, and nothing in the run comes before")
    drawn = [_branch(e) for e in evidence]
    yield from problems("lineage", texts, "; ".join(drawn) or "no segment")
    yield from (Line("WARN", "lineage", text) for text in odd[:20])


def _branch(e: Evidence) -> str:
    h = e.header
    extent = f"steps {int(e.steps[0])} to {int(e.steps[-1])}" if len(e.steps) else "no rows"
    if h.parent is None:
        return f"{e.name} {extent}"
    after = "" if h.parent_step is None else f" from step {h.parent_step}"
    return f"{e.name} {extent}, after {h.parent}{after}"


def times(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Dates and clock times grow, lie between opening and closing, and steps take longer than a clock tells apart."""
    odd, rates = list(odd_dates(header, evidence)), []
    for e in evidence:
        clock = e.scalars.get("wall_time", np.full(len(e.steps), np.nan))
        if not np.isfinite(clock).all():
            odd.append(f"{e.name}: {int(np.count_nonzero(~np.isfinite(clock)))} rows have no time")
            continue
        back = np.flatnonzero(np.diff(clock) < 0)
        if len(back):
            odd.append(f"{e.name}: the clock goes back after steps {enumerate_some(e.steps[back].tolist())}")
        same = np.count_nonzero(np.diff(clock) == 0)
        if same > 0.01 * len(clock) and same > 3:
            odd.append(f"{e.name}: {same} rows share the time of the row before")
        opened, closed = seconds(e.header.opened), seconds(e.header.closed)
        late = (clock < opened - 1) | ((clock > closed + 1) if e.header.status == "closed" else False)
        if len(clock) and late.any():
            odd.append(f"{e.name}: {int(late.sum())} rows are dated outside the segment's opening and closing")
        rates += [np.median(np.diff(clock))] if len(clock) > 1 else []
    rate = f"; a step every {np.median(rates):.3g} s" if rates else ""
    yield from problems("time", odd, f"times grow and lie between opening and closing{rate}", "WARN")


def parameters(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Every declared tensor has a name of its own, numbers, and a group; groups that never moved are named."""
    counted = Counter(t.name for t in header.tensors)
    texts = [f"parameter {name!r} is declared {n} times" for name, n in counted.items() if n > 1]
    for e in evidence:  # a group may wait for parameters that join it later
        held = {t.group for t in (*header.tensors, *e.header.joined)}
        empty = [name for g, name in enumerate(header.groups) if g not in held and e.norm2[:, g].any()]
        texts += [f"{e.name}: group {name!r} has a gradient and no parameter" for name in empty]
    quiet = _always_zero(evidence, len(header.groups))
    still = [name for name, zero in zip(header.groups, quiet, strict=True) if zero]
    frozen = f"; always zero: {enumerate_some(still)}" if still else ""
    found = f"{len(header.tensors):,} tensors of {header.dimension:,} numbers in {len(header.groups)} groups{frozen}"
    yield from problems("parameters", texts, found)


def _always_zero(evidence: Sequence[Evidence], groups: int) -> NDArray[np.bool_]:
    if not any(len(e.steps) for e in evidence):
        return np.zeros(groups, bool)
    return np.asarray(np.all([np.all(e.norm2 == 0, axis=0) for e in evidence if len(e.steps)], axis=0))


def nonfinite(evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Rows flagged as non-finite are the ones that hold NaN or inf, and no others."""
    texts, listed = [], []
    for e in evidence:
        bad = ~(np.isfinite(e.norm2) & np.isfinite(e.sketch2)).all(axis=1)
        wrong = e.steps[bad == e.finite].tolist()
        listed += e.steps[~e.finite].tolist()
        if wrong:
            texts.append(f"{e.name}: NaN or inf contradict the rows' flag at steps {enumerate_some(wrong)}")
    sound = f"{len(listed):,} rows with NaN or inf: steps {enumerate_some(listed)}" if listed else "no NaN or inf"
    yield from problems("nonfinite", texts, sound)
