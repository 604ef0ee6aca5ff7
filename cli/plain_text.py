"""Plain text for 80 columns: a line of labels, numbers below. Strings in, strings out."""

from __future__ import annotations

import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

import click

from gradlog.analysis.common.text import TERMINAL, abbreviate
from gradlog.analysis.common.text import printable as printable

WIDTH = 80

SPARK = 40
"""Letters of a sparkline at most."""

BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-:=+*#"


def size(count: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def heading(text: str) -> str:
    """Title of a table."""
    return click.style(text, bold=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Align cells under their labels, numbers to the right; ``left`` columns to the left."""
    cells = [[printable(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        aligned = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return ("  " + "  ".join(aligned)).rstrip()

    return [click.style(line(columns), dim=True), *map(line, cells)]


def kappas(columns: Sequence[str], rows: Iterable[Sequence[str]], footnote: str, most: int = 14) -> list[str]:
    """Lay out a table of kappas in few letters: labels have at most so many, and no zero stands after ±."""
    short = [
        [abbreviate(label, most), *(c.replace(" ±", "±").replace("±0.", "±.").replace("<0.", "<.") for c in cells)]
        for label, *cells in rows
    ]
    return [*table(columns, short), "", *wrap(footnote)]


def wrap(text: str, first: str = "  ") -> list[str]:
    """Break into lines, the first one after ``first`` and the others after as many blanks.

    Longer words, such as a path to copy, stay whole, and so does ``5 %``.
    """
    keep, whole = " " * len(first), text.replace(" %", "\0%")
    lines = textwrap.wrap(
        whole, WIDTH, initial_indent=first, subsequent_indent=keep, break_on_hyphens=False, break_long_words=False
    )
    return [line.replace("\0", " ") for line in lines] or [first.rstrip()]


def note(text: str) -> list[str]:
    """Wrap and indent a warning or remark."""
    return wrap(printable(text), "  * ")


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Aligned ``label  value`` lines, long values wrapped under themselves; empty values left out."""
    shown = [(label, printable(value)) for label, value in pairs if value not in (None, "", [], {})]
    width = max((len(label) for label, _ in shown), default=0)
    return [line for label, value in shown for line in wrap(value, f"  {label.ljust(width)}  ")]


def spark(values: Iterable[float | None], width: int = SPARK) -> str:
    """Draw values as a line of small bars, from the least to the largest; a gap where there is none.

    Longer rows are cut into ``width`` stretches of nearly equal length, each shown by its mean.
    """
    numbers = [None if v is None or not math.isfinite(v) else v for v in values]
    edges = [
        round(i * len(numbers) / min(len(numbers), width))
        for i in range(min(len(numbers), width) + 1 if numbers else 0)
    ]
    cells = [_mean([v for v in numbers[a:b] if v is not None]) for a, b in pairwise(edges)]
    shown = [c for c in cells if c is not None]
    if not shown:
        return ""
    low, bars = min(shown), BARS if _can_show(BARS) else ASCII_BARS
    half = max(shown) / 2 - low / 2  # the whole range may be more than a float holds
    heights = [None if c is None else (c / 2 - low / 2) / half if half else 0.0 for c in cells]
    return "".join(" " if h is None else bars[round(h * (len(bars) - 1))] for h in heights)


def _mean(values: Sequence[float]) -> float | None:
    """Mean, within the values whatever the rounding: a constant stays one."""
    return min(max(sum(values) / len(values), min(values)), max(values)) if values else None


def curve(name: str, values: Sequence[float | None], width: int = 0, ends: str = "") -> str:
    """Name, sparkline, and the range of its values if no other is given; fewer letters on a narrow terminal."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    ends = ends or (TERMINAL.interval(min(known), max(known)) if known else "")
    label = printable(name).ljust(width)
    letters = max(8, min(SPARK, _columns() - len(label) - len(ends) - 6))
    return f"  {label}  {spark(values, letters)}  {ends}".rstrip()


def curves(named: Iterable[tuple[str, Sequence[float | None]]]) -> list[str]:
    """Align several curves under each other."""
    shown = list(named)
    width = max((len(name) for name, _ in shown), default=0)
    return [curve(name, values, width) for name, values in shown]


def _columns() -> int:
    """Width of the terminal; of a pipe or file that of every other text."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size((WIDTH, 24)).columns if on_terminal else WIDTH


def _can_show(text: str) -> bool:
    """Whether standard output's encoding has these letters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
