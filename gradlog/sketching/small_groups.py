"""Small groups all at once: the additions of the sketch among the entries that there are.

The two stages of :mod:`gradlog.sketching.fold_hash` pass over 2m floats for each group, however few entries it has.
The sums are the same without the zeros. So here every entry goes straight to its column, and meets the others of that
column in the order in which the two stages add them up: same pairs, same bits. (A zero loses its sign. The stages
would keep the sign where all of a column is -0.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Floats = NDArray[np.float32]


class Scatter:
    """Adds up the entries of several groups, each group's as the stages of the sketch would.

    Parameters
    ----------
    group, address : ndarray, int64 (n,)
        Of each entry, in the order of folding: its group, and its place in that group's buffer of 2m floats.
    sign : ndarray, float32 (n,)
        Product of the signs that an entry gets on its way.
    place : ndarray, int64 (m,)
        Of each entry of the folded vector, its place in the arrangement of rows of ``k``.
    k : int
        Coordinates of a sketch.

    Examples
    --------
    >>> add = Scatter(np.array([0, 0]), np.array([1, 6]), np.array([1, -1], np.float32), np.arange(4), k=2)
    >>> out = np.zeros((1, 2), np.float32)
    >>> add(np.array([5, 3], np.float32), out)
    >>> out.tolist()
    [[-3.0, 5.0]]
    """

    def __init__(self, group: Indices, address: Indices, sign: Floats, place: Indices, k: int) -> None:
        alive, column, meetings = _meetings(group, address, place, k)
        order = np.concatenate([alive, *(second for _, second in meetings)])
        new = np.empty_like(order)
        new[order] = np.arange(len(order))
        ends = len(alive) + np.cumsum([0, *(len(second) for _, second in meetings)])
        self._order, self._sign = order, sign[order]
        self._rounds = [
            (new[first], slice(*e)) for (first, _), e in zip(meetings, itertools.pairwise(ends), strict=True)
        ]
        self._alive, self._into = len(alive), (group[alive], column)
        self._values = np.empty(len(order), np.float32)

    def __call__(self, x: Floats, out: Floats) -> None:
        """Write the sums into their columns of ``out``, float32 (G, k); the others are left as they are."""
        v = np.take(x, self._order, out=self._values, mode="clip")
        v *= self._sign
        for first, second in self._rounds:
            v[first] += v[second]
        out[self._into] = v[: self._alive] + np.float32(0)


def _meetings(
    group: Indices, address: Indices, place: Indices, k: int
) -> tuple[Indices, Indices, list[tuple[Indices, Indices]]]:
    """Entries that remain, their columns, and the rounds (first, second) in which v[first] += v[second] until then."""
    alive, meetings = np.arange(len(group)), []
    for at in _addresses(address, place, k):
        alive, rounds = _meet(alive, group[alive] * (2 * len(place) + k) + at[alive])
        meetings += rounds
    return alive, at[alive], meetings


def _addresses(address: Indices, place: Indices, k: int) -> Iterator[Indices]:
    """Where each entry is after every step of the two stages; those of the same address are added there.

    In the buffer of 2m; its halves added; then the arrangement's rows, halved until one is left: the column.
    """
    yield address
    folded = address % len(place)
    yield folded
    row, column = np.divmod(place[folded], k)
    rows = -(-len(place) // k)
    yield row * k + column
    while rows > 1:
        kept = rows - rows // 2
        row = np.where(row >= kept, row - kept, row)
        rows = kept
        yield row * k + column


def _meet(alive: Indices, at: Indices) -> tuple[Indices, list[tuple[Indices, Indices]]]:
    """Let the first entry of each address remain; the second is added to it, then the third."""
    order = np.argsort(at, kind="stable")
    sorted_at, entries = at[order], alive[order]
    opens = np.r_[True, sorted_at[1:] != sorted_at[:-1]][: len(at)]
    leader = np.maximum.accumulate(np.where(opens, np.arange(len(at)), 0))
    nth = np.arange(len(at)) - leader
    rounds = [(entries[leader[nth == i]], entries[nth == i]) for i in range(1, int(nth.max(initial=0)) + 1)]
    return entries[opens], rounds
