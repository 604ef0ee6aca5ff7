"""Names and values of a segment's scalars, no more of them than readers take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import SupportsFloat, cast

import numpy as np

from gradlog.format import limits
from gradlog.storage.block import Block


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
