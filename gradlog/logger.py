"""The recorder's face: ``step`` sketches a gradient into memory and the journal; chunks leave in the background.

Nothing here raises into the training loop unless asked to (``on_error="raise"``): the first failure ends the
recording, is warned of once, and is written into the store where the store still takes writes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradlog import resume, sketch
from gradlog.buffer import Block
from gradlog.errors import GradientError, GradlogWarning, StepOrderError
from gradlog.flusher import Flusher
from gradlog.journal import JournalWriter
from gradlog.schema import NONFINITE, PARTIAL, RunHeader, SegmentHeader, TensorInfo
from gradlog.sink import Sink
from gradlog.store import SegmentWriter
from gradlog.tree import as_numpy, flatten

log = logging.getLogger("gradlog")

PATIENCE = 5.0
"""Seconds that training waits for a slow disk before rows are dropped, once an outage."""

CLOSE_WAIT = 60.0
"""Seconds that ``close`` waits for the disk before it leaves the rest to the journal."""


class Row(NamedTuple):
    """One step as a hook hands it over: arrays in the order of the run's tensors, scalars, flag bits."""

    arrays: Sequence[NDArray[Any] | None]
    scalars: Mapping[str, float]
    flags: int = 0


class Logger:
    """Writes one segment of a run. Made by :func:`gradlog.open` and :func:`gradlog.attach`.

    Use it as a context manager, or call :meth:`close`; a process that ends without closes it at exit, and one that
    is killed leaves its last rows in the journal. The object is bound to its process: in a forked child, and
    after pickling or copying, it does nothing.
    """

    def __init__(self, plan: resume.Plan | None, on_error: Literal["warn", "raise"] = "warn") -> None:
        self._on_error = on_error
        self._plan = plan
        self._off = plan is None
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._names: dict[str, int] = {}
        self._pending: dict[str, float] = {}
        self._dropped: list[tuple[int, int, str]] = []
        self._block: Block | None = None
        self._last: int | None = None
        self._next = 0
        self._rows = 0
        self._spent = 0.0
        self._started = time.perf_counter()
        self._closed = False
        self._detach: Callable[[], None] | None = None
        self.reason = ""
        if plan is not None:
            atexit.register(self.close)
            with self._guarded():
                if plan.tensors is not None:
                    self._begin(plan.tensors)

    @property
    def active(self) -> bool:
        """Whether steps are being recorded."""
        return not (self._off or self._closed)

    @property
    def header(self) -> RunHeader | None:
        """What the run fixed; None before the first gradient told the layout, or when recording is off."""
        return self._header if hasattr(self, "_header") else None

    def step(self, grads: Any, step: int | None = None, **scalars: float) -> None:
        """Record the gradient of one optimizer step.

        Parameters
        ----------
        grads : array, tensor, nested dict or list of them, or iterable of (name, array) pairs
            The gradient; names and shapes as in ``like``, or as in the first call. None marks a parameter without
            gradient. Values are read before this returns, so they may be overwritten after.
        step : int, optional
            Step number, larger than the one before. Default: the next integer.
        **scalars : float
            Loss, learning rate and whatever else belongs to this step.

        Raises
        ------
        GradientError, StepOrderError
            With ``on_error="raise"`` only: shapes that do not fit, a step that goes backwards.

        Examples
        --------
        >>> import gradlog, numpy as np, tempfile
        >>> with gradlog.open(tempfile.mkdtemp() + "/run.zarr", k=8) as log:
        ...     for t in range(3):
        ...         log.step({"w": np.ones(100)}, loss=1.0 / (t + 1))
        """
        if self._idle():
            return
        with self._guarded():
            pairs = flatten(grads)
            if self._block is None and not hasattr(self, "_header"):
                self._begin(describe(pairs))
            self._append(lambda: Row(self._ordered(pairs), scalars), step)

    def record(self, source: Callable[[], Row], step: int | None = None) -> None:
        """Record what a framework's hook gathers; ``source`` runs only for steps that are recorded, and guarded."""
        if self._idle():
            return
        with self._guarded():
            self._append(source, step)

    def annotate(self, **scalars: float) -> None:
        """Add scalars to the newest row: call it after the optimizer's step. Before the first row they wait for it.

        With ``every=N`` the scalars of steps that are not recorded are left out.
        """
        if self._idle():
            return
        with self._guarded():
            values = {name: float(value) for name, value in scalars.items()}
            if self._last is None:
                self._pending.update(values)
            elif self._block is not None and self._block.rows and self._last == self._next - 1:
                row = self._block.rows - 1
                columns = [self._set(self._block, row, n, v) for n, v in values.items()]
                if self._journal is not None:
                    self._journal.annotate(row, columns, list(values.values()), list(self._names))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: run, segment, committed length, chain head, and the next step number."""
        if self._off or not hasattr(self, "_writer"):
            return {"uuid": "", "segment": "", "rows": 0, "head": "", "step": self._next}
        s = self._writer.segment
        return {
            "uuid": self._header.uuid,
            "segment": s.name,
            "rows": s.rows,
            "head": s.head,
            "step": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a checkpoint's step number; rows logged after it stay, as an abandoned branch."""
        if self._idle():
            return
        with self._guarded():
            if self._rows:
                raise StepOrderError("load_state_dict must come before the first step of this process")
            known = self._header.uuid if hasattr(self, "_header") else state["uuid"]
            if state["uuid"] not in ("", known):
                raise StepOrderError(f"the checkpoint belongs to run {state['uuid']}, this is run {known}")
            self._next = int(state["step"])

    def close(self) -> None:
        """Commit what is left and end the segment. Safe to call twice; waits for the disk 60 seconds at most."""
        if self._closed or os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            self._release()
            if self._off or not hasattr(self, "_writer"):
                return
            try:
                self._finish("closed", "")
            except Exception as error:
                self._report(error)
            wall = time.perf_counter() - self._started
            log.info(
                "%s: %d rows recorded; recorder: %.2f %% of wall time",
                self._where,
                self._rows,
                100 * self._spent / max(wall, 1e-9),
            )

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Logger, (None,)

    # -- the way of one row ------------------------------------------------------------------------------------

    def _begin(self, tensors: tuple[TensorInfo, ...] | Sequence[tuple[str, tuple[int, ...], str]]) -> None:
        assert self._plan is not None
        self._where = str(self._plan.path)
        opened = resume.open_segment(self._plan, tensors)
        self._sink: Sink = opened.sink
        self._header = opened.header
        self._next = opened.next_step
        self._writer = SegmentWriter(opened.sink, opened.header, opened.segment)
        self._folder = resume.journal_folder(self._plan, opened.header, opened.segment)
        self._journal = JournalWriter(self._folder) if self._plan.journal else None
        self._projector = sketch.projector(
            opened.header.sketch, opened.header.tensors, len(opened.header.groups)
        )
        self._index = {t.name: i for i, t in enumerate(opened.header.tensors)}
        self._parents = opened.parents
        self._flusher = Flusher(self._commit, [Block(opened.header)])
        self._block = Block(opened.header)
        log.info("%s", resume.describe_plan(self._where, opened.header))

    def _append(self, source: Callable[[], Row], step: int | None) -> None:
        number = self._next if step is None else int(step)
        if self._last is not None and number <= self._last:
            raise StepOrderError(f"steps must increase: expected at least {self._last + 1}, got {number}")
        self._next = number + 1
        if number % self._header.every:
            return
        if self._flusher.error is not None:
            raise self._flusher.error
        block = self._room(number)
        if block is None:
            return
        row, (arrays, scalars, flags) = block.rows, source()
        missing = self._projector.project(arrays, block.sketch[row], block.norm2[row])
        if missing == len(arrays):
            raise GradientError(
                "no parameter has a gradient: call step() after backward() and before zero_grad()"
            )
        if missing:
            flags |= PARTIAL
        if not np.isfinite(block.norm2[row]).all():
            flags |= NONFINITE
        block.step[row], block.flags[row] = number, flags
        block.scalars[row] = np.nan
        for name, value in {"wall_time": time.time(), **self._pending, **scalars}.items():
            self._set(block, row, name, float(value))
        if self._journal is not None:
            values = block.scalars[row, : len(self._names)]
            names = list(self._names)
            self._journal.row(block.index, number, flags, block.norm2[row], block.sketch[row], values, names)
        if self._last is None and self._parents:
            self._writer.segment = resume.with_parent(self._writer.segment, self._parents, number)
        self._pending.clear()
        self._last = number
        self._rows += 1
        block.rows = row + 1

    def _ordered(self, pairs: list[tuple[str, Any]]) -> list[NDArray[Any] | None]:
        arrays: list[NDArray[Any] | None] = [None] * len(self._index)
        for name, leaf in pairs:
            if name not in self._index:
                raise GradientError(
                    f"{name!r} is not a parameter of this run; it has {list(self._index)[:4]} ..."
                )
            arrays[self._index[name]] = as_numpy(leaf, name)
        return arrays

    def _set(self, block: Block, row: int, name: str, value: float) -> int:
        column = self._names.setdefault(name, len(self._names))
        block.widen(column + 1)
        block.scalars[row, column] = value
        return column

    def _room(self, number: int) -> Block | None:
        """Return the block to write to; hand a full one over. None while the disk keeps both (the row is dropped)."""
        if self._block is not None and not self._block.full:
            return self._block
        if self._block is not None:
            full, self._block = self._block, None
            self._full_index = full.index
            if self._journal is not None:
                self._journal.rotate()
            self._flusher.submit(full)
            wait = PATIENCE
        else:
            wait = 0.0
        free = self._flusher.take(wait)
        if free is None:
            self._drop(number, "the disk did not keep up")
            return None
        self._block = free.reuse(self._full_index + 1)
        return self._block

    def _drop(self, number: int, reason: str) -> None:
        if self._dropped and self._dropped[-1][1] == number - self._header.every:
            first, _, why = self._dropped[-1]
            self._dropped[-1] = (first, number, why)
            return
        self._dropped.append((number, number, reason))
        self._warn(f"{self._where}: {reason}; rows from step {number} on are dropped until it does")

    def _commit(self, block: Block) -> None:
        self._writer.commit(block, list(self._names), tuple(self._dropped))
        if self._journal is not None:
            self._journal.remove(block.index)

    def _finish(self, status: str, reason: str) -> None:
        if self._journal is not None:
            self._journal.rotate()
        if not self._flusher.close(CLOSE_WAIT):
            raise TimeoutError(
                f"the disk took nothing for {CLOSE_WAIT:.0f} s; the last rows are in the journal"
            )
        if self._flusher.error is not None:
            raise self._flusher.error
        if self._block is not None:
            self._commit(self._block)
            self._block = None
        self._writer.finish(status, reason, tuple(self._dropped))

    # -- the way of an error -----------------------------------------------------------------------------------

    def _idle(self) -> bool:
        return self._off or self._closed or os.getpid() != self._pid

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        start = time.perf_counter()
        with self._lock:
            try:
                yield
            except Exception as error:
                self._fail(error)
        self._spent += time.perf_counter() - start

    def on_close(self, detach: Callable[[], None]) -> None:
        """Call ``detach`` when recording ends, for whatever reason: hooks go, and the job is as it was."""
        self._detach = detach

    def _release(self) -> None:
        atexit.unregister(self.close)
        if self._detach is not None:
            detach, self._detach = self._detach, None
            detach()

    def _fail(self, error: Exception) -> None:
        self._off = True
        self._release()
        self.reason = f"{type(error).__name__}: {error}"
        if hasattr(self, "_writer"):
            # What was logged before the failure is still good: keep it, and say in the store why it ends here.
            with contextlib.suppress(Exception):
                self._finish("failed", self.reason)
        if self._on_error == "raise":
            raise error
        self._report(error)

    def _report(self, error: Exception) -> None:
        where = self._plan.path if self._plan else ""
        self._warn(f"gradient recording to {where} ended, training goes on: {type(error).__name__}: {error}")

    @staticmethod
    def _warn(message: str) -> None:
        log.warning("%s", message)
        # A user who turned warnings into errors must not lose the job to one of ours.
        with contextlib.suppress(Warning):
            warnings.warn(message, GradlogWarning, stacklevel=6)


def describe(pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, dtype) of each leaf.

    Raises
    ------
    GradientError
        A leaf is None (its shape is unknown), or there is no leaf.
    """
    found = []
    for name, leaf in pairs:
        if leaf is None:
            raise GradientError(
                f"{name}: no gradient in the first step; pass like=params so that shapes are known"
            )
        dtype = str(leaf.dtype).removeprefix("torch.") if hasattr(leaf, "dtype") else "float64"
        shape = tuple(map(int, leaf.shape if hasattr(leaf, "shape") else np.shape(leaf)))
        found.append((name, shape, dtype))
    if not found:
        raise GradientError("no parameters: expected at least one array")
    return found
