"""An open segment: turns each gradient into a row, journals it, and writes full chunks to the store.

Everything here raises freely; :mod:`gradlog.recorder.recorder` handles the errors.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import GradientError, RunExistsError, SpecMismatchError, StepOrderError, StoreUnavailableError
from gradlog.format.codec import round_mantissa
from gradlog.format.header import NONFINITE, PARTIAL, SKIPPED, WIDENED_GAP
from gradlog.recorder.setup import Layout, Plan, open_segment, with_parent
from gradlog.recorder.step_numbers import Steps
from gradlog.sketching.projector import Entries, projector
from gradlog.sketching.pytree import as_entries
from gradlog.storage import spool
from gradlog.storage.block import Block
from gradlog.storage.commit import Commit, SegmentWriter, read_segment
from gradlog.storage.flusher import Flusher
from gradlog.storage.journal import JournalWriter
from gradlog.storage.recover import writers
from gradlog.storage.scalar_columns import Columns

log = logging.getLogger("gradlog")

BLOCKS = 2
"""Chunks in memory: one is filled while the other is committed."""

GAPS = 64
"""Intervals of dropped steps that a segment lists one by one; later ones widen the last."""

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
    """

    arrays: Sequence[Entries] | Fill
    scalars: Mapping[str, Any]
    flags: int = 0
    skipped: Any = False
    later: bool = False


class Checkpoint(TypedDict, total=False):
    """Place in a run: its identity, the segment, rows and digest that were committed, and the next step."""

    uuid: str
    segment: str
    rows: int
    head: str
    step: int


