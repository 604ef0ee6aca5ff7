"""The rows of a segment on their way from memory to the store: in blocks, journalled, committed or dropped.

Training fills one block while the background thread commits another. The blocks form a ring, and two counters say all
there is to know: chunks handed over, set by the training thread alone, and chunks done, set by the background thread
alone. Handing over the same chunk twice changes nothing, so that training may be interrupted at any line.

A store that does not take a block in time keeps training from nothing. With a journal in the spool a new block takes
the place of the old one, whose rows are read back when the store is back. Without, rows are dropped, and listed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradlog.errors import RunExistsError, StoreUnavailableError
from gradlog.format.header import WIDENED_GAP
from gradlog.storage import spool
from gradlog.storage.block import Block
from gradlog.storage.commit import Commit, SegmentWriter
from gradlog.storage.flusher import Flusher
from gradlog.storage.journal import JournalWriter
from gradlog.storage.recover import writers
from gradlog.storage.settings import Storage
from gradlog.storage.tickets import Opening

log = logging.getLogger("gradlog")

BLOCKS = 2
"""Chunks in memory: one is filled while the other is committed."""

GAPS = 64
"""Intervals of dropped steps that a segment lists one by one; later ones widen the last."""

WAITING = 2**30
"""Bytes of sketches of the parameters that may wait where there is no spool; with one, half of its size."""

_POLL = 0.002


class CommitQueue:
    """Takes the rows of one segment.

    A row is written into the block that :meth:`room` gives, behind its last row, and counts from :meth:`append` on.

    Parameters
    ----------
    path : str
        Of the run, for messages.
    writer : SegmentWriter
        Of the segment, which is claimed.
    storage : Storage
        How long the store is waited for.
    notify : callable
        Told that rows are being dropped and why, and that the store refuses, when that begins.
    journal : bool
        Keep a journal.
    opening : Opening, optional
        Gives the writer that takes the place of ``writer`` when the store answers.

    Attributes
    ----------
    block : Block
        The one that is filled.
    writer : SegmentWriter
        Of the segment; before it is claimed, one that writes nothing.
    opening : Opening or None
        How the segment is going to be claimed, as long as it is not.
    finished : bool
        Whether no more rows are taken.
    """

    def __init__(
        self,
        path: str,
        writer: SegmentWriter,
        storage: Storage,
        notify: Callable[[str], None],
        journal: bool = True,
        opening: Opening | None = None,
    ) -> None:
        header, sink = writer.header, writer.sink
        self._path, self.writer, self._storage, self._notify = path, writer, storage, notify
        self._local = sink.local is not None
        self._place = spool.place(sink, header.uuid, writer.segment)
        self._journal = JournalWriter(spool.make(sink, self._place.folder), header.uuid) if journal else None
        self._spool = spool.limit() if journal and not self._local else 0
        self._ring = [Block(header, writer.segment.optional) for _ in range(BLOCKS)]
        self.block = self._ring[0]
        self._handed = self._done = 0
        self._error: Exception | None = None
        self._begun: tuple[int | None, Commit] | None = None
        self._dropped: list[tuple[int, int, str]] = []
        self._snapshots: list[tuple[int, NDArray[np.float32]] | None] = []  # None once the store has it
        self._taken, self._crowded = 0, False
        self._flusher = Flusher(self._waiting, self._work, storage.flush_pauses)
        self._patient = True
        self._refusal: StoreUnavailableError | None = None
        self.finished, self._successor = False, ""
        writers[header.uuid, writer.segment.name] = self
        self.opening = opening
        if opening is not None:
            self._flusher.refusal = opening.refusal
            self._watch(opening.refusal)

    @property
    def writing(self) -> bool:
        """Whether anything more may be written to the segment."""
        return not self.finished or self._flusher.alive

    @property
    def rows(self) -> int:
        """Rows of this segment so far."""
        return self.block.index * self.writer.header.chunk + self.block.rows

    @property
    def pending(self) -> int:
        """Rows that the store does not have yet."""
        return self.rows - self.writer.segment.rows

    @property
    def snapshots(self) -> int:
        """Sketches of the parameters of this segment so far."""
        return len(self._snapshots)

    @property
    def outage(self) -> str:
        """Why the store refuses now; empty while it answers."""
        return "" if self._flusher.refusal is None else str(self._flusher.refusal)

    def supersede(self, successor: str) -> None:
        """End at the next row: another segment goes on from here."""
        self._successor = successor

    def room(self, number: int) -> Block | None:
        """Block for the row of step ``number``, a full one being handed over first; None where the row is dropped.

        Raises
        ------
        RunExistsError
            Another segment goes on from here.
        Exception
            Whatever ended the commits.
        """
        block: Block | None = self.block
        if self.block.full:
            block = self._next(self.block)
        if self._error is not None:
            raise self._error
        if self._successor:
            raise RunExistsError(f"another logger opened the same run and goes on from here, in {self._successor}")
        if self._flusher.refusal is not self._refusal:
            self._watch(self._flusher.refusal)
        if block is None:
            self.drop(number, "the spool is full" if self._spool else "the disk did not keep up")
        return block

    def append(self) -> None:
        """Count the row that was written behind the last one of the block. What is interrupted before left no trace."""
        block, row = self.block, self.block.rows
        first = self.opening if row == block.index == 0 else None
        if first is not None:
            first.ticket.write()
        if self._journal is not None:
            self._journal.row(block.index, row, block.record(row), block.names)
        block.rows = row + 1
        if first is not None:
            self._flusher.wake()

    def annotate(self, columns: list[int]) -> None:
        """Journal scalars that were set in the newest row."""
        block = self.block
        if self._journal is not None and columns:
            values = block.scalars[block.rows - 1, columns].tolist()
            self._journal.annotate(block.index, block.rows - 1, columns, values, block.names)

    def drop(self, number: int, reason: str) -> None:
        """Remember that a step was not kept: as part of the last gap where it continues it, or past so many gaps."""
        first, last, why = self._dropped[-1] if self._dropped else (0, -2, "")
        if (last, why) == (number - self.writer.header.every, reason):
            self._dropped[-1] = (first, number, reason)
        elif len(self._dropped) < GAPS:
            self._dropped.append((number, number, reason))
            if len(self._dropped) == 1 or why != reason:
                self._notify(f"step {number} and maybe more are not recorded: {reason}")
        else:
            self._dropped[-1] = (first, number, WIDENED_GAP + reason)

    def keep(self, step: int, theta: NDArray[np.float32]) -> None:
        """Take a sketch (G, k) of the parameters as they are before ``step``; the next flush stores it.

        It takes the place of the last one, where that is of the same step or too many wait.
        """
        last = self._snapshots[-1] if self._taken < len(self._snapshots) else None
        waiting = len(self._snapshots) + 1 - self.writer.segment.snapshots
        crowded = waiting * theta.nbytes > (self._spool // 2 or WAITING)
        if crowded and not self._crowded:
            self._notify(f"of the parameters from step {step} on, the newest sketch alone waits for the store")
        self._crowded |= crowded
        if last is not None and (crowded or last[0] == step):
            self._keep(len(self._snapshots) - 1, step, theta)
            if self._taken < len(self._snapshots):
                return  # no flush took what stood there before
        self._keep(len(self._snapshots), step, theta)

    def finish(self, status: str, reason: str, closing: bool = False) -> None:
        """Commit what is left and end the segment. What cannot be committed stays in the journal.

        ``closing``: wait for the store as long as a close does, and not as long as a step.

        Raises
        ------
        StoreUnavailableError
            The store elsewhere refused for so long; the message says how its rows get there later.
        TimeoutError
            The disk took nothing for so long.
        OSError
            As the file system says.
        """
        wait = self._storage.close_wait if closing else self._storage.step_wait
        if self.block.rows:
            self._hand_over(self.block)
        done = self._flusher.close(lambda: self._conclude(status, reason), wait)
        if self._journal is not None:
            self._journal.close()
        self.finished = True
        if not done:
            if self._local:
                raise TimeoutError(f"the disk took nothing for {wait:.0f} s; the last rows are in the journal")
            why = self._flusher.refusal or f"the store took nothing for {wait:.0f} s"
            fate = spool.fate(self.pending, self._journal is not None, self._path)
            raise StoreUnavailableError(f"{why}; {fate}")
        if self._error is not None:
            raise self._error

    def _keep(self, number: int, step: int, theta: NDArray[np.float32]) -> None:
        if self._journal is not None:
            self._journal.keep(number, step, theta)
        self._snapshots[number:] = [(step, theta)]

    def _hand_over(self, block: Block) -> None:
        self._handed = block.index + 1
        self._flusher.wake()

    def _next(self, full: Block) -> Block | None:
        """Hand a full block over, and give the next one; None while the disk keeps them all."""
        self._hand_over(full)
        wait = self._storage.step_wait if self._patient and self._flusher.refusal is None else 0.0
        free = self._free(full.index + 1, wait)
        self._patient = free is not None
        if free is None:
            return self._spill(full)
        self.block = free.reuse(full.index + 1, full.last)
        return self.block

    def _free(self, chunk: int, wait: float) -> Block | None:
        """Return the block of a chunk once its former rows are committed; None if that takes over ``wait`` seconds.

        A store that begins to refuse meanwhile is not waited for.
        """
        deadline = time.monotonic() + wait
        while chunk - len(self._ring) >= self._done:
            if self._error is not None or self._flusher.refusal is not None or time.monotonic() >= deadline:
                return None
            time.sleep(_POLL)
        return self._ring[chunk % len(self._ring)]

    def _spill(self, full: Block) -> Block | None:
        """Return a new block in the place of one whose rows the spool has; None where that would grow past its limit.

        The full block goes to the spool as a whole, as do those that the store has not taken yet. The background thread
        keeps the old one while it reads it.
        """
        header, chunk = self.writer.header, full.index + 1
        waiting = 4 * header.n * (len(self._snapshots) - self.writer.segment.snapshots)
        needed = (chunk + 1 - self._done) * spool.chunk_bytes(header, len(full.names), len(full.optional)) + waiting
        if self._error is not None or needed > self._spool:
            return None
        fresh = self._ring[chunk % len(self._ring)] = Block(header, full.optional).reuse(chunk, full.last)
        self.block = fresh
        return fresh

    def _watch(self, refusal: StoreUnavailableError | None) -> None:
        """Tell when the store begins to refuse, and when it takes rows again."""
        if refusal is not None and self._refusal is None:
            kept = "rows wait in the spool until it is back" if self._spool else "rows will be dropped"
            self._notify(f"{refusal}; training goes on, {kept}")
        elif refusal is None and self._refusal is not None:
            log.info("%s: the store is back", self._path)
        self._refusal = refusal

    def _waiting(self) -> bool:
        """Whether rows wait for a segment to be claimed, or a chunk that was handed over for its commit."""
        unclaimed = self.opening is not None and self.rows > 0
        return self._error is None and (unclaimed or self._done < self._handed)

    def _work(self) -> None:
        """Claim the segment, or commit the next chunk that was handed over, on the background thread."""
        try:
            if self.opening is not None:
                self._claim(self.opening)
            else:
                self._commit(self._done)
                self._done += 1
        except StoreUnavailableError:
            raise
        except Exception as error:
            self._error = error

    def _claim(self, opening: Opening) -> None:
        """Claim the segment. Whatever forbids that, the rows wait, and ``gradlog recover`` tries it again."""
        try:
            writer = opening.claim()
        except StoreUnavailableError:
            raise
        except Exception as error:
            raise StoreUnavailableError(f"the run cannot be opened: {type(error).__name__}: {error}") from error
        writer.facts = self.writer.facts
        writers[writer.header.uuid, writer.segment.name] = self
        self.writer, self.opening = writer, None

    def _commit(self, chunk: int | None) -> None:
        """Commit a chunk that was handed over, or snapshots alone; called again, it goes on with what it began."""
        first = self.writer.segment.snapshots
        if self._begun is None or self._begun[0] != chunk:
            self._successor = self._successor or self.writer.successor()
            block = None if chunk is None else self._held(chunk)
            if chunk == 0 and block is not None:
                self.writer.begin(int(block.step[0]))
            self._taken = len(self._snapshots)  # before they are read: no lock, which Ctrl-C could leave locked
            waiting = [kept for kept in self._snapshots[first : self._taken] if kept is not None]
            self._begun = chunk, self.writer.prepare(block, tuple(self._dropped), waiting)
        self.writer.perform(self._begun[1])
        self._begun = None
        for number in range(first, self.writer.segment.snapshots):
            self._snapshots[number] = None
            if self._journal is not None:
                self._journal.forget(number)
        if self._journal is not None and chunk is not None:
            self._journal.remove(chunk)

    def _held(self, chunk: int) -> Block:
        """Rows of a chunk that was handed over, from memory or else from the spool."""
        block = self._ring[chunk % len(self._ring)]
        if block.index == chunk:
            return block
        assert self._journal is not None
        path, segment = self._journal.path(chunk), self.writer.segment
        return spool.reload(path, self.writer.header, self._place.owner, chunk, segment)

    def _conclude(self, status: str, reason: str) -> None:
        if self.opening is not None:  # there are no rows, so that nothing is to be opened
            spool.forget(self._place.folder)
            return
        error = self._error
        if error is not None:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        try:
            if len(self._snapshots) > self.writer.segment.snapshots:
                self._commit(None)
            self.writer.finish(status, reason, tuple(self._dropped))
        except StoreUnavailableError:
            raise
        except Exception as failure:
            self._error = error or failure
