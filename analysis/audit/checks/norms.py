"""Whether each sketch has the length that the exact norm beside it allows.

Let r be the sketch's squared norm over the exact one. For every fixed vector r has mean 1 and variance
(2/k)(1 + (3k+6)/m). If the vector is spread over many coordinates, k r follows a chi-square law with k degrees of
freedom. A vector that
lives on few coordinates breaks that law as soon as two of them share a column, and all rows of a run share one map.
Such a sketch shows few large columns, unless the two cancel: chance 1/(2k), and what is left may look like anything.
Hence the rules:

* a group whose coordinates all have a column of their own (or the exact mode): r is 1 to rounding;
* too long, and spread over its columns: outside the chi-square limits, Bonferroni over all rows and groups;
* too long, and not spread: above j, where j coordinates that share a column are as improbable as those limits;
* too short: outside the limits, in a group whose other rows are spread; most rows too short in several groups at once.

What is off but falls under none of them is told as a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from gradlog.analysis.audit.findings import MOST_LINES, Line, problems
from gradlog.analysis.audit.reader import Evidence
from gradlog.analysis.common.text import enumerate_some
from gradlog.format.header import RunHeader
from gradlog.sketching.fold_hash import from_spec

FALSE_ALARM = 1e-6
"""Probability that an honest run of spread gradients shows one row outside the limits."""

SMALL = 2**14
"""Groups up to this size have their columns counted."""

CLOSER = 64
"""Suspicious rows of a group and segment that are read again."""

TYPICAL = 0.95
"""Share of a group's other rows that must look spread before a short sketch contradicts its norm."""

TOGETHER = 1e-3
"""Chance that gradients dominated by one pair of coordinates look too short in as many groups."""

TINY = 1e-60
"""Squared norms below are not compared: float32 sketches underflow there."""

EQUAL = 3e-6
"""Relative difference of two squared norms that is only rounding."""


