"""One open segment: the way of a row from a gradient to memory, journal and, chunk by chunk, the store.

Everything here raises freely; :mod:`gradlog.logger` decides what becomes of an error.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog import sketch
from gradlog.buffer import Block
from gradlog.errors import GradientError, SpecMismatchError, StepOrderError
from gradlog.flusher import Flusher
from gradlog.journal import JournalWriter
from gradlog.resume import Layout, Plan, journal_folder, open_segment, with_parent
from gradlog.schema import NONFINITE, PARTIAL, SKIPPED
from gradlog.store import SegmentWriter, read_segment, round_mantissa
from gradlog.tree import as_numpy

PATIENCE = 5.0
"""Seconds that training waits for a slow disk before rows are dropped, once an outage."""


Fill = Callable[[NDArray[np.float32], NDArray[np.float64]], int]
"""Writes one row's sketches (G, k) and squared norms (G,); returns how many tensors had no gradient."""


class Row(NamedTuple):
    """One step as a hook hands it over.

    Attributes
    ----------
    arrays : sequence of ndarray or None, or callable
        Gradients in the order of the run's tensors; or a :data:`Fill`, where they were sketched elsewhere.
    scalars : mapping
        Numbers, or one-element tensors that are read when the row is written.
    flags : int
        Bits of ``flags``.
    skipped : bool or tensor
        Whether the optimizer skipped this step; read when the row is written.
    later : bool
        The sketch is still under way on a device: write the row when the next step comes, or at the end.
    """

    arrays: Sequence[NDArray[Any] | None] | Fill
    scalars: Mapping[str, Any]
    flags: int = 0
    skipped: Any = False
    later: bool = False


