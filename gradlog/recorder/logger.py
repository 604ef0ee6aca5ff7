"""The recorder's face. Nothing raises into the training loop unless asked to.

The first failure ends the recording, is warned of once, and is written into the store where the store still
takes writes.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gradlog.format.header import RunHeader
from gradlog.recorder.halves import row_of
from gradlog.recorder.provenance import ended_by, uncaught
from gradlog.recorder.recording import Fill, Recording, Row
from gradlog.recorder.setup import Layout, Plan, describe_plan
from gradlog.recorder.unclosed import close_at_exit, close_dropped, tell, weak_teller
from gradlog.sketching.pytree import describe, flatten

log = logging.getLogger("gradlog")

PATIENT = 100
"""Calls of ``annotate`` without a step, before that is said while training goes on."""


class Logger:
    """Writes one segment of a run. Made by :func:`gradlog.open` and :func:`gradlog.attach`.

    Use it as a context manager, or call :meth:`close`. One that is dropped without is closed when it is collected, or
    at the exit of the process; a process that is killed leaves its last rows in the journal. The object is bound to its
    process: in a forked child, and after pickling or copying, it does nothing.

    Attributes
    ----------
    reason : str
        Why recording ended early; empty while all is well.
    """

    def __init__(self, plan: Plan | None) -> None:
        self.reason = ""
        self._plan = plan
        self._raise = plan is not None and plan.options.on_error == "raise"
        self._ended = self._closed = plan is None
        self._recording: Recording | None = None
        self._detach: Callable[[], None] | None = None
        self._drain: Callable[[], None] | None = None
        self._keep: Callable[[], None] | None = None
        self._missing: Callable[[], str] | None = None
        self._remarks: list[str] = []
        self._lock, self._depth = threading.RLock(), 0
        self._pid, self._late = os.getpid(), False
        self._spent, self._opened = 0.0, time.perf_counter()
        if plan is not None:
            self._exit_hook = close_at_exit(self)
            if plan.layout is not None:
                try:
                    with self.guarded():
                        self._begin(plan.layout)
                except BaseException:  # on_error="raise", or Ctrl-C: nobody will hold this object
                    self.close()
                    raise

    @property
    def active(self) -> bool:
        """Whether steps are being recorded, here and now."""
        return not self._ended and os.getpid() == self._pid

    @property
    def header(self) -> RunHeader | None:
        """What the run fixed; None before the first gradient told the layout, and when recording is off."""
        return self._recording.header if self._recording else None

    @property
    def path(self) -> str:
        """Where the run is, absolute or a URL; with ``mode="new"`` final once the header is known. Empty when off."""
        if self._recording is not None:
            return self._recording.path
        return self._plan.path if self._plan else ""

    @property
    def rows(self) -> int:
        """Rows that this logger has recorded so far."""
        return self._recording.rows if self._recording else 0

    @property
    def pending(self) -> int:
        """Rows of these that the store does not have yet: they are in memory and, with a journal, on this machine."""
        return self._recording.pending if self._recording else 0

    @property
    def outage(self) -> str:
        """Why the store refuses rows at the moment; empty while it takes them."""
        return self._recording.outage if self._recording else ""

    @property
    def seconds(self) -> float:
        """Time that the training thread has spent in here so far."""
        return self._spent

    @property
    def due(self) -> bool:
        """Whether the next step is one that is recorded: always, but for ``every=N``."""
        return self.active and (self._recording is None or self._recording.next % self._recording.header.every == 0)

    def step(self, grads: Any, step: int | None = None, *, half: Any = None, **scalars: float) -> None:
        """Record the gradient of one optimizer step.

        Parameters
        ----------
        grads : array, tensor, nested dict or list of them, or iterable of (name, array) pairs
            The gradient; names and shapes as in ``like``, or as in the first call. None marks a parameter without
            gradient. Values are read before this returns, so they may be overwritten after.
        step : int, optional
            Step number, larger than the one before; a counter that goes back is counted on, with a warning. Default:
            the next integer.
        half : array, nested dict or list of them, or iterable of (name, array) pairs, optional
            The gradient of one half of the batch, of which ``grads`` is the mean over both halves, at the same
            parameters. It tells signal from minibatch noise: the squared norm of ``half - grads`` is kept for each
            group, 8 bytes each.
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
        if not self.active:
            self._too_late("step")
            return
        with self.guarded():
            if self._ended:  # another thread closed it while this one waited
                return
            pairs = flatten(grads)
            recording = self._recording or self._begin(describe(pairs))
            recording.append(lambda: row_of(recording, pairs, half, scalars), step, self._raise)

    def record(self, source: Callable[[], Row], step: int | None = None) -> None:
        """Record what a framework's hook gathers; ``source`` runs only for steps that are recorded, and guarded."""
        if self.active and self._recording:
            with self.guarded():
                self._recording.append(source, step, self._raise)

    def annotate(self, **scalars: float) -> None:
        """Add scalars to a row: after the step, or before it.

        The first use of a name tells which, for the rest of this recording. A name that is first given after a step
        belongs to the step that was just taken. One that is first given before any step belongs to the step that
        follows, as where the loss is noted between the forward pass and ``optimizer.step()``. With ``every=N`` the
        scalars of steps that are not recorded are left out.

        Examples
        --------
        >>> import gradlog, numpy as np, tempfile
        >>> with gradlog.open(tempfile.mkdtemp() + "/run.zarr", like={"w": np.zeros(100)}, k=8) as log:
        ...     for t in range(3):
        ...         log.annotate(loss=1.0 / (t + 1))
        ...         log.step({"w": np.ones(100)})
        """
        if self._closed:
            self._too_late("annotate")
        if self.active and self._recording:
            with self.guarded():
                self._recording.annotate(scalars)
                if self._recording.steps.waiting == PATIENT:
                    self.remark(f"annotate was called {PATIENT} times and no step was seen")

    def parameters(self, params: Any) -> None:
        """Keep a sketch of the parameters themselves, as they are before the next step.

        Call it at the start, at checkpoints and at the end. Then anybody who holds a checkpoint years later can tell
        whether it belongs to this run. The sketch is small. It is stored with the next chunk; until then it waits in a
        file, as rows do.

        Parameters
        ----------
        params : array, nested dict or list of them, or iterable of (name, array)
            All parameters of the run, named as in ``like``.
        """
        if self.active and self._recording:
            with self.guarded():
                self._recording.snapshot(self._recording.projected(flatten(params)))

    def snapshot(self, source: Callable[[], Fill]) -> None:
        """Keep a sketch of the parameters that a framework's integration makes; ``source`` runs guarded."""
        if self.active and self._recording:
            with self.guarded():
                self._recording.snapshot(source())

    def join(self, like: Any) -> None:
        """Go on in a new segment whose rows include these parameters too, as after layers were added or unfrozen.

        Their gradients count to the group of their nearest relative by name. Earlier rows had no part of them, as if
        their gradient had been zero.

        Parameters
        ----------
        like : array, nested dict or list of arrays, or iterable of (name, array)
            The new parameters alone.

        Raises
        ------
        SpecMismatchError
            With ``on_error="raise"`` only: the run holds exact gradients, whose coordinates are fixed.
        """
        if self.active and self._recording:
            with self.guarded():
                new, recording = describe(flatten(like)), self._recording
                recording.finish("closed", f"{len(new)} parameters joined")
                assert self._plan is not None
                goes_on = dataclasses.replace(self._plan.options, mode="a", first_step=recording.next)
                self._plan = Plan(self.path, self._plan.layout, goes_on)
                layout = [(t.name, t.shape, t.dtype) for t in recording.header.tensors]
                self._record(layout, new).steps = recording.steps
                names = ", ".join(name for name, _, _ in new[:3]) + (", ..." if len(new) > 3 else "")
                self.warn(f"{len(new)} parameters joined ({names}): the run goes on in a new segment")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: run, segment, committed rows, chain head, next step; {} when off.

        Where an integration knows the parameters, a sketch of them is kept with the run.
        """
        if self._keep is not None:
            self._keep()
        return self._recording.state() if self.active and self._recording else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a checkpoint's step number. Rows logged after it stay in the store as an abandoned branch."""
        if state and self.active and self._recording:
            with self.guarded():
                self._recording.rewind(state)

    def on_close(
        self,
        detach: Callable[[], None],
        drain: Callable[[], None] | None = None,
        keep: Callable[[], None] | None = None,
        missing: Callable[[], str] | None = None,
    ) -> None:
        """Call ``detach`` when recording ends, for whatever reason: hooks go, and the job is as it was.

        ``drain`` is called first by :meth:`close`, while rows are still taken: for those that are under way.
        ``keep`` is called by :meth:`state_dict` and :meth:`close`, to hand in a snapshot of the parameters.
        ``missing`` is asked by :meth:`close` which steps the integration did not see; empty where it saw all.
        """
        self._detach, self._drain, self._keep, self._missing = detach, drain, keep, missing

    def close(self, reason: str = "") -> None:
        """Commit what is left and end the segment. Safe to call twice.

        It waits for the store 60 seconds at most, or as long as ``storage`` of :func:`gradlog.open` says.

        What a store elsewhere does not take in that time stays on this machine; the warning has the command that
        uploads it later.

        Parameters
        ----------
        reason : str
            Why the training ended before its end, where it did. The store then says so, and not "closed". A ``with``
            block that an exception leaves, and a process that one ends, give it by themselves.
        """
        if os.getpid() != self._pid or self._closed:
            return
        if self._drain is not None and self.active:
            try:
                self._drain()  # not under the lock: what it waits for records from another thread
            except Exception as error:
                self._fail(error)
        if self._keep is not None:
            self._keep()
        self._remark_on_what_is_missing()
        with self._lock:
            if self._closed:  # by another thread, while this one waited
                return
            self._end()
            if self._recording is not None and not self.reason:
                try:
                    self.reason = reason
                    told = "; ".join([reason, *self._remarks] if reason else self._remarks)
                    self._recording.finish("failed" if reason else "closed", told, self._recording.close_wait)
                except Exception as error:
                    self._report(error)
                wall = max(time.perf_counter() - self._opened, 1e-9)
                share = 100 * self._spent / wall
                log.info("%d rows recorded; recorder: %.2f %% of wall time", self._recording.rows, share)
            # Last, so that a close which was interrupted can be called again, and is at exit.
            self._closed = True
            atexit.unregister(self._exit_hook)

    def _too_late(self, call: str) -> None:
        """Say once that a closed logger records nothing: a cell of a notebook was run again, without the one above."""
        if self._closed and self._plan is not None and not self._late and os.getpid() == self._pid:
            self._late = True
            again = 'open or attach again, with mode="a" to go on in this run or mode="new" to record beside it'
            self.warn(f"{call}() after close() records nothing: {again}")

    def _remark_on_what_is_missing(self) -> None:
        """Nothing ends in silence that recorded less than its user will expect."""
        if not self.active:
            return
        missing = self._missing() if self._missing is not None else ""
        if self._recording is None or self._recording.steps.seen == 0:
            self.remark(f"closed with no rows: {missing or 'no step was seen'}")
        else:
            self.remark(missing)
            self.remark(self._recording.steps.unclaimed())

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close("" if error is None else ended_by(error))

    def end_with_process(self) -> None:
        """Close; where an exception that nobody caught ends the process, say so."""
        error = uncaught()
        self.close("" if error is None else ended_by(error))

    def __reduce__(self) -> tuple[Any, ...]:
        return Logger, (None,)

    def _begin(self, layout: Layout) -> Recording:
        recording = self._record(layout)
        assert self._plan is not None
        if self.path != self._plan.path:
            self.warn(f"{self._plan.path} is there already, so this run is recorded beside it")
        log.info("%s", describe_plan(self.path, recording.header))
        return recording

    def _record(self, layout: Layout, new: Layout = ()) -> Recording:
        """Open a segment, which is closed also where this object is dropped without ``close``."""
        assert self._plan is not None
        recording = self._recording = Recording(self._plan, layout, weak_teller(self, self._plan.path), new)
        weakref.finalize(self, close_dropped, recording, self._exit_hook, self._remarks, self._pid).atexit = False
        return recording

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Run a framework's hook: what it raises ends the recording and not the training; its time is counted.

        One inside another leaves both to the outer one.
        """
        start = time.perf_counter()
        with self._lock:
            self._depth += 1
            try:
                yield
            except Exception as error:
                if self._depth > 1:
                    raise
                self._fail(error)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._spent += time.perf_counter() - start

    def _end(self) -> None:
        self._ended = True
        if self._detach is not None:
            detach, self._detach = self._detach, None
            detach()

    def _fail(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}"
        self._ended = True  # the hooks stay until close: the framework may be walking through them right now
        if self._recording is not None:
            # What was logged before the failure is still good: keep it, and say in the store why it ends here.
            with contextlib.suppress(Exception):
                self._recording.finish("failed", self.reason, land=False)
        if self._raise:
            raise error
        self._report(error)

    def _report(self, error: Exception) -> None:
        self.reason = self.reason or f"{type(error).__name__}: {error}"
        self.warn(f"recording ended, training goes on: {self.reason}")

    def remark(self, message: str) -> None:
        """Say something once that a reader of the run must know too: it is stored when the segment is closed."""
        if message and message not in self._remarks:
            self._remarks.append(message)
            self.warn(message)

    def warn(self, message: str) -> None:
        """Tell the user something about this recording, as a warning and to the log if anybody listens to it."""
        tell(self.path or "gradlog", message)
