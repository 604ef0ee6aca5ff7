"""The rows that an audit looks at: every committed or journalled row of every segment, abandoned ones too.

The integrity check reads every byte of a run. A witness stands behind it and takes from each chunk, while it is in
memory, what the other checks need: the small arrays, and of the sketch the squared norm of each row and group. So
one pass serves them all, and zarr is asked only for single rows that a check wants to see, and for journals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gradlog.analysis.audit.files import Files, Folder
from gradlog.analysis.audit.flushes import Flush, flush
from gradlog.analysis.audit.handed_files import headers
from gradlog.analysis.common.types import Progress
from gradlog.analysis.reading.run import Run, open_run
from gradlog.analysis.reading.store.segment import Segment
from gradlog.errors import CorruptRunError
from gradlog.format import layout, shards
from gradlog.format.chain import manifest_reader, walk
from gradlog.format.codec import HEAD, decode, frame_fault, is_intact
from gradlog.format.header import NONFINITE, RunHeader, SegmentHeader
from gradlog.format.layout import SCALAR_COLUMNS, ChunkKey, chunk_codec, chunk_shape, decoded_bytes
from gradlog.format.names import JOURNAL_PATTERN

Floats = NDArray[np.float64]

_PIECE = 4096
"""Longest float32 dot product, as in the recorder's own norms."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one segment holds.

    Attributes
    ----------
    steps : int64 array (rows,)
    flags : uint32 array (rows,)
    norm2 : float64 array (rows, group)
        Squared norms as recorded, of the full gradient.
    sketch2 : float64 array (rows, group)
        Squared norms of the sketches.
    scalars : dict of str to float64 array (rows,)
    read : callable
        From a row's number to its sketch, float32 (group, k).
    flushes : callable
        Gives what the manifests tell, one after another.
    """

    header: SegmentHeader
    steps: NDArray[np.int64]
    flags: NDArray[np.uint32]
    norm2: Floats
    sketch2: Floats
    scalars: dict[str, Floats]
    read: Callable[[int], NDArray[np.float32]]
    flushes: Callable[[], Iterator[Flush]]

    @property
    def name(self) -> str:
        """Folder of the segment."""
        return self.header.name

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Rows without NaN or inf, by the recorder's own flag."""
        return np.asarray((self.flags & NONFINITE) == 0)

    def total_norm(self) -> Floats:
        """Norm of the whole recorded vector, (rows,)."""
        with np.errstate(all="ignore"):
            return np.asarray(np.sqrt(self.norm2.sum(axis=1)))


class Witness:
    """The files of a local run, which must be within the limits; remembers the chunks that were read.

    Attributes
    ----------
    header : RunHeader
    segments : list of SegmentHeader
    problems : list of str
        Chunks that cannot be decoded, or whose checksum is wrong.
    """

    def __init__(self, folder: Path, progress: Progress = lambda done, total: None) -> None:
        self._folder, self._progress = folder, progress
        self.header, self.segments = headers(folder)
        self._files: Files = Folder(folder, self.header)
        self.problems: list[str] = []
        self._tables = {s.name: _Table(self.header, s) for s in self.segments}
        self._total, self._seen = sum(s.rows for s in self.segments), set[str]()

    def get(self, key: str) -> bytes | None:
        """Read a file, and note what it holds if it is a chunk that was not seen before."""
        data = self._files.get(key)
        name, _, inside = key.partition("/")
        if data is not None and name in self._tables and key not in self._seen and (chunk := ChunkKey.parse(inside)):
            self._seen.add(key)
            try:
                self._tables[name].note(chunk, data)
            except Exception as error:  # whatever a codec makes of hostile bytes
                self.problems.append(f"{key}: cannot be decoded ({str(error) or type(error).__name__})")
            self._progress(sum(t.noted for t in self._tables.values()), self._total)
        return data

    def keys(self) -> list[str]:
        """Every key of the run."""
        return self._files.keys()

    @cached_property
    def run(self) -> Run:
        """The run as any reader sees it."""
        return open_run(self._folder)

    @cached_property
    def evidence(self) -> list[Evidence]:
        """What every segment holds; all of its chunks must have been read."""
        return [self._segment(s, self._tables[s.name]) for s in self.segments]

    def _segment(self, header: SegmentHeader, table: _Table) -> Evidence:
        def read(row: int) -> NDArray[np.float32]:
            out = np.empty((1, len(self.header.groups), self.header.sketch.k), np.float32)
            self._opened(header.name).read_rows(row, row + 1, out)
            return np.asarray(out[0])

        def flushes() -> Iterator[Flush]:
            return self._flushes(header)

        if not any(JOURNAL_PATTERN.fullmatch(p.name) for p in (self._folder / header.name).iterdir()):
            found = table.columns
            columns = {name: found["scalars"][:, i] for i, name in enumerate(header.scalars)}
            norms = found["group_norm2"], found["sketch"]
            return Evidence(header, found["step"], found["flags"], *norms, columns, read, flushes)
        segment = self._opened(header.name)
        if segment.committed != header.rows:
            raise CorruptRunError(f"{header.name}: rows were added while it was looked at; look again")
        tail = np.empty((0, len(self.header.groups))) if segment.tail is None else squared_norms(segment.tail.sketch)
        sketch2 = np.concatenate([table.columns["sketch"], tail])
        return Evidence(header, segment.steps, segment.flags, segment.norm2, sketch2, segment.scalars, read, flushes)

    def _opened(self, name: str) -> Segment:
        return next(s for s in self.run.segments if s.header.name == name)

    def _flushes(self, segment: SegmentHeader) -> Iterator[Flush]:
        """Read what the manifests of a segment tell, one by one, since there may be many."""
        last: int | None = None
        read = manifest_reader(lambda key: self._files.get(f"{segment.name}/{key}") or b"", segment)
        for link in walk(map(read, range(segment.flushes)), segment.root, segment.name):
            told = flush(link.body, last)
            last = told.last
            yield told


