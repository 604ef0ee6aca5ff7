"""Parts of tensors and the tables of the fold-hash sketch: what its twins in torch and JAX are built from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.sketching.fold_hash import FoldHash


class Part(NamedTuple):
    """A range of coordinates: tensor name, group index, number of real coordinates, offset in the full tensor."""

    name: str
    group: int
    size: int
    offset: int = 0


class Piece(NamedTuple):
    """Part of one row of m floats: entries ``start`` to ``stop`` of the part stand at ``column`` of the row.

    ``shift`` and ``sign`` are the row's rotation s_q and sign a_q.
    """

    start: int
    stop: int
    column: int
    shift: int
    sign: int


def pieces(S: FoldHash, part: Part) -> list[Piece]:
    """Cut a part at the multiples of m of its tensor."""
    m = S.spec.m
    found, start = [], 0
    first, column = divmod(part.offset, m)
    for code in S.rows(part.name, -(-(part.offset + part.size) // m))[first:].tolist():
        stop = min(start + m - column, part.size)
        found.append(Piece(start, stop, column, code >> 1, 1 - 2 * (code & 1)))
        start, column = stop, 0
    return found


def tables(S: FoldHash) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """First-stage signs t (m,), second-stage signs (m,) and the order (m,) in which w is laid out in rows of k."""
    return S._t, S._sign, S._order
