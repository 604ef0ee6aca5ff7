"""Where the rows come from: a small picklable map from view rows to segments, read inside the task that needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gradlog.format.journal import Journal

if TYPE_CHECKING:
    from gradlog.analysis.reading.store.segment import Segment
    from gradlog.analysis.reading.store.stores import Location

_listeners: list[Callable[[int, int], None]] = []


@contextlib.contextmanager
def heard(listener: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``listener(rows, bytes)`` after every read of this process, in the thread that read."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@dataclasses.dataclass(frozen=True)
class Block:
    """Small columns of view rows from ``start`` on: squared norms (rows, group), finite (rows,), scalars by name."""

    start: int
    norms: NDArray[np.float64]
    finite: NDArray[np.bool_]
    scalars: dict[str, NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class Span:
    """View rows [start, stop): the same number of rows of each member (segment name, first local row).

    Several members are the ranks of one job: their rows add up, for the sketch is linear.
    """

    start: int
    stop: int
    members: tuple[tuple[str, int], ...]


class RowSource:
    """Rows of a view of a run, float32 (rows, n), n = groups x k.

    Pickles to its location, its spans and the journal's few rows; the store is opened where it is read.

    Attributes
    ----------
    n, n_groups, k : int
        Columns of a row; groups, and coordinates of each.
    chunk : int
        Rows of a stored chunk, the natural unit of reading.
    starts, firsts, every : int64 array, int64 array, int
        Rows from which on steps go up by ``every``, and their steps.
    history : dict of int to (int, int)
        By the first row of a chain, the rows of another source that come before it; see ``remember``.
    array : str
        Which array of a segment is read.
    """

    array = "sketch"

    def __init__(self, location: Location, spans: tuple[Span, ...], shape: tuple[int, int], chunk: int) -> None:
        self.location, self.spans, self.chunk = location, spans, chunk
        self.n_groups, self.k = shape
        self.tails: dict[str, tuple[Journal, int]] = {}
        self.starts, self.firsts, self.every = np.zeros(1, np.int64), np.zeros(1, np.int64), 1
        self.history: dict[int, tuple[int, int]] = {}
        self._origin = self
        self._open: dict[str, Segment] = {}

    @property
    def n(self) -> int:
        """Columns of a row."""
        return self.n_groups * self.k

    def __len__(self) -> int:
        return self.spans[-1].stop if self.spans else 0

    def adopt(self, segments: list[Segment]) -> None:
        """Use these already opened segments in this process, and carry their journal rows elsewhere."""
        self._open = {s.header.name: s for s in segments}
        self.tails = {s.header.name: (s.tail, s.committed) for s in segments if s.tail is not None}

    def tell_steps(self, steps: NDArray[np.int64], every: int) -> None:
        """Take the step of each row, in a form that tasks carry along whatever the length of the run."""
        self.starts = np.concatenate([[0], np.flatnonzero(np.diff(steps) != every) + 1])[: len(steps)]
        self.firsts, self.every = steps[self.starts], every

    def updates(self) -> RowSource:
        """Return the updates beside these rows: in the same order, NaN where a segment has none."""
        beside = RowSource.__new__(RowSource)
        beside.__dict__.update(self.__dict__, array="update")
        return beside

    def read(self, start: int, stop: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Read view rows [start, stop) into ``out`` (stop - start, n) and return it."""
        if out is None:
            out = np.empty((stop - start, self.n), np.float32)
        cube = out.reshape(len(out), self.n_groups, self.k)
        for span in self.spans:
            low, high = max(start, span.start), min(stop, span.stop)
            if low < high:
                self._read_span(span, low, high, cube[low - start : high - start])
        for listener in tuple(_listeners):
            listener(len(out), out.nbytes)
        return out

    def remember(self, origin: RowSource, history: dict[int, tuple[int, int]]) -> None:
        """Take rows of another source as the history of chains, by their first row."""
        self._origin, self.history = origin, history

    def before(self, row: int) -> NDArray[np.float32]:
        """Read the rows that are history of the chain which begins here; of most runs there are none."""
        return self._origin.read(*self.history[row]) if row in self.history else np.empty((0, self.n), np.float32)

    def norms(self, start: int, stop: int) -> NDArray[np.float64]:
        """Squared norms of view rows [start, stop), (rows, groups)."""
        cube = self.read(start, stop).reshape(stop - start, self.n_groups, self.k)
        found: NDArray[np.float64] = np.einsum("tgk,tgk->tg", cube, cube, dtype=np.float64)
        return found

    def epoch_numbers(self, start: int, stop: int, epoch: tuple[int, int]) -> NDArray[np.int64]:
        """Tell the number of the epoch of view rows [start, stop), for epochs of so many steps from such a step on."""
        rows = np.arange(start, stop)
        piece = np.searchsorted(self.starts, rows, "right") - 1
        steps = self.firsts[piece] + self.every * (rows - self.starts[piece])
        return np.asarray((steps - epoch[1]) // epoch[0], np.int64)

    def rank_norms(self, start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Sum of the squared norms of each rank's own row, (rows, groups), and the number of ranks, (rows,)."""
        norms, ranks = np.zeros((stop - start, self.n_groups)), np.zeros(stop - start, np.int64)
        for span in self.spans:
            low, high = max(start, span.start), min(stop, span.stop)
            own = np.empty((max(high - low, 0), self.n_groups, self.k), np.float32)
            for member in span.members if low < high else ():
                self._read_member(member, low - span.start, high - span.start, own)
                norms[low - start : high - start] += np.einsum("tgk,tgk->tg", own, own, dtype=np.float64)
                ranks[low - start : high - start] += 1
        return norms, ranks

    def _read_span(self, span: Span, low: int, high: int, out: NDArray[np.float32]) -> None:
        first, *others = span.members
        self._read_member(first, low - span.start, high - span.start, out)
        if others:
            more = np.empty_like(out)
            for member in others:
                self._read_member(member, low - span.start, high - span.start, more)
                out += more

    def _read_member(self, member: tuple[str, int], low: int, high: int, out: NDArray[np.float32]) -> None:
        name, offset = member
        self._segment(name).read_rows(offset + low, offset + high, out, self.array)

    def _segment(self, name: str) -> Segment:
        if name not in self._open:
            segment = _open_segment(cast(Hashable, self.location), name, os.getpid())
            if name in self.tails:
                # The writer may have committed more since: the rows of this view stay the ones it was made of.
                tail, committed = self.tails[name]
                header = dataclasses.replace(segment.header, rows=committed)
                segment = dataclasses.replace(segment, header=header, tail=tail)
            self._open[name] = segment
        return self._open[name]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}


@lru_cache(maxsize=64)
def _open_segment(location: Hashable, name: str, pid: int) -> Segment:
    # here, so that what only plans with rows needs no zarr
    from gradlog.analysis.reading.store.metadata import read_metadata
    from gradlog.analysis.reading.store.segment import Segment

    metadata = read_metadata(cast("Location", location), only=name)
    return Segment.open(metadata, metadata.segments[0])


BLOCK_BYTES, BUFFER_BYTES = 32 * 2**20, 8 * 2**20


def buffer_rows(source: RowSource) -> int:
    """Rows read at a time: whole chunks, about 8 MiB."""
    return max(1, BUFFER_BYTES // (4 * source.n * source.chunk)) * source.chunk


def block_rows(source: RowSource) -> int:
    """Rows of a task: whole buffers, about 32 MiB."""
    buffer = buffer_rows(source)
    return max(1, BLOCK_BYTES // (4 * source.n * buffer)) * buffer


def increment_rows(chains: NDArray[np.int64]) -> NDArray[np.int64]:
    """View rows that have an increment: those that directly follow one of their chain.

    >>> increment_rows(np.array([[0, 2], [3, 6]])).tolist()
    [1, 4, 5]
    """
    return np.concatenate([np.empty(0, np.int64), *(np.arange(start + 1, stop) for start, stop in chains)])
