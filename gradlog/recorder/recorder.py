"""One recording from its opening to its close, and what hooks of frameworks call. Nothing here raises into training.

The first failure ends the recording, is warned of once, and is written into the store where the store still
takes writes. With ``on_error="raise"`` it is raised instead.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from gradlog.format.header import RunHeader
from gradlog.format.names import WEIGHT_NORM
from gradlog.recorder.listeners import Listeners
from gradlog.recorder.messages import tell
from gradlog.recorder.options import RecordingOptions
from gradlog.recorder.plan import Layout, Plan, described
from gradlog.recorder.provenance import ended_by, uncaught
from gradlog.recorder.recording import Checkpoint, Recording
from gradlog.recorder.rows.fold import Fold
from gradlog.recorder.rows.row_builder import Fill, Row
from gradlog.sketching.projector import Projector, projector
from gradlog.sketching.pytree import describe, flatten

if TYPE_CHECKING:
    from gradlog.integrations.hooks import Hooks

log = logging.getLogger("gradlog")

PATIENT = 100
"""Calls of ``annotate`` without a step, before that is said while training goes on."""


class Recorder:
    """What an integration calls, as ``Logger.recorder``: it hands over rows, and is told when recording ends.

    Hooks keep this object, not the logger. While they do, recording goes on, also where the user dropped the logger.
    In a forked child, and after pickling or copying, it does nothing.

    Parameters
    ----------
    plan : Plan or None
        What is recorded, and where; None where recording is off.

    Attributes
    ----------
    reason : str
        Why recording ended early; empty while all is well.
    recording : Recording or None
        The segment that is written; None before the first gradient told the layout.
    seconds : float
        Time that the training thread has spent in here.
    listeners : Listeners
        Who is told of complete rows.
    """

    def __init__(self, plan: Plan | None) -> None:
        self.reason, self.seconds = "", 0.0
        self.recording: Recording | None = None
        self._plan = plan
        self._ended = self._closed = plan is None
        self._hooks: Callable[[], Hooks | None] = _nothing
        self._gone: Callable[[], None] = _nothing
        self._remarks: list[str] = []
        self._normed = False  # whether an earlier segment has norms of the parameters
        self.listeners = Listeners(functools.partial(tell, plan.path if plan else ""))
        self._lock, self._depth = threading.RLock(), 0
        self._pid, self._late = os.getpid(), False
        self._opened = time.perf_counter()
        if plan is not None:
            self._exit_hook = _close_at_exit(self)
            if plan.layout is not None:
                try:
                    with self.guarded():
                        self.begin(plan.layout)
                except BaseException:  # on_error="raise", or Ctrl-C: nobody will hold this object
                    self.close()
                    raise

    @property
    def active(self) -> bool:
        """Whether steps are being recorded, here and now."""
        return not self._ended and os.getpid() == self._pid

    @property
    def path(self) -> str:
        """Where the run is; empty when off."""
        if self.recording is not None:
            return self.recording.path
        return self._plan.path if self._plan else ""

    @property
    def options(self) -> RecordingOptions:
        """How the run is recorded."""
        return RecordingOptions() if self._plan is None else self._plan.options

    def projector(self, header: RunHeader) -> Projector:
        """Return the run's random map on the CPU; on a rank that writes nothing, one of its own."""
        if self.recording is not None:
            return self.recording.builder.projector
        return projector(header.sketch, header.tensors, len(header.groups))

    def sketched_by(self, fold: Fold) -> None:
        """Tell what an integration sketches with, if not with the run's own map."""
        if self.recording is not None:
            self.recording.name_fold(fold)

    def record(self, source: Callable[[], Row], step: int | None = None) -> None:
        """Record what a hook gathers; ``source`` runs only for steps that are recorded, and guarded."""
        self.run(lambda recording: recording.append(source, step))
        every, hooks = self.options.theta_every, self._hooks()
        if every and hooks is not None and self.recording is not None and self.recording.next % every == 0:
            hooks.keep()

    def snapshot(self, source: Callable[[], Fill]) -> None:
        """Keep a sketch of the parameters that an integration makes; ``source`` runs guarded."""
        self.run(lambda recording: recording.snapshot(source()))

    def parameters(self, params: object) -> None:
        """Keep a sketch of the parameters, as :meth:`gradlog.Logger.parameters` does."""
        self.run(lambda recording: recording.snapshot(recording.builder.projected(flatten(params))))

    def join(self, like: object) -> None:
        """Go on in a new segment with these parameters too, as :meth:`gradlog.Logger.join` does."""
        self.run(lambda recording: self._extend(recording, describe(flatten(like))))

    def on_close(self, hooks: Hooks) -> None:
        """Tell these hooks when recording ends, for whatever reason. They are held weakly: what they are on keeps them.

        :meth:`close` calls ``drain`` first, while rows are still taken; then ``keep``, as :meth:`state` does, and
        ``missing``; at last ``remove``, or ``gone`` where the hooks are gone by then.
        """
        self._hooks, self._gone = weakref.ref(hooks), type(hooks).gone

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
                    self.seconds += time.perf_counter() - start

    def run(self, action: Callable[[Recording], object]) -> None:
        """Do something with the open segment, guarded; nothing where none is open, or in a forked child."""
        if self.active and self.recording is not None:
            with self.guarded():
                action(self.recording)

    def warn(self, message: str) -> None:
        """Tell the user something about this recording, as a warning and to the log if anybody listens to it."""
        tell(self.path or "gradlog", message)

    def remark(self, message: str) -> None:
        """Say something once that a reader of the run must know too: it is stored when the segment is closed."""
        if message and message not in self._remarks:
            self._remarks.append(message)
            self.warn(message)

    def annotate(self, scalars: Mapping[str, object]) -> None:
        """Add scalars to a row, as :meth:`gradlog.Logger.annotate` does."""
        if self._closed:
            self.too_late("annotate")
        self.run(lambda recording: recording.annotate(scalars))
        if self.recording is not None and self.recording.steps.waiting == PATIENT and self.active:
            self.remark(f"annotate was called {PATIENT} times and no step was seen")

    def state(self) -> Checkpoint:
        """Return what a checkpoint keeps; {} when off."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.keep()
        return self.recording.state() if self.active and self.recording is not None else {}

    def begin(self, layout: Layout) -> Recording:
        """Open the run, now that its parameters are known."""
        recording = self._open(layout)
        assert self._plan is not None
        if self.path != self._plan.path:
            self.warn(f"{self._plan.path} is there already, so this run is recorded beside it")
        log.info("%s", described(self.path, recording.header, self.options.updates))
        return recording

    def _extend(self, recording: Recording, new: Layout) -> None:
        new = [tensor for tensor in new if self.options.chooses(tensor[0])]
        if not new:
            return
        self._normed |= _normed(recording)
        recording.finish("closed", f"{len(new)} parameters joined")
        assert self._plan is not None
        goes_on = dataclasses.replace(self._plan.options, mode="a", first_step=recording.next)
        self._plan = Plan(self.path, self._plan.layout, goes_on)
        layout = [(t.name, t.shape, t.dtype) for t in recording.header.tensors]
        self._open(layout, new).steps = recording.steps
        assert self.recording is not None
        header, joined = self.recording.header, dict.fromkeys(name for name, _, _ in new)
        groups = dict.fromkeys(header.groups[t.group] for t in header.tensors if t.name in joined)
        self.warn(
            f"{len(new)} parameters joined ({_some(joined)}), in {_some(groups)}: groups are those of the start; the "
            "run goes on in a new segment"
        )

    def close(self, reason: str = "") -> None:
        """Commit what is left and end the segment, as :meth:`gradlog.Logger.close` does."""
        if os.getpid() != self._pid or self._closed:
            return
        hooks = self._hooks()
        if hooks is not None and self.active:
            try:
                hooks.drain()  # not under the lock: what it waits for records from another thread
            except Exception as error:
                self._fail(error)
        if hooks is not None:
            hooks.keep()
        if self.active:
            self._remark_on_what_is_missing("" if hooks is None else hooks.missing())
        with self._lock:
            if self._closed:  # by another thread, while this one waited
                return
            self._end()
            if self.recording is not None and not self.reason:
                self._finish(self.recording, reason)
            # Last, so that a close which was interrupted can be called again, and is at exit.
            self._closed = True
            atexit.unregister(self._exit_hook)
        self.listeners.close()  # not under the lock: a callback may call the logger

    def too_late(self, call: str) -> None:
        """Say once that a closed logger records nothing: a cell of a notebook was run again, without the one above."""
        if self._closed and self._plan is not None and not self._late and os.getpid() == self._pid:
            self._late = True
            again = 'open or attach again, with mode="a" to go on in this run or mode="new" to record beside it'
            self.warn(f"{call}() after close() records nothing: {again}")

    def __reduce__(self) -> tuple[type[Recorder], tuple[None]]:
        return Recorder, (None,)

    def _open(self, layout: Layout, new: Layout = ()) -> Recording:
        """Open a segment, which is closed also where this object is dropped without ``close``."""
        assert self._plan is not None
        recording = self.recording = Recording(self._plan, layout, new)
        recording.listeners = self.listeners
        weakref.finalize(self, _close_dropped, recording, self._exit_hook, self._remarks, self._pid).atexit = False
        return recording

    def _finish(self, recording: Recording, reason: str) -> None:
        try:
            self.reason = reason
            told = "; ".join([reason, *self._remarks] if reason else self._remarks)
            recording.finish("failed" if reason else "closed", told, closing=True)
        except Exception as error:
            self._report(error)
        wall = max(time.perf_counter() - self._opened, 1e-9)
        log.info("%d rows recorded; recorder: %.2f %% of wall time", recording.queue.rows, 100 * self.seconds / wall)

    def _remark_on_what_is_missing(self, missing: str) -> None:
        """Nothing ends in silence that recorded less than its user will expect."""
        if self.recording is None or self.recording.steps.seen == 0:
            self.remark(f"closed with no rows: {missing or 'no step was seen'}")
        else:
            self.remark(missing)
            self.remark(self.recording.steps.unclaimed())
            if self.options.theta_every and not self.recording.queue.snapshots:
                self.remark("no sketch of the parameters was kept: nothing here knows them; call parameters(...)")
            if self.options.norms_every and not (self._normed or _normed(self.recording)):
                self.remark("norms_every: no norms of the parameters were recorded")

    def _end(self) -> None:
        self._ended = True
        hooks, gone = self._hooks(), self._gone
        self._hooks, self._gone = _nothing, _nothing
        gone() if hooks is None else hooks.remove()

    def _fail(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}"
        self._ended = True  # the hooks stay until close: the framework may be walking through them right now
        if self.recording is not None:
            # What was logged before the failure is still good: keep it, and say in the store why it ends here.
            with contextlib.suppress(Exception):
                self.recording.finish("failed", self.reason, land=False)
        if self._plan is not None and self._plan.options.on_error == "raise":
            raise error
        self._report(error)

    def _report(self, error: Exception) -> None:
        self.reason = self.reason or f"{type(error).__name__}: {error}"
        self.warn(f"recording ended, training goes on: {self.reason}")


def _some(names: Iterable[str]) -> str:
    """List three of the names."""
    first = list(itertools.islice(names, 4))
    return ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")


def _nothing() -> None:
    """Stand for hooks that are not there."""


def _normed(recording: Recording) -> bool:
    """Whether rows have norms of the parameters."""
    return any(name.startswith(WEIGHT_NORM) for name in recording.queue.block.names)


def _close_at_exit(recorder: Recorder) -> Callable[[], None]:
    """Have a recorder closed when the process ends, if it is still there; return what atexit knows it by.

    Nothing keeps a recorder alive for that: a sweep that forgets its loggers must not keep their buffers and files.
    """
    found = weakref.ref(recorder)

    def close() -> None:
        alive, error = found(), uncaught()
        if alive is not None:
            alive.close("" if error is None else ended_by(error))

    return atexit.register(close)


def _close_dropped(recording: Recording, at_exit: Callable[[], None], remarks: list[str], pid: int) -> None:
    """Close what a dropped recorder was recording; not here, where the collector may have come by."""

    def finish() -> None:
        try:
            recording.finish("closed", "; ".join(remarks), closing=True)
            recording.listeners.close()
        except Exception as error:
            tell(recording.path, f"recording ended: {type(error).__name__}: {error}")

    if os.getpid() == pid and recording.queue.writing:
        atexit.unregister(at_exit)
        try:
            threading.Thread(target=finish, name="gradlog-close").start()
        except RuntimeError:  # the interpreter is going down and starts no more threads
            finish()
