"""Two runs that hold the same rows: forks of one run, or one of them made of the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.findings import Line
from gradlog.analysis.reading.run import Run

EQUAL = 1e-6
"""Relative difference of two norms that count as equal."""


def shared(a: Run, b: Run) -> Iterator[Line]:
    """Compare the exact norms of every row of two runs: they do not depend on the sketch.

    Rows count as shared when the norms of all groups are equal (of the whole gradient, where groups differ).
    """
    if a.header.uuid and a.header.uuid == b.header.uuid:
        yield Line("WARN", "shared", f"both are copies of one run, {a.header.uuid}")
    same_groups = a.header.groups == b.header.groups and a.header.group_sizes() == b.header.group_sizes()
    x, y = (_norms(r, same_groups) for r in (a, b))
    prefix = _prefix(a, b, x, y)
    pairs = _matches(x, y)
    elsewhere = int(np.count_nonzero(np.isin(pairs[:, 0], np.arange(prefix), invert=True)))
    if prefix:
        more = (
            "until one of them ends"
            if prefix == min(len(x), len(y))
            else f"then they part at step {int(a.steps[prefix])}"
        )
        text = f"both begin with the same {prefix:,} rows, to step {int(a.steps[prefix - 1])}; {more}"
        yield Line("WARN", "shared", text, {"prefix": prefix})
    if elsewhere:
        i, j = pairs[np.isin(pairs[:, 0], np.arange(prefix), invert=True)][0]
        text = (
            f"{elsewhere:,} further rows are in both, such as step {int(a.steps[i])} here and {int(b.steps[j])} there"
        )
        yield Line("WARN", "shared", text, {"rows": elsewhere})
    if not prefix and not elsewhere:
        yield Line("PASS", "shared", f"no row of {len(x):,} is among the other run's {len(y):,}", {"prefix": 0})


def _norms(run: Run, by_group: bool) -> NDArray[np.float64]:
    return run.group_norm2 if by_group else run.group_norm2.sum(axis=1, keepdims=True)


def _same(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows of two arrays (rows, groups) are equal and not zero."""
    with np.errstate(all="ignore"):
        return np.asarray((np.abs(x - y) <= EQUAL * x).all(axis=1) & (x.sum(axis=1) > 0))


def _prefix(a: Run, b: Run, x: NDArray[np.float64], y: NDArray[np.float64]) -> int:
    """Length of the common beginning."""
    n = min(len(x), len(y))
    same = _same(x[:n], y[:n]) & (a.steps[:n] == b.steps[:n])
    return n if same.all() else int(np.argmin(same))


def _matches(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pairs (row of x, row of y) that are equal; one partner a row."""
    if len(x) == 0 or len(y) == 0:
        return np.empty((0, 2), np.int64)
    with np.errstate(all="ignore"):
        key_x, key_y = x.sum(axis=1), y.sum(axis=1)
    order = np.argsort(key_y, kind="stable")
    at = np.clip(np.searchsorted(key_y[order], key_x * (1 - EQUAL)), 0, len(y) - 1)
    found = []
    for shift in range(4):
        j = order[np.clip(at + shift, 0, len(y) - 1)]
        same = np.flatnonzero(_same(x, y[j]))
        found.append(np.stack([same, j[same]], axis=1))
    pairs = np.concatenate(found)
    return pairs[np.unique(pairs[:, 0], return_index=True)[1]]
