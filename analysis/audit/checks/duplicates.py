"""Rows that are too much alike: a step copied to fill a hole, scaled or turned round to look like another.

Rows are compared by a fingerprint that needs no second pass: the norms of each group, exact and sketched. Their
ratio does not change when a row is scaled. Pairs with close fingerprints are read again and compared themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.findings import Line, problems
from gradlog.analysis.audit.reader import Evidence, Floats

NEAR = 1e-5
"""1 - |cosine| of two rows that count as near-identical, if their neighbours in time are far less alike."""

CLOSE, SAME_RATIO = 2e-3, 1e-5
"""Distance of fingerprints (logarithms): with the norms, and of the ratios alone."""

CELLMATES = 8
"""Rows in the same cell of fingerprints that each row is compared with."""

PAIRS = 256
"""Pairs that are read again, closest first."""


def duplicates(evidence: Sequence[Evidence]) -> Iterator[Line]:
    """Name pairs of different steps that hold the same gradient, to the bit or nearly, of either sign."""
    used = [np.flatnonzero(e.finite & (e.norm2.sum(axis=1) > 0)) for e in evidence]
    where = [(e, row) for e, rows in zip(evidence, used, strict=True) for row in rows.tolist()]
    if len(where) < 2:
        yield Line("SKIP", "rows", "fewer than two rows to compare")
        return
    pairs = list(zip(evidence, used, strict=True))
    steps = np.concatenate([e.steps[rows] for e, rows in pairs])
    norm2 = np.concatenate([e.norm2[rows] for e, rows in pairs])
    sketch2 = np.concatenate([e.sketch2[rows] for e, rows in pairs])
    texts = []
    for i, j in _candidates(norm2, sketch2, steps):
        text = _alike(where[i], where[j])
        if text:
            first, second = sorted((int(steps[i]), int(steps[j])))
            texts.append(f"steps {first} and {second} {text}")
    sound = f"no two of {len(where):,} rows are alike beyond what their neighbours are"
    yield from problems("rows", sorted(texts), sound, "WARN")


def _candidates(norm2: Floats, sketch2: Floats, steps: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of rows of different steps with close fingerprints, closest first."""
    with np.errstate(all="ignore"):
        a, b = np.log(np.maximum(norm2, 1e-300)), np.log(np.maximum(sketch2, 1e-300))
        found = _close(np.concatenate([a, b], axis=1), CLOSE) + _close(b - a, SAME_RATIO)
    different = {(i, j): distance for distance, i, j in sorted(found, reverse=True) if steps[i] != steps[j]}
    return sorted(different, key=lambda pair: different[pair])[:PAIRS]


def _close(fingerprints: Floats, tolerance: float) -> list[tuple[float, int, int]]:
    """(distance, i, j), i < j, of rows that fall into one cell of a grid, or of the same grid moved by half a cell."""
    weights = np.random.default_rng(0).integers(2**62, size=fingerprints.shape[1]) * 2 + 1
    found: list[tuple[float, int, int]] = []
    for shift in (0.0, 0.5):
        key = np.floor(fingerprints / tolerance + shift).astype(np.int64) @ weights
        order = np.argsort(key, kind="stable")
        for offset in range(1, min(CELLMATES, len(order) - 1) + 1):
            i, j = order[:-offset], order[offset:]
            together = key[i] == key[j]
            if not together.any():
                break
            i, j = i[together], j[together]
            distance = np.abs(fingerprints[i] - fingerprints[j]).max(axis=1) / tolerance
            found += zip(distance.tolist(), np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True)
    return found


def _alike(first: tuple[Evidence, int], second: tuple[Evidence, int]) -> str:
    """Say in which way two rows are alike; empty where they are not, or not more than steps in succession."""
    a, b = _row(*first), _row(*second)
    if np.array_equal(a, b):
        return "hold identical rows"
    distance = _distance(a, b)
    if distance > NEAR:
        return ""
    around = [_distance(_row(e, row), x) for e, row in (first, second) for x in _beside(e, row)]
    if around and distance > 0.01 * min(around):
        return ""
    scale = float(np.linalg.norm(b) / np.linalg.norm(a)) * (1 if float(np.vdot(a, b)) > 0 else -1)
    return f"hold near-identical rows, one {scale:.4g} times the other"


def _beside(e: Evidence, row: int) -> Iterator[Floats]:
    """Finite rows just before and after a row."""
    for at in (row - 1, row + 1):
        if 0 <= at < len(e.steps) and e.finite[at]:
            yield _row(e, at)


def _row(e: Evidence, row: int) -> Floats:
    return e.read(row).reshape(-1).astype(np.float64)


def _distance(a: Floats, b: Floats) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1 - abs(float(np.vdot(a, b))) / length if length > 0 else 1.0
