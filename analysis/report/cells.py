"""Tables as data: cells of text with the number that they sort by.

A column is its heading, and what makes its cell of an entry: of a run and what the row is about.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence

from gradlog.analysis.common.text import PAGE
from gradlog.analysis.measures.interpretation import HELPS, HURTS, verdict
from gradlog.analysis.report.study import Study
from gradlog.analysis.results.forms.json_document import Document

MOST_ROWS = 12
"""Rows up to which a table of details is unfolded."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Text of a cell, what to sort by, its class, and a second line."""

    text: str
    key: float | str
    kind: str = ""
    more: str = ""


Column = tuple[str, Callable[..., Cell]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A sortable table: title, column names, rows of cells, what to know when reading it, whether it is a detail."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    detail: bool = False

    @property
    def folded(self) -> bool:
        """Whether it would push what comes after it off the screen."""
        return self.detail and len(self.rows) > MOST_ROWS

    @classmethod
    def of(
        cls, title: str, columns: Sequence[Column], entries: Iterable[Sequence[object]], note: str = "",
        detail: bool = False,
    ) -> Table:  # fmt: skip
        """Make a row of each entry."""
        return cls(
            title, [name for name, _ in columns], [[make(*e) for _, make in columns] for e in entries], note, detail
        )


def run_column(studies: Sequence[Study]) -> list[Column]:
    """Name the run, where there are several."""
    return [("run", lambda s, *_: name_cell(s.label))] if len(studies) > 1 else []


def name_cell(text: str, key: float | str | None = None) -> Cell:
    """Show a name."""
    return Cell(text, text if key is None else key, "name")


def number_cell(value: float | None, more: str = "") -> Cell:
    """Show a number, and what belongs under it."""
    return Cell(PAGE.number(value), key_of(value), more=more)


def half_cell(half: float | None, withheld: str = "") -> Cell:
    """Show a half-width, or why there is none."""
    return Cell(PAGE.half(half), key_of(half), more=withheld)


def count_cell(value: float | None, more: str = "") -> Cell:
    """Show a whole number, and what belongs under it."""
    return Cell(PAGE.count(value), key_of(value), more=more)


def rank_cell(rank: Document, more: str = "") -> Cell:
    """Certified range of r*."""
    return Cell(PAGE.rank(rank["low"], rank["high"]), key_of(rank["low"]), more=more)


def gain_cell(kappa: Document) -> Cell:
    """Gain over shuffled steps, with its interval."""
    value, low, high = kappa["gain"], kappa.get("gain_low"), kappa.get("gain_high")
    signed = functools.partial(PAGE.percent, sign=True)
    return (
        number_cell(None)
        if value is None
        else Cell(signed(value), value, more="no interval" if low is None else PAGE.of_error(low, high, signed))
    )


def verdict_cell(kappa: Document) -> Cell:
    """Say what the order of the steps does, in a colour where it does something."""
    word = verdict(kappa)
    return Cell(word, word, f"name {word}" if word in (HELPS, HURTS) else "name")


def interval_cell(low: float | None, high: float | None) -> Cell:
    """Show the interval of an error."""
    return Cell(PAGE.of_error(low, high), key_of(low), "soft")


def range_of(rank: Document, name: str) -> str:
    """Range of r* over random orders of the same steps, or of its estimate."""
    return PAGE.interval(rank.get(f"{name}_low"), rank.get(f"{name}_high"), PAGE.count)


def key_of(value: float | None) -> float:
    """Sort what is missing below all numbers."""
    return -math.inf if value is None else float(value)
