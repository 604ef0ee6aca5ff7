"""Which journals continue a segment after its chunks, and what is wrong with them; reader and audit agree on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradlog.format.journal import Journal
from gradlog.format.names import JOURNAL


def following(journals: Mapping[int, Journal], rows: int, chunk: int) -> Iterator[tuple[Journal, str]]:
    """Walk over the journals that hold rows which no chunk has, oldest first.

    Parameters
    ----------
    journals : mapping of int to Journal
        Journals of one segment by the number in their file name.
    rows : int
        Rows that chunks hold.
    chunk : int
        Rows of a chunk.

    Yields
    ------
    journal : Journal
    fault : str
        Why its rows cannot be shown as the next ones, for an error message; empty for a sound journal. A last record
        that was cut short is none: that is how a kill looks.

    Examples
    --------
    >>> list(following({}, rows=16, chunk=16))
    []
    """
    for index, journal in sorted(journals.items()):
        start, name = index * chunk, JOURNAL.format(index)
        if start < rows:
            continue  # a chunk took its rows over
        if journal.chunk >= 0 and journal.chunk != index:
            yield journal, f"{name}: holds rows of chunk {journal.chunk}"
        elif journal.damaged or len(journal) > chunk:
            yield journal, f"{name}: damaged behind row {rows + len(journal)} of the segment"
        elif len(journal) and start > rows:
            missing = JOURNAL.format(rows // chunk)
            yield journal, f"{name}: rows {rows} to {start - 1} before it are missing; {missing} held them"
        elif len(journal):
            yield journal, ""
        rows = max(rows, start + len(journal))