def norms(header: RunHeader, evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Compare squared norms of sketches with the exact ones; name the steps that do not agree."""
    tests = sum(int(np.count_nonzero(_tested(e))) for e in evidence)
    if tests == 0:
        yield Line("SKIP", "norms", "no finite row with a gradient that is not zero")
        return
    if _taken_from_sketch(header, evidence):
        yield Line("SKIP", "norms", "this run of updates records the sketch's own norm; there is nothing to compare")
        return
    law = _Law(header, tests)
    groups = range(len(header.groups))
    found = {(g, i): _group(header, law, e, g) for g in groups for i, e in enumerate(evidence)}
    short = {g for (g, _), rows in found.items() if rows.short}
    together = math.comb(len(groups), len(short)) * (2.0 * header.sketch.k) ** -len(short) < TOGETHER
    failed: list[str] = []
    odd: list[str] = []
    for (g, i), rows in found.items():
        certain = together and rows.short
        for texts, which in ((failed, rows.wrong), (failed if certain else odd, rows.doubtful)):
            texts += _say(evidence[i], header.groups[g], which, certain=texts is failed)
    failed += [text for g in groups if (text := _too_good(header, evidence, g))] if law.random else []
    yield from problems("norms", failed, f"{tests:,} sketches agree with their exact norms; {law.describe()}")
    yield from (Line("WARN", "norms", text) for text in odd[:MOST_LINES])


class _Rows(NamedTuple):
    """Rows of a group and segment that contradict their norms; that may; and whether most are too short."""

    wrong: NDArray[np.int64]
    doubtful: NDArray[np.int64]
    short: bool = False


class _Law:
    """Limits of r for one run.

    Attributes
    ----------
    low, high : float
        For sketches that look spread.
    ceiling : float
        For the others.
    """

    def __init__(self, header: RunHeader, tests: int) -> None:
        s = header.sketch
        self.random = not s.exact
        self.k = s.k
        half = 2.0 ** -(header.sketch_bits + 1)  # of a unit in the last place, the most that a value was moved by
        self.rounding = 1e-4 + 2 * half + half**2
        self.low, self.high, self.ceiling = 1 - self.rounding, 1 + self.rounding, 1 + self.rounding
        if self.random:
            freedom = s.k / (1 + (3 * s.k + 6) / s.m)
            level = FALSE_ALARM / tests / 2
            self.low = float(chi2.ppf(level, freedom) / freedom) * (1 - self.rounding)
            self.high = float(chi2.isf(level, freedom) / freedom) * (1 + self.rounding)
            meeting = math.inf if s.k == 1 else 1 + math.ceil(math.log(tests / FALSE_ALARM) / math.log(s.k))
            self.ceiling = max(self.high, meeting)
            self._map = from_spec(s, header.tensors)

    def crowded(self, header: RunHeader, group: int) -> int:
        """Most coordinates of a group that share a column of the sketch; 0 where the group is too large to count."""
        tensors = [t for t in header.tensors if t.group == group]
        if sum(t.size for t in tensors) > SMALL:
            return 0
        load = np.zeros(self.k, np.int64)
        for t in tensors:
            load += np.bincount(self._map.columns(t.name, t.size), minlength=self.k)
        return int(load.max())

    def describe(self) -> str:
        """Say what would have been noticed."""
        if not self.random:
            return "they are equal to rounding, as exact rows must be"
        return (
            f"a row scaled by a factor above {math.sqrt(self.high):.2f} or below {math.sqrt(self.low):.2f} would show"
        )


def _tested(e: Evidence) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        return np.asarray(e.finite[:, None] & np.isfinite(e.sketch2) & (e.norm2 > TINY) & (e.norm2 < np.inf))


def _group(header: RunHeader, law: _Law, e: Evidence, g: int) -> _Rows:
    none = np.empty(0, np.int64)
    # A gradient of zeros has a sketch of zeros.
    phantom = np.flatnonzero(e.finite & (e.norm2[:, g] == 0) & (e.sketch2[:, g] > 0))
    rows = np.flatnonzero(_tested(e)[:, g])
    r = e.sketch2[rows, g] / e.norm2[rows, g]
    most = law.crowded(header, g) if law.random else 1
    if most == 1:
        return _Rows(np.concatenate([phantom, rows[np.abs(r - 1) > law.rounding]]), none)
    ceiling = min(law.ceiling, most * (1 + law.rounding)) if most else law.ceiling
    low, high = r < law.low, r > law.high
    long, unclear = _split(header, e, g, rows[high & (r <= ceiling)])
    short = np.count_nonzero(low) > 0.5 * len(r)
    if low.any() and not short and _share_spread(header, e, g, rows[~low & ~high]) >= TYPICAL:
        small, unclear_small = _split(header, e, g, rows[low])
    else:
        small, unclear_small = none, rows[low]
    wrong = np.concatenate([phantom, rows[r > ceiling], long, small])
    return _Rows(np.sort(wrong), np.sort(np.concatenate([unclear, unclear_small])), bool(short))


def _split(
    header: RunHeader, e: Evidence, g: int, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide rows into those that look spread and the others; many rows are judged by some of them."""
    if len(rows) > CLOSER:
        none = rows[:0]
        return (rows, none) if _share_spread(header, e, g, rows) > 0.5 else (none, rows)
    spread = np.array([_spread(e.read(int(row))[g], header.group_sizes()[g]) for row in rows], bool)
    return rows[spread], rows[~spread]


def _share_spread(header: RunHeader, e: Evidence, g: int, rows: NDArray[np.int64]) -> float:
    """Share of rows that look spread, from at most 64 of them; 0 for none."""
    some = rows[np.linspace(0, len(rows) - 1, min(CLOSER, len(rows))).astype(int)]
    size = header.group_sizes()[g]
    return float(np.mean([_spread(e.read(int(row))[g], size) for row in some])) if len(some) else 0.0


def _spread(row: NDArray[np.float32], size: int) -> bool:
    """Whether a group's sketch (k,) looks like that of a vector of many coordinates: no heavy tail over its columns.

    The fourth moment of k normal numbers is 3 and errs by sqrt(24/k); of four equal ones among k it is k/4. All zeros
    count as spread where so many coordinates cannot all cancel.
    """
    k = len(row)
    x = row.astype(np.float64) / max(float(np.abs(row).max()), 1e-300)
    energy = float(np.mean(x**2))
    if energy == 0:
        return size >= k
    return size >= 4 * k and float(np.mean(x**4)) / energy**2 <= min(3 + 5 * math.sqrt(24 / k), k / 4)


def _too_good(header: RunHeader, evidence: Sequence[Evidence], g: int) -> str:
    """Say whether norms are those of the sketch: it almost never has exactly the length of its vector."""
    if header.group_sizes()[g] < 8 * header.sketch.k:
        return ""
    rows = [np.flatnonzero(_tested(e)[:, g]) for e in evidence]
    near = [i[np.abs(e.sketch2[i, g] / e.norm2[i, g] - 1) < EQUAL] for e, i in zip(evidence, rows, strict=True)]
    tested, equal = sum(map(len, rows)), sum(map(len, near))
    if equal < max(8, 0.5 * tested):
        return ""
    if not all(_share_spread(header, e, g, i) > 0.5 for e, i in zip(evidence, near, strict=True) if len(i)):
        return ""
    return (
        f"group {header.groups[g]!r}: {equal:,} of {tested:,} norms are those of the sketch itself, not of a gradient"
    )


def _taken_from_sketch(header: RunHeader, evidence: Sequence[Evidence]) -> bool:
    """Whether a run of updates took its norms from its sketches, as the recorder does where it keeps no parameters."""
    if header.what != "update" or header.sketch.exact:
        return False
    parts = [(e.sketch2[_tested(e)], e.norm2[_tested(e)]) for e in evidence]
    return all(np.all(np.abs(a - b) <= EQUAL * b) for a, b in parts)


def _say(e: Evidence, group: str, rows: NDArray[np.int64], certain: bool) -> list[str]:
    if len(rows) == 0:
        return []
    what = "contradict the exact norm" if certain else "are off, as sketches of very few coordinates may be"
    return [f"{e.name}, group {group!r}: the sketches of steps {enumerate_some(e.steps[rows].tolist())} {what}"]