class Recording:
    """Appends rows to a segment that it has claimed for itself.

    Parameters
    ----------
    plan : Plan
        The checked arguments of :func:`gradlog.open`.
    layout : sequence of (name, shape, dtype)
        The parameter tensors.
    notify : callable
        Told, once an outage, that rows are being dropped and why.
    """

    def __init__(self, plan: Plan, layout: Layout, notify: Callable[[str], None]) -> None:
        opened = open_segment(plan, layout)
        self.header = opened.header
        self.next = opened.next_step
        self.rows = 0
        self._sink = opened.sink
        self._parents = opened.parents
        self._writer = SegmentWriter(opened.sink, opened.header, opened.segment)
        folder = journal_folder(plan, opened.header, opened.segment)
        self._journal = JournalWriter(folder) if plan.journal else None
        self._projector = sketch.projector(self.header.sketch, self.header.tensors, len(self.header.groups))
        self._index = {t.name: i for i, t in enumerate(self.header.tensors)}
        self._names: dict[str, int] = {}
        self._pending: dict[str, float] = {}
        self._dropped: list[tuple[int, int, str]] = []
        self._flusher = Flusher(self._commit, [Block(self.header)])
        self._block: Block | None = Block(self.header)
        self._chunks = 1
        self._last: int | None = None
        self._flight: tuple[int, Row] | None = None
        self._notify = notify

    def ordered(self, pairs: Sequence[tuple[str, Any]]) -> list[NDArray[Any] | None]:
        """Named gradients in the order of the run's tensors; those that are left out are None."""
        arrays: list[NDArray[Any] | None] = [None] * len(self._index)
        for name, leaf in pairs:
            if name not in self._index:
                raise GradientError(f"{name!r} is no parameter of this run, which has {list(self._index)[:4]} ...")
            arrays[self._index[name]] = as_numpy(leaf, name)
        return arrays

    def append(self, source: Callable[[], Row], step: int | None) -> None:
        """Write one row. ``source`` is asked only when the step is one that is recorded."""
        self._land()
        number = self.next if step is None else int(step)
        if self._last is not None and number <= self._last:
            raise StepOrderError(f"steps must increase: expected at least {self._last + 1}, got {number}")
        self.next = number + 1
        if number % self.header.every:
            return
        row = source()
        row = row._replace(scalars={"wall_time": time.time(), **self._pending, **row.scalars})
        self._flight = (number, row)
        if not row.later:
            self._land()

    def _land(self) -> None:
        """Write the row that is under way, if there is one."""
        if self._flight is None:
            return
        (number, row), self._flight = self._flight, None
        if self._flusher.error is not None:
            raise self._flusher.error
        block = self._room()
        if block is None:
            self._drop(number, "the disk did not keep up")
            return
        i = block.rows
        fill = row.arrays if callable(row.arrays) else functools.partial(self._projector.project, row.arrays)
        missing = fill(block.sketch[i], block.norm2[i])
        if missing == len(self._index):
            self._drop(number, "no parameter had a gradient")
            return
        round_mantissa(block.sketch[i], self.header.sketch_bits)
        flags = row.flags | (SKIPPED if row.skipped else 0)
        if missing:
            flags |= PARTIAL
        if not (np.isfinite(block.norm2[i]).all() and np.isfinite(block.sketch[i]).all()):
            flags |= NONFINITE
        block.step[i], block.flags[i] = number, flags
        block.scalars[i] = np.nan
        for name, value in row.scalars.items():
            self._set(block, i, name, value)
        if self._journal is not None:
            values = block.scalars[i, : len(self._names)]
            names = list(self._names)
            self._journal.row(block.index, number, flags, block.norm2[i], block.sketch[i], values, names)
        if self._last is None and self._parents:
            self._writer.segment = with_parent(self._writer.segment, self._parents, number)
        self._pending.clear()
        self._last = number
        self.rows += 1
        block.rows = i + 1

    def annotate(self, scalars: Mapping[str, float]) -> None:
        """Add scalars to the newest row, or keep them for the first one."""
        if self._flight is not None:
            number, row = self._flight
            self._flight = (number, row._replace(scalars={**row.scalars, **scalars}))
        elif self._last is None:
            self._pending.update({name: float(value) for name, value in scalars.items()})
        elif self._block is not None and self._block.rows and self._last == self.next - 1:
            i = self._block.rows - 1
            columns = [self._set(self._block, i, name, value) for name, value in scalars.items()]
            if self._journal is not None:
                self._journal.annotate(i, columns, list(map(float, scalars.values())), list(self._names))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        s = self._writer.segment
        return {"uuid": self.header.uuid, "segment": s.name, "rows": s.rows, "head": s.head, "step": self.next}

    def rewind(self, state: Mapping[str, Any]) -> None:
        """Continue at a checkpoint's step; the run must still hold what the checkpoint saw committed."""
        if self.rows:
            raise StepOrderError("load_state_dict must come before the first step of this process")
        if state["uuid"] != self.header.uuid:
            raise SpecMismatchError(f"the checkpoint belongs to run {state['uuid']}, this is {self.header.uuid}")
        if read_segment(self._sink, str(state["segment"])).rows < int(state["rows"]):
            raise SpecMismatchError(f"{state['segment']} has lost rows that were committed at the checkpoint")
        self.next = int(state["step"])

    def finish(self, status: str, reason: str, wait: float) -> None:
        """Commit what is left and end the segment. What cannot be committed stays in the journal.

        Raises
        ------
        TimeoutError
            The disk took nothing for ``wait`` seconds.
        OSError
            As the file system says.
        """
        if status == "closed":
            self._land()
        if self._journal is not None:
            self._journal.rotate()
        if not self._flusher.close(wait):
            raise TimeoutError(f"the disk took nothing for {wait:.0f} s; the last rows are in the journal")
        error = self._flusher.error
        if error is None and self._block is not None:
            block, self._block = self._block, None
            try:
                self._commit(self._named(block))
            except OSError as failure:
                error = failure
        if error is not None:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self._writer.finish(status, reason, tuple(self._dropped))
        if error is not None:
            raise error

    def _set(self, block: Block, i: int, name: str, value: float) -> int:
        column = self._names.setdefault(name, len(self._names))
        block.widen(column + 1)
        block.scalars[i, column] = float(value)
        return column

    def _room(self) -> Block | None:
        """Return the block to write to, handing a full one over first; None while the disk keeps both."""
        wait = 0.0
        if self._block is not None:
            if not self._block.full:
                return self._block
            full, self._block = self._block, None
            if self._journal is not None:
                self._journal.rotate()
            self._flusher.submit(self._named(full))
            wait = PATIENCE
        free = self._flusher.take(wait)
        if free is not None:
            self._block = free.reuse(self._chunks)
            self._chunks += 1
        return self._block

    def _drop(self, number: int, reason: str) -> None:
        previous = self._dropped[-1] if self._dropped else None
        if previous and previous[1] == number - self.header.every and previous[2] == reason:
            self._dropped[-1] = (previous[0], number, reason)
            return
        self._dropped.append((number, number, reason))
        self._notify(f"step {number} and maybe more are not recorded: {reason}")

    def _named(self, block: Block) -> Block:
        block.names = list(self._names)
        block.widen(len(block.names))
        return block

    def _commit(self, block: Block) -> None:
        self._writer.commit(block, tuple(self._dropped))
        if self._journal is not None:
            self._journal.remove(block.index)
