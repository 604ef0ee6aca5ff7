"""From the gradient of a step to its row in a block of memory. Nothing here touches a file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, SupportsFloat, cast

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import GradientError
from gradlog.format import limits
from gradlog.format.codec import round_mantissa
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED, RunHeader
from gradlog.recorder.rows import fold
from gradlog.sketching.projector import Entries, Projector, projector
from gradlog.sketching.pytree import as_entries
from gradlog.storage.block import Block

Fill = Callable[[NDArray[np.float32], NDArray[np.float64]], int]
"""Writes one row's sketches (G, k) and squared norms (G,); returns how many tensors had no gradient."""


class Row(NamedTuple):
    """One step as a hook hands it over.

    Attributes
    ----------
    arrays : sequence of ndarray, Sparse or None, or callable
        Gradients in the order of the run's tensors; or a :data:`Fill`, where they were sketched elsewhere.
    scalars : mapping
        Numbers, or one-element tensors that are read when the row is written.
    flags : int
        Bits of ``flags``.
    skipped : bool or tensor
        Whether the optimizer skipped this step; read when the row is written.
    later : bool
        The sketch is still under way on a device: write the row when the next step comes, or at the end.
    observed : mapping
        Scalars that nobody has told, such as the loss; those that the loop tells count more.
    update : callable or None
        A :data:`Fill` for what the step did to the parameters, in a run that keeps it.
    """

    arrays: Sequence[Entries] | Fill
    scalars: Mapping[str, object]
    flags: int = 0
    skipped: object = False
    later: bool = False
    update: Fill | None = None
    observed: Mapping[str, object] = {}


class RowBuilder:
    """Writes rows of one segment into blocks.

    Parameters
    ----------
    header : RunHeader
        With all tensors that rows of the segment include.
    notify : callable
        Told of scalars that are not recorded.
    chooses : callable
        Tells of a parameter's name whether it is recorded.
    folds : callable
        Told what sketches rows on the CPU, when the first is.
    """

    def __init__(
        self,
        header: RunHeader,
        notify: Callable[[str], None],
        chooses: Callable[[str], bool],
        folds: Callable[[fold.Fold], None],
    ) -> None:
        self.header = header
        self._folds = folds
        self._index = {t.name: i for i, t in enumerate(header.tensors)}
        self._columns = Columns(notify)
        self._chooses, self._left_out = chooses, set[str]()

    @functools.cached_property
    def projector(self) -> Projector:
        """The run's random map for rows that are sketched on the CPU; the first use tells what computes it."""
        if not self.header.sketch.exact:
            self._folds(fold.choose(self.header))
        return self._projector

    @functools.cached_property
    def _projector(self) -> Projector:
        """The map, which is made when it is first used: not where nothing is sketched on the CPU."""
        header = self.header
        return projector(header.sketch, header.tensors, len(header.groups), fold.choose(header).family)

    def ordered(self, pairs: Sequence[tuple[str, object]]) -> list[Entries]:
        """Named gradients in the order of the run's tensors; those that are left out are None."""
        arrays: list[Entries] = [None] * len(self._index)
        for name, leaf in pairs:
            if name in self._index:
                arrays[self._index[name]] = as_entries(leaf, name)
            elif name not in self._left_out:
                if self._chooses(name):
                    raise GradientError(f"{name!r} is no parameter of this run, which has {list(self._index)[:4]} ...")
                self._left_out.add(name)
        return arrays

    def projected(self, pairs: Sequence[tuple[str, object]]) -> Fill:
        """Return a function that sketches these named tensors, which are parameters and no row."""
        return functools.partial(self._projector.project, self.ordered(pairs))

    def sketched(self, fill: Fill) -> NDArray[np.float32]:
        """Sketch (G, k) by itself."""
        groups = len(self.header.groups)
        theta = np.empty((groups, self.header.sketch.k), np.float32)
        fill(theta, np.empty(groups))
        return theta

    def write(self, block: Block, number: int, row: Row, scalars: Mapping[str, object]) -> bool:
        """Write the row of step ``number`` behind the last of the block; False where no parameter had a gradient.

        ``scalars`` are the row's own and those that the loop has told.
        """
        i = block.rows
        sketch, norm2 = block.sketch[i], block.norm2[i]
        fill = row.arrays if callable(row.arrays) else functools.partial(self.projector.project, row.arrays)
        missing = fill(sketch, norm2)
        if missing == len(self._index):
            return False
        round_mantissa(sketch, self.header.sketch_bits)
        self._write_update(block, row.update)
        flags = row.flags | (SKIPPED if row.skipped else 0) | (PARTIAL if missing else 0)
        if not (np.isfinite(norm2).all() and np.isfinite(sketch).all()):
            flags |= NONFINITE
        block.step[i], block.flags[i] = number, flags
        block.scalars[i] = np.nan
        for name, value in scalars.items():
            self._columns.put(block, i, name, value)
        block.name(self._columns.names)
        return True

    def _write_update(self, block: Block, fill: Fill | None) -> None:
        update = block.optional.get("update")
        if (update is None) != (fill is None):
            expected = "no update" if fill else "an update beside each gradient"
            raise GradientError(f"this run expects {expected}; what=('gradient', 'update') records both")
        if update is not None and fill is not None:
            row = update[block.rows]
            fill(row, np.empty(len(row)))
            round_mantissa(row, self.header.sketch_bits)

    def annotate(self, block: Block, scalars: Mapping[str, object]) -> list[int]:
        """Set scalars of the last row of the block; give their columns."""
        put = [self._columns.put(block, block.rows - 1, name, value) for name, value in scalars.items()]
        block.name(self._columns.names)
        return [column for column in put if column is not None]


class Columns:
    """The scalars of a segment: each name gets the next column when it is first seen.

    Parameters
    ----------
    notify : callable
        Told once of each name whose value is not one number, and once that no more names are taken.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._places: dict[str, int] = {}
        self._names: list[str] = []
        self._bytes = 0
        self._full = False
        self._odd: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names in the order of their columns: the same list until there is a new one."""
        if len(self._names) < len(self._places):
            self._names = list(self._places)
        return self._names

    def put(self, block: Block, row: int, name: str, value: object) -> int | None:
        """Set a scalar of a row and give its column; None where the name is one too many."""
        column = self._places.get(name)
        if column is None and not self._take(name, block.rows):
            return None
        column = self._places[name]
        block.widen(column + 1)
        block.scalars[row, column] = self._number(name, value)
        return column

    def _take(self, name: str, rows: int) -> bool:
        """Give a new name a column, unless readers would refuse the run with it; so many rows are NaN there."""
        count, size = len(self._places) + 1, self._bytes + len(json.dumps(name)) + 1
        fits = count < limits.COLUMNS and size <= limits.NAMES and 8 * count * rows <= limits.WIDENED
        if fits and not self._full:
            self._places[name], self._bytes = count - 1, size
        elif not self._full:
            self._full = True
            self._notify(
                f"{name[:80]!r} and later new scalars are not recorded: readers take no more names than the "
                f"{count - 1:,} so far; log fewer different ones"
            )
        return not self._full

    def _number(self, name: str, value: object) -> float:
        """NaN for what is not one number: an odd scalar is no reason to lose gradients."""
        try:
            number = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
            return float(cast(SupportsFloat, number))  # float() is asked whether it is one
        except Exception as error:
            if name not in self._odd:
                self._odd.add(name)
                self._notify(f"{name} is not recorded where it is not one number: {error}")
            return float("nan")
