"""Callbacks of the user on complete rows, on a thread of their own that training never waits for."""

from __future__ import annotations

import dataclasses
import queue
import threading
import traceback
from collections.abc import Callable, Mapping

import numpy as np

from gradlog.format.header import NONFINITE, SKIPPED
from gradlog.storage.block import Block

MOST = 1024
"""Rows that may wait for the callbacks."""

WAIT = 5.0
"""Seconds that the end of a recording waits for the callbacks."""


@dataclasses.dataclass(frozen=True)
class RecordedRow:
    """A row that is complete: nothing is added to it any more, and it is in the journal or the store.

    Attributes
    ----------
    step : int
    scalars : dict of str to float
        Loss, learning rate and what else was given for this step.
    norms : dict of str to float
        Norm of the gradient by group.
    nonfinite, skipped : bool
        The gradient has NaN or inf; the optimizer skipped the step.
    """

    step: int
    scalars: Mapping[str, float]
    norms: Mapping[str, float]
    nonfinite: bool
    skipped: bool

    @property
    def norm(self) -> float:
        """Norm of the gradient, over all that the run records."""
        return float(np.linalg.norm(list(self.norms.values())))


Callback = Callable[[RecordedRow], object]


class Listeners:
    """Hands complete rows to callbacks. A row is complete when the next one is there, and at the end.

    Parameters
    ----------
    notify : callable
        Told once of a callback that raises, and once of rows that are left out since callbacks are too slow.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._callbacks: list[Callback] = []
        self._newest: tuple[Block, int, tuple[str, ...]] | None = None
        self._rows: queue.SimpleQueue[RecordedRow | None] = queue.SimpleQueue()  # in C: safe against interrupts
        self._thread: threading.Thread | None = None
        self._missed = self._raised = 0

    def add(self, callback: Callback) -> None:
        """Call this with every row from now on."""
        self._callbacks.append(callback)

    def appended(self, block: Block, groups: tuple[str, ...]) -> None:
        """Take the newest row of a block; the one before it is complete now."""
        if self._callbacks:
            self.complete()
            self._newest = block, block.rows - 1, groups

    def complete(self) -> None:
        """Hand the newest row over: nothing more is added to it."""
        newest, self._newest = self._newest, None
        if newest is None:
            return
        if self._rows.qsize() >= MOST:
            self._missed += 1
            if self._missed == 1:
                self._notify(f"callbacks of on_row are {MOST:,} rows behind: they miss rows from here on")
            return
        self._rows.put(_row(*newest))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._callbacks,), name="gradlog-rows", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait a while for the callbacks, and tell what they missed."""
        thread, self._thread, self._callbacks = self._thread, None, []
        if thread is None:
            return
        self._rows.put(None)
        if thread is threading.current_thread():  # a callback closes its logger: the rest comes when it returns
            return
        thread.join(WAIT)
        missed = self._missed + (self._rows.qsize() - 1 if thread.is_alive() else 0)
        if missed or self._raised:
            self._notify(f"on_row: {missed:,} rows were not told, and {self._raised:,} calls raised")

    def _run(self, callbacks: list[Callback]) -> None:
        while (row := self._rows.get()) is not None:
            for callback in callbacks:
                try:
                    callback(row)
                except BaseException as error:
                    self._raised += 1
                    if self._raised == 1:
                        said = "".join(traceback.format_exception_only(error)).strip()  # whatever its __str__ does
                        self._notify(f"a callback of on_row raised {said}; training goes on")


def _row(block: Block, row: int, groups: tuple[str, ...]) -> RecordedRow:
    known = zip(block.names, block.scalars[row].tolist(), strict=False)
    flags = int(block.flags[row])
    return RecordedRow(
        int(block.step[row]),
        {name: value for name, value in known if value == value},
        dict(zip(groups, np.sqrt(block.norm2[row]).tolist(), strict=True)),
        bool(flags & NONFINITE),
        bool(flags & SKIPPED),
    )
