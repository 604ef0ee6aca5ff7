"""Rows in memory: one block holds exactly the rows of one chunk, allocated when the run opens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradlog.format.codec import Numbers
from gradlog.format.header import RunHeader, SegmentHeader
from gradlog.format.journal import Journal, row_record
from gradlog.format.layout import SCALAR_COLUMNS


class Block:
    """The rows of one chunk while they are collected.

    Attributes
    ----------
    sketch : (C, G, k) float32
    optional : dict of str to (C, G, k) float32, the optional arrays of the segment
    norm2 : (C, G) float64
    scalars : (C, columns) float64, columns a multiple of 16; NaN where nothing was logged
    step : (C,) int64
    flags : (C,) uint32
    rows : int
        How many rows are filled.
    index : int
        Which chunk of the segment this is.
    before : int or None
        Step of the row before the first one here; None at the beginning of a segment.
    names : list of str
        Names of the scalars that are known so far.
    """

    def __init__(self, header: RunHeader, optional: Iterable[str] = ()) -> None:
        C, G, k = header.chunk, len(header.groups), header.sketch.k
        self.sketch = np.empty((C, G, k), np.float32)  # memory that a short run never touches costs nothing
        self.optional = {name: np.empty((C, G, k), np.float32) for name in optional}
        self.norm2 = np.empty((C, G))
        self.scalars = np.full((C, SCALAR_COLUMNS), np.nan)
        self.step = np.zeros(C, np.int64)
        self.flags = np.zeros(C, np.uint32)
        self.rows = 0
        self.index = 0
        self.before: int | None = None
        self.names: list[str] = []

    @classmethod
    def of_journal(cls, header: RunHeader, segment: SegmentHeader, index: int, journal: Journal) -> Block:
        """Rows of a journal as chunk ``index`` of a segment, whose earlier chunks are committed."""
        block = cls(header, segment.optional).reuse(index)
        block.rows = min(len(journal), header.chunk)
        block.name(max(list(segment.scalars), journal.names, key=len))
        rows = slice(0, block.rows)
        block.step[rows], block.flags[rows] = journal.step[rows], journal.flags[rows]
        block.norm2[rows], block.sketch[rows] = journal.norm2[rows], journal.sketch[rows]
        block.scalars[rows, : journal.scalars.shape[1]] = journal.scalars[rows]
        for name, values in block.optional.items():
            values[rows] = journal.optional[name][rows] if name in journal.optional else np.nan
        return block

    def record(self, row: int) -> bytes:
        """Record of a row for the journal, with the scalars that have a name so far."""
        scalars = self.scalars[row, : len(self.names)]
        optional = {name: values[row] for name, values in self.optional.items()}
        step, flags = int(self.step[row]), int(self.flags[row])
        return row_record(step, flags, self.norm2[row], self.sketch[row], scalars, optional)

    @property
    def full(self) -> bool:
        """Whether the next row needs another block."""
        return self.rows == len(self.step)

    @property
    def last(self) -> int | None:
        """Step of the newest row, here or before."""
        return int(self.step[self.rows - 1]) if self.rows else self.before

    def reuse(self, index: int, before: int | None = None) -> Block:
        """Make it the block of chunk ``index``; rows are overwritten as they come."""
        self.rows, self.index, self.before = 0, index, before
        self.scalars.fill(np.nan)
        self.flags.fill(0)
        return self

    def name(self, names: list[str]) -> None:
        """Name the scalars, with room for each."""
        if names is not self.names:
            self.widen(len(names))  # first: an interrupt may come between
            self.names = names

    def widen(self, columns: int) -> None:
        """Make room for scalar number ``columns - 1``."""
        missing = columns - self.scalars.shape[1]
        if missing > 0:
            wide = -(-missing // SCALAR_COLUMNS) * SCALAR_COLUMNS
            self.scalars = np.pad(self.scalars, ((0, 0), (0, wide)), constant_values=np.nan)

    def columns(self) -> dict[str, Numbers]:
        """Return the rows by the name of the array that they go to."""
        wide: dict[str, Numbers] = {"sketch": self.sketch, "group_norm2": self.norm2, "scalars": self.scalars}
        return {**wide, "step": self.step, "flags": self.flags, **self.optional}

    def pad(self) -> None:
        """Set the columns past the end to their fill values, as the last chunk of a segment stores them."""
        self.norm2[self.rows :] = np.nan
        self.scalars[self.rows :] = np.nan
        self.step[self.rows :] = 0
        self.flags[self.rows :] = 0
