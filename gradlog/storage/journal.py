"""The durable tail: each row is written to a local file before ``step()`` returns.

The operating system keeps what was written when the process dies, so a killed job loses no row that it was
told is logged. One file per chunk, deleted when the chunk is committed, so the tail never grows past the blocks in
memory. Every record is written at a place that follows from the rows that count: one that was interrupted before
its row counted is overwritten by the next.
"""

from __future__ import annotations

import contextlib
import os
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog.format import journal
from gradlog.format.names import JOURNAL, WAITING, temporary
from gradlog.storage.sink import new_file, write_new


class _Mark(NamedTuple):
    """What a file holds: rows, bytes, and how many scalar names it tells."""

    rows: int
    end: int
    names: int


class JournalWriter:
    """Writes the rows of one segment.

    Parameters
    ----------
    folder : Path
        The segment's directory, or a spool directory when the store is remote; named like the segment, and there.
    uuid : str
        The run's.
    """

    def __init__(self, folder: Path, uuid: str) -> None:
        self._owner = journal.owner(uuid, folder.name)
        self._folder = folder
        self._file: FileIO | None = None
        self._chunk = -1
        self._reach = 0
        self._marks = (_Mark(0, 0, 0), _Mark(0, 0, 0))

    def path(self, chunk: int) -> Path:
        """File of the rows of chunk ``chunk``."""
        return self._folder / JOURNAL.format(chunk)

    def row(self, chunk: int, row: int, record: bytes, names: list[str]) -> None:
        """Write the record of row number ``row`` of a chunk, in place of one of that number that never counted."""
        if chunk != self._chunk:
            self._open(chunk)
        before, after = self._marks
        mark = after if after.rows == row else before
        data = _new_names(names, mark) + record
        self._write(data, mark.end)
        self._marks = mark, _Mark(row + 1, mark.end + len(data), len(names))

    def annotate(self, chunk: int, row: int, columns: list[int], values: list[float], names: list[str]) -> None:
        """Write scalars that belong to the newest row, number ``row`` of its chunk."""
        before, after = self._marks
        if chunk != self._chunk or after.rows != row + 1:
            return
        data = _new_names(names, after) + journal.annotation_record(row, columns, values)
        self._write(data, after.end)
        self._marks = before, _Mark(after.rows, after.end + len(data), len(names))

    def keep(self, number: int, step: int, theta: NDArray[np.float32]) -> None:
        """Write the sketch of the parameters that is the segment's ``number``-th, in a file of its own."""
        path = self._folder / WAITING.format(number)
        begun = path.with_name(temporary(path.name))  # one of the same number counts until this is whole
        write_new(str(begun), [journal.snapshot_file(number, self._owner, step, theta)])
        begun.replace(path)

    def remove(self, chunk: int) -> None:
        """Drop the file of a chunk that is committed."""
        with contextlib.suppress(FileNotFoundError):
            self.path(chunk).unlink()

    def forget(self, number: int) -> None:
        """Drop the file of a sketch of the parameters that is committed."""
        (self._folder / WAITING.format(number)).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    @property
    def _descriptor(self) -> int:
        assert self._file is not None
        return self._file.fileno()

    def _open(self, chunk: int) -> None:
        self.close()
        self.remove(chunk)  # one that was begun and interrupted
        try:
            self._file, self._reach = FileIO(new_file(self.path(chunk)), "w"), 0
        except FileNotFoundError:
            raise FileNotFoundError(f"{self._folder} is gone: somebody deleted, moved or replaced the run") from None
        head = journal.head(chunk, self._owner)
        self._write(head, 0)
        self._marks = (_Mark(0, len(head), 0),) * 2
        self._chunk = chunk

    def _write(self, data: bytes, at: int) -> None:
        if self._reach > at:  # of a record that never counted
            os.ftruncate(self._descriptor, at)
        self._reach = at + len(data)  # before the write: an interrupt may leave it too large, never too small
        view = memoryview(data)
        while view:
            n = os.pwrite(self._descriptor, view, at)
            view, at = view[n:], at + n


def _new_names(names: list[str], mark: _Mark) -> bytes:
    return b"" if len(names) == mark.names else journal.names_record(names)
