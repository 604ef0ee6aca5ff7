"""The durable tail: each row is appended to a local file before ``step()`` returns.

The operating system keeps what was written when the process dies, so a killed job loses no row that it was
told is logged. One file a chunk; it goes when the chunk is committed, so the tail never grows past a chunk.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradlog import records
from gradlog.schema import JOURNAL


class JournalWriter:
    """Appends rows of one segment.

    Parameters
    ----------
    folder : Path
        The segment's directory, or a spool directory when the store is remote.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._fd = -1
        self._names = 0

    def path(self, chunk: int) -> Path:
        """File of the rows of chunk ``chunk``."""
        return self._folder / JOURNAL.format(chunk)

    def row(
        self,
        chunk: int,
        step: int,
        flags: int,
        norm2: NDArray[np.float64],
        sketch: NDArray[np.float32],
        scalars: NDArray[np.float64],
        names: list[str],
    ) -> None:
        """Append one row, opening the chunk's file first where needed."""
        parts = [self._name_record(names), records.row_record(step, flags, norm2, sketch, scalars)]
        if self._fd < 0:
            self._fd = os.open(self.path(chunk), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
            parts.insert(0, records.head(chunk))
        self._write(b"".join(parts))

    def annotate(self, row: int, columns: list[int], values: list[float], names: list[str]) -> None:
        """Append scalars that belong to row ``row`` of the current chunk."""
        if self._fd >= 0:
            self._write(self._name_record(names) + records.annotation_record(row, columns, values))

    def rotate(self) -> None:
        """Leave the current file as it is; the next row starts another."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._names = -1, 0

    def remove(self, chunk: int) -> None:
        """Drop the file of a chunk that is committed."""
        with contextlib.suppress(FileNotFoundError):
            self.path(chunk).unlink()

    def _name_record(self, names: list[str]) -> bytes:
        if len(names) == self._names:
            return b""
        self._names = len(names)
        return records.names_record(names)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
