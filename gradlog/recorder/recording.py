"""An open segment: which steps are recorded, under which number, and when their rows are written.

The row builder makes a row in memory, the commit queue takes it from there. Everything here raises freely;
:mod:`gradlog.recorder.recorder` handles the errors.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import TypedDict, cast

from gradlog.errors import StepOrderError, StoreUnavailableError
from gradlog.recorder.listeners import Listeners
from gradlog.recorder.messages import tell
from gradlog.recorder.plan import Layout, Plan
from gradlog.recorder.recovery import defer, redeem
from gradlog.recorder.rows.fold import Fold
from gradlog.recorder.rows.row_builder import Fill, Row, RowBuilder
from gradlog.recorder.rows.step_numbers import Steps
from gradlog.recorder.setup import Opened, open_segment, require_seen
from gradlog.storage.commit_queue import CommitQueue
from gradlog.storage.paths import is_url
from gradlog.storage.settings import first_answer
from gradlog.storage.tickets import Opening

log = logging.getLogger("gradlog")

BACKWARD = "backward"
"""What a segment says of losses that no loop told."""


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
    new : sequence of (name, shape, dtype)
        Tensors that join the run in this segment.

    Attributes
    ----------
    path : str
        Where the run is.
    header : RunHeader
        With all tensors of the segment.
    next : int
        Number of the next step.
    builder : RowBuilder
    queue : CommitQueue
    steps, listeners : Steps, Listeners
        What the loop has told of its steps, and who is told of rows; a recording that goes on for another one takes
        them over.
    """

    def __init__(self, plan: Plan, layout: Layout, new: Layout = ()) -> None:
        opened, opening = self._open(plan, layout, new)
        self.path, self.header, writer, self.next = opened
        notify = functools.partial(tell, self.path)
        self.builder = RowBuilder(self.header, notify, plan.options.chooses, self.name_fold)
        self.queue = CommitQueue(self.path, writer, plan.storage, notify, plan.options.journal, opening)
        self._resumed: Mapping[str, object] = {}
        self.steps, self.listeners = Steps(notify), Listeners(notify)
        self._strict = plan.options.on_error == "raise"
        self._flight: tuple[int, Row, dict[str, object]] | None = None
        self._lost: int | None = None

    @property
    def due(self) -> bool:
        """Whether the next step is one that is recorded."""
        return self.next % self.header.every == 0

    def append(self, source: Callable[[], Row], step: int | None) -> None:
        """Write one row. ``source`` is asked only when the step is one that is recorded; after the end nothing is.

        A counter that goes back is counted on from where it was; with ``on_error="raise"`` it is refused.
        """
        if self.queue.finished:
            return
        self._land()
        last = self.queue.block.last
        least = 0 if last is None else last + 1
        if step is not None and self.queue.opening is not None and not self.queue.rows:
            self.queue.opening.follow({})
        number = self.next if step is None else self.steps.number(int(step), least, self.next, self._strict)
        self.next = number + 1
        early = self.steps.claim()
        if number % self.header.every:
            return
        if self._lost is not None and self._lost < number:
            self.queue.drop(self._lost, "interrupted")
        self._lost = None
        try:
            row = source()
            scalars = {"wall_time": time.time(), **self._observed(row), **early, **row.scalars}
            if row.later:
                self._flight = (number, row, scalars)
            else:
                self._write(number, row, scalars)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: where no row of this step comes, a reader must know why
            last = self.queue.block.last
            self._lost = number if self._flight is None and (last is None or last < number) else None
            raise

    def annotate(self, scalars: Mapping[str, object]) -> None:
        """Add scalars to the newest row, or keep those for the next step that come before theirs."""
        if self.queue.finished:
            return
        scalars, block = self.steps.sort(scalars), self.queue.block
        if self._flight is not None:
            self._flight[2].update(scalars)
        elif block.rows and block.last == self.next - 1:
            self.queue.annotate(self.builder.annotate(block, scalars))

    def snapshot(self, fill: Fill) -> None:
        """Keep a sketch of the parameters as they are before the next step; the next flush stores it."""
        if not self.queue.finished:
            self._land()
            self.queue.keep(self.next, self.builder.sketched(fill))

    def state(self) -> Checkpoint:
        """Return what a checkpoint keeps."""
        if self.queue.opening is not None and self.queue.opening.ticket.joins:  # nobody knows what it will belong to
            return cast(Checkpoint, {**self._resumed, "step": self.next} if self._resumed else {})
        run, s = self.queue.writer.header, self.queue.writer.segment
        return {"uuid": run.uuid, "segment": s.name, "rows": s.rows, "head": s.head, "step": self.next}

    def rewind(self, state: Mapping[str, object]) -> None:
        """Continue at a checkpoint's step; the run must still hold what the checkpoint saw committed."""
        if self.queue.rows:
            raise StepOrderError("load_state_dict must come before the first step of this process")
        opening = self.queue.opening
        if opening is not None and opening.ticket.joins:
            opening.follow(state)
            self._resumed = state
        else:
            require_seen(self.queue.writer.sink, self.header, state)
        self.next = int(str(state["step"]))

    def finish(self, status: str, reason: str, closing: bool = False, land: bool = True) -> None:
        """End the segment, as :meth:`CommitQueue.finish` does; ``land``: with the row that is under way."""
        if land:
            self._land()
        self.listeners.complete()
        self.queue.finish(status, reason, closing)

    def _observed(self, row: Row) -> dict[str, object]:
        """Scalars of a row that the loop does not tell; the segment says where the loss is from."""
        found = {name: value for name, value in row.observed.items() if not self.steps.tells(name)}
        writer = self.queue.writer
        facts = {name: fact for name, fact in writer.facts.items() if name != "loss"}
        writer.facts = {**facts, "loss": BACKWARD} if "loss" in found else facts
        return found

    def name_fold(self, chosen: Fold) -> None:
        """Tell, and store with the segment, what sketches its rows."""
        if chosen.failure:
            tell(self.path, chosen.failure)
        if self.queue.writer.facts.get("fold") == chosen.name:
            return
        log.info("%s is sketched by %s%s", self.path, chosen.name, f" ({chosen.remark})" if chosen.remark else "")
        self.queue.writer.facts = {**self.queue.writer.facts, "fold": chosen.name}

    def _open(self, plan: Plan, layout: Layout, new: Layout) -> tuple[Opened, Opening | None]:
        """Claim a segment; where the store elsewhere does not answer in time, later."""
        storage, options = plan.storage, plan.options
        try:
            if is_url(plan.path):  # rows without a journal cannot wait, so that opening waits for them
                first_answer(plan.path, storage, storage.open_wait if options.journal else storage.close_wait)
            if options.mode == "a":
                redeem(plan.path, storage)
            return open_segment(plan, layout, new), None
        except StoreUnavailableError as refusal:
            if new:
                raise
            return defer(plan, layout, refusal, self._claimed)

    def _claimed(self, opened: Opened) -> None:
        """Take note, on the background thread, of where the rows go that have waited for the store."""
        if opened.path != self.path:
            tell(self.path, f"a run is there already, so this one is recorded beside it, to {opened.path}")
        self.path, self.header = opened.path, opened.header

    def _land(self) -> None:
        """Write the row that is under way, if there is one and it was not written before an interrupt."""
        if self._flight is not None:
            last = self.queue.block.last
            if last is None or self._flight[0] > last:
                self._write(*self._flight)
            self._flight = None

    def _write(self, number: int, row: Row, scalars: Mapping[str, object]) -> None:
        """Put a row into memory and journal. What ends it before the queue counts it leaves no trace."""
        block = self.queue.room(number)
        if block is None:
            return
        if self.builder.write(block, number, row, scalars):
            self.queue.append()
            self.listeners.appended(block, self.header.groups)
        else:
            self.queue.drop(number, "no parameter had a gradient")