class _Table:
    """Arrays of a segment, filled as its chunks come by; sketches as squared norms."""

    def __init__(self, header: RunHeader, segment: SegmentHeader) -> None:
        self._chunk, self._shard = header.chunk, segment.shard
        self._metadata = layout.arrays(header, dataclasses.replace(segment, shard=0, snapshots=0))
        # Zeros take no memory until chunks that are really there are written into them.
        self.columns = {
            name: np.zeros(meta["shape"][:2], np.float64 if len(meta["shape"]) == 3 else meta["data_type"])
            for name, meta in self._metadata.items()
        }
        self.noted = 0

    def note(self, key: ChunkKey, data: bytes) -> None:
        """Take in a chunk, or all chunks of a shard."""
        if key.array not in self._metadata:
            return
        if not key.shard:
            self._put(key.array, key.index, key.column, data)
            return
        for i, chunk in enumerate(shards.unpack(data, self._shard)):
            if chunk is not None:
                self._put(key.array, key.index * self._shard + i, key.column, chunk)

    def _put(self, array: str, index: int, column: int, data: bytes | memoryview) -> None:
        meta = self._metadata[array]
        part = self.columns[array][index * self._chunk : (index + 1) * self._chunk]
        if fault := frame_fault(chunk_codec(meta), decoded_bytes(meta), bytes(data[:HEAD]), len(data)):
            raise ValueError(fault)  # before anything is decoded: it may be a bomb
        if not is_intact(data):
            raise ValueError("its checksum is wrong")
        values = decode(chunk_codec(meta), data, meta["data_type"], chunk_shape(meta))[: len(part)]
        if values.ndim == 3:
            part[:] = squared_norms(values.astype(np.float32, copy=False))
            self.noted += len(part) if array == "sketch" else 0
        elif array == "scalars":
            columns = part[:, column * SCALAR_COLUMNS : (column + 1) * SCALAR_COLUMNS]
            columns[:] = values[:, : columns.shape[1]]
        else:
            part[:] = values


def squared_norms(rows: NDArray[np.float32]) -> Floats:
    """Sum of squares over the last axis of (rows, group, k), to about six digits whatever the magnitude."""
    k = rows.shape[2]
    with np.errstate(all="ignore"):
        pieces = [rows[:, :, start : start + _PIECE] for start in range(0, k, _PIECE)]
        total: Floats = np.asarray(np.sum([np.vecdot(p, p) for p in pieces], axis=0, dtype=np.float64))
        again = ~((total > 1e-30 * k) & (total < np.inf))
        total[again] = np.square(rows[again].astype(np.float64)).sum(axis=-1)
    return total