class Recording:
    """Appends rows to a segment that it has claimed for itself.

    Parameters
    ----------
    plan : Plan
        What :func:`gradlog.open` was asked for.
    layout : sequence of (name, shape, dtype)
        The parameter tensors.
    notify : callable
        Told that rows are being dropped and why, when that begins.
    new : sequence of (name, shape, dtype)
        Tensors that join the run in this segment.

    Attributes
    ----------
    steps : Steps
        What the loop has told of its steps; a recording that goes on for another one takes it over.
    """

    def __init__(self, plan: Plan, layout: Layout, notify: Callable[[str], None], new: Layout = ()) -> None:
        opened = open_segment(plan, layout, new, notify)
        self.header = opened.header
        self.next = opened.next_step
        self._strict = plan.options.on_error == "raise"
        self._sink, self._parents = opened.sink, opened.parents
        self._writer = SegmentWriter(opened.sink, opened.header, opened.segment)
        self.path = opened.path
        folder = spool.folder(opened.sink, opened.header.uuid, opened.segment.name)
        self._journal = (
            JournalWriter(spool.make(opened.sink, folder), self.header.uuid) if plan.options.journal else None
        )
        self._spool = spool.limit() if plan.options.journal and opened.sink.local is None else 0
        self._projector = projector(self.header.sketch, self.header.tensors, len(self.header.groups))
        self._index = {t.name: i for i, t in enumerate(self.header.tensors)}
        self._columns = Columns(notify)
        self.steps = Steps(notify)
        self._dropped: list[tuple[int, int, str]] = []
        self._snapshots: list[tuple[int, NDArray[np.float32]] | None] = []  # None once the store has it
        self._taken = 0
        ring = [Block(self.header) for _ in range(BLOCKS)]
        self._block = ring[0]
        self._flusher, self._storage = Flusher(self._commit, ring, plan.storage.flush_pauses), plan.storage
        self._patient = True
        self._refusal: StoreUnavailableError | None = None
        self._begun: tuple[int | None, Commit] | None = None
        self._flight: tuple[int, Row] | None = None
        self.notify = notify
        self._finished, self._successor = False, ""
        writers[self.header.uuid, opened.segment.name] = self

    @property
    def writing(self) -> bool:
        """Whether anything more may be written to the segment."""
        return not self._finished or self._flusher.alive

    def supersede(self, successor: str) -> None:
        """End at the next row: another segment goes on from here."""
        self._successor = successor

    @property
    def due(self) -> bool:
        """Whether the next step is one that is recorded."""
        return self.next % self.header.every == 0

    @property
    def rows(self) -> int:
        """Rows of this segment so far."""
        return self._block.index * self.header.chunk + self._block.rows

    @property
    def close_wait(self) -> float:
        """Seconds that closing waits for the store."""
        return self._storage.close_wait

    @property
    def pending(self) -> int:
        """Rows that the store does not have yet."""
        return self.rows - self._writer.segment.rows

    @property
    def outage(self) -> str:
        """Why the store refuses now; empty while it answers."""
        return "" if self._flusher.refusal is None else str(self._flusher.refusal)

    def ordered(self, pairs: Sequence[tuple[str, Any]]) -> list[Entries]:
        """Named gradients in the order of the run's tensors; those that are left out are None."""
        arrays: list[Entries] = [None] * len(self._index)
        for name, leaf in pairs:
            if name not in self._index:
                raise GradientError(f"{name!r} is no parameter of this run, which has {list(self._index)[:4]} ...")
            arrays[self._index[name]] = as_entries(leaf, name)
        return arrays

    def append(self, source: Callable[[], Row], step: int | None) -> None:
        """Write one row. ``source`` is asked only when the step is one that is recorded; after the end nothing is.

        A counter that goes back is counted on from where it was; with ``on_error="raise"`` it is refused.
        """
        if self._finished:
            return
        self._land()
        last = self._block.last
        least = 0 if last is None else last + 1
        number = self.next if step is None else self.steps.number(int(step), least, self.next, self._strict)
        self.next = number + 1
        early = self.steps.claim()
        if number % self.header.every:
            return
        row = source()
        row = row._replace(scalars={"wall_time": time.time(), **early, **row.scalars})
        if row.later:
            self._flight = (number, row)
        else:
            self._write(number, row)

    def _land(self) -> None:
        """Write the row that is under way, if there is one and it was not written before an interrupt."""
        if self._flight is not None:
            number, row = self._flight
            last = self._block.last
            if last is None or number > last:
                self._write(number, row)
            self._flight = None

    def _write(self, number: int, row: Row) -> None:
        """Put a row into memory and journal. It counts from the last line on; what ends it earlier leaves no trace."""
        block = self._room()
        if self._flusher.error is not None:
            raise self._flusher.error
        if self._successor:
            raise RunExistsError(f"another logger opened the same run and goes on from here, in {self._successor}")
        self._watch()
        if block is None:
            self._drop(number, "the spool is full" if self._spool else "the disk did not keep up")
            return
        i = block.rows
        fill = row.arrays if callable(row.arrays) else functools.partial(self._projector.project, row.arrays)
        missing = fill(block.sketch[i], block.norm2[i])
        if missing == len(self._index):
            self._drop(number, "no parameter had a gradient")
            return
        round_mantissa(block.sketch[i], self.header.sketch_bits)
        flags = row.flags | (SKIPPED if row.skipped else 0) | (PARTIAL if missing else 0)
        if not (np.isfinite(block.norm2[i]).all() and np.isfinite(block.sketch[i]).all()):
            flags |= NONFINITE
        block.step[i], block.flags[i] = number, flags
        block.scalars[i] = np.nan
        for name, value in row.scalars.items():
            self._columns.put(block, i, name, value)
        if not self.rows and self._parents:
            self._writer.segment = with_parent(self._writer.segment, self._parents, number)
        if self._journal is not None:
            self._journal.row(block.index, i, block.record(i, len(self._columns)), self._columns.names)
        block.rows = i + 1

    def annotate(self, scalars: Mapping[str, Any]) -> None:
        """Add scalars to the newest row, or keep those for the next step that come before theirs."""
        if self._finished:
            return
        scalars = self.steps.sort(scalars)
        block = self._block
        if self._flight is not None:
            number, row = self._flight
            self._flight = (number, row._replace(scalars={**row.scalars, **scalars}))
        elif block.rows and block.last == self.next - 1:
            i = block.rows - 1
            put = [self._columns.put(block, i, name, value) for name, value in scalars.items()]
            columns = [column for column in put if column is not None]
            if self._journal is not None and columns:
                values = block.scalars[i, columns].tolist()
                self._journal.annotate(block.index, i, columns, values, self._columns.names)

    def projected(self, pairs: Sequence[tuple[str, Any]]) -> Fill:
        """Return a function that sketches these named tensors into a row."""
        return functools.partial(self._projector.project, self.ordered(pairs))

    def snapshot(self, fill: Fill) -> None:
        """Keep a sketch of the parameters as they are before the next step; the next flush stores it."""
        if self._finished:
            return
        self._land()
        groups = len(self.header.groups)
        theta = np.empty((groups, self.header.sketch.k), np.float32)
        fill(theta, np.empty(groups))
        last = self._snapshots[-1] if self._taken < len(self._snapshots) else None
        if last is not None and last[0] == self.next:
            self._keep(len(self._snapshots) - 1, theta)
            if self._taken < len(self._snapshots):
                return  # no flush took what stood there before
        self._keep(len(self._snapshots), theta)

    def _keep(self, number: int, theta: NDArray[np.float32]) -> None:
        if self._journal is not None:
            self._journal.keep(number, self.next, theta)
        self._snapshots[number:] = [(self.next, theta)]

    def state(self) -> Checkpoint:
        """Return what a checkpoint keeps."""
        s = self._writer.segment
        return {"uuid": self.header.uuid, "segment": s.name, "rows": s.rows, "head": s.head, "step": self.next}

    def rewind(self, state: Mapping[str, object]) -> None:
        """Continue at a checkpoint's step; the run must still hold what the checkpoint saw committed."""
        if self.rows:
            raise StepOrderError("load_state_dict must come before the first step of this process")
        if state["uuid"] != self.header.uuid:
            raise SpecMismatchError(f"the checkpoint belongs to run {state['uuid']}, this is {self.header.uuid}")
        if read_segment(self._sink, str(state["segment"])).rows < int(str(state["rows"])):
            raise SpecMismatchError(f"{state['segment']} has lost rows that were committed at the checkpoint")
        self.next = int(str(state["step"]))

    def finish(self, status: str, reason: str, wait: float | None = None, land: bool = True) -> None:
        """Commit what is left and end the segment. What cannot be committed stays in the journal.

        ``wait``: seconds, by default as long as a step waits; ``land``: the row that is under way is part of it.

        Raises
        ------
        StoreUnavailableError
            The store elsewhere refused for ``wait`` seconds; the message says how its rows get there later.
        TimeoutError
            The disk took nothing for ``wait`` seconds.
        OSError
            As the file system says.
        """
        wait = self._storage.step_wait if wait is None else wait
        if land:
            self._land()
        if self._block.rows:
            self._flusher.hand_over(self._named(self._block).index)
        done = self._flusher.close(lambda: self._conclude(status, reason), wait)
        if self._journal is not None:
            self._journal.close()
        self._finished = True
        if not done:
            if self._sink.local is not None:
                raise TimeoutError(f"the disk took nothing for {wait:.0f} s; the last rows are in the journal")
            why = self._flusher.refusal or f"the store took nothing for {wait:.0f} s"
            raise StoreUnavailableError(f"{why}; {spool.fate(self.pending, self._journal is not None, self.path)}")
        if self._flusher.error is not None:
            raise self._flusher.error

    def _conclude(self, status: str, reason: str) -> None:
        error = self._flusher.error
        if error is not None:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        try:
            if len(self._snapshots) > self._writer.segment.snapshots:
                self._commit(None)
            self._writer.finish(status, reason, tuple(self._dropped))
        except StoreUnavailableError:
            raise
        except Exception as failure:
            self._flusher.error = error or failure

    def _watch(self) -> None:
        """Tell when the store begins to refuse, and when it takes rows again."""
        refusal = self._flusher.refusal
        if refusal is not None and self._refusal is None:
            kept = "rows wait in the spool until it is back" if self._spool else "rows will be dropped"
            self.notify(f"{refusal}; training goes on, {kept}")
        elif refusal is None and self._refusal is not None:
            log.info("%s: the store is back", self.path)
        self._refusal = refusal

    def _room(self) -> Block | None:
        """Return the block to write to, handing a full one over first; None while the disk keeps them all."""
        block = self._block
        if not block.full:
            return block
        self._flusher.hand_over(self._named(block).index)
        wait = self._storage.step_wait if self._patient and self._flusher.refusal is None else 0.0
        free = self._flusher.room(block.index + 1, wait)
        self._patient = free is not None
        if free is not None:
            self._block = free.reuse(block.index + 1, block.last)
            return self._block
        return self._spill(block)

    def _spill(self, full: Block) -> Block | None:
        """Return a new block in the place of one whose rows the spool has; None where that would grow past its limit.

        The full block goes to the spool as a whole, as do those that the store has not taken yet.
        """
        chunks = full.index + 2 - self._flusher.done
        waiting = 4 * self.header.n * (len(self._snapshots) - self._writer.segment.snapshots)
        needed = chunks * spool.chunk_bytes(self.header, len(self._columns)) + waiting
        if self._flusher.error is not None or needed > self._spool:
            return None
        fresh = Block(self.header).reuse(full.index + 1, full.last)
        self._flusher.replace(fresh)
        self._block = fresh
        return fresh

    def _drop(self, number: int, reason: str) -> None:
        """Remember that a step was not kept: as part of the last gap where it continues it, or past so many gaps."""
        first, last, why = self._dropped[-1] if self._dropped else (0, -2, "")
        if (last, why) == (number - self.header.every, reason):
            self._dropped[-1] = (first, number, reason)
        elif len(self._dropped) < GAPS:
            self._dropped.append((number, number, reason))
            if len(self._dropped) == 1 or why != reason:
                self.notify(f"step {number} and maybe more are not recorded: {reason}")
        else:
            self._dropped[-1] = (first, number, WIDENED_GAP + reason)

    def _named(self, block: Block) -> Block:
        block.names = self._columns.names
        block.widen(len(block.names))
        return block

    def _commit(self, chunk: int | None) -> None:
        """Commit a chunk that was handed over, or snapshots alone; called again, it goes on with what it began."""
        first = self._writer.segment.snapshots
        if self._begun is None or self._begun[0] != chunk:
            self._successor = self._successor or self._writer.successor()
            block = None if chunk is None else self._filled(chunk)
            self._taken = len(self._snapshots)  # before they are read: no lock, which Ctrl-C could leave locked
            waiting = [kept for kept in self._snapshots[first : self._taken] if kept is not None]
            self._begun = chunk, self._writer.prepare(block, tuple(self._dropped), waiting)
        self._writer.perform(self._begun[1])
        self._begun = None
        for number in range(first, self._writer.segment.snapshots):
            self._snapshots[number] = None
            if self._journal is not None:
                self._journal.forget(number)
        if self._journal is not None and chunk is not None:
            self._journal.remove(chunk)

    def _filled(self, chunk: int) -> Block:
        """Rows of a chunk that was handed over, from memory or else from the spool."""
        block = self._flusher.held(chunk)
        if block is not None:
            return block
        assert self._journal is not None
        return spool.reload(self._journal.path(chunk), self.header, chunk, self._writer.segment.scalars)
