"""What a user holds of a recording. All that it does happens in :mod:`gradlog.recorder.recorder`."""

from __future__ import annotations

from collections.abc import Mapping

from gradlog.format.header import RunHeader
from gradlog.recorder.listeners import Callback
from gradlog.recorder.plan import Plan
from gradlog.recorder.provenance import ended_by
from gradlog.recorder.recorder import Recorder
from gradlog.recorder.recording import Checkpoint
from gradlog.recorder.rows.halves import row_of
from gradlog.sketching.pytree import describe, flatten


class Logger:
    """Writes one segment of a run. Made by :func:`gradlog.open` and :func:`gradlog.attach`.

    Use it as a context manager, or call :meth:`close`. One that is dropped without is closed when it is collected, or
    at the exit of the process; a process that is killed leaves its last rows in the journal. The object is bound to its
    process: in a forked child, and after pickling or copying, it does nothing.

    Attributes
    ----------
    recorder : Recorder
        What integrations of frameworks call.
    """

    def __init__(self, plan: Plan | None) -> None:
        self.recorder = Recorder(plan)

    @property
    def active(self) -> bool:
        """Whether steps are being recorded, here and now."""
        return self.recorder.active

    @property
    def reason(self) -> str:
        """Why recording ended early; empty while all is well."""
        return self.recorder.reason

    @property
    def header(self) -> RunHeader | None:
        """What the run fixed; None before the first gradient told the layout, and when recording is off."""
        return self.recorder.recording.header if self.recorder.recording else None

    @property
    def path(self) -> str:
        """Where the run is, absolute or a URL; with ``mode="new"`` final once the header is known. Empty when off."""
        return self.recorder.path

    @property
    def rows(self) -> int:
        """Rows that this logger has recorded so far."""
        return self.recorder.recording.queue.rows if self.recorder.recording else 0

    @property
    def pending(self) -> int:
        """Rows of these that the store does not have yet: they are in memory and, with a journal, on this machine."""
        return self.recorder.recording.queue.pending if self.recorder.recording else 0

    @property
    def outage(self) -> str:
        """Why the store refuses rows at the moment; empty while it takes them."""
        return self.recorder.recording.queue.outage if self.recorder.recording else ""

    @property
    def seconds(self) -> float:
        """Time that the training thread has spent in here so far."""
        return self.recorder.seconds

    @property
    def due(self) -> bool:
        """Whether the next step is one that is recorded: always, but for ``every=N``."""
        recording = self.recorder.recording
        return self.active and (recording is None or recording.due)

    def step(
        self, grads: object, step: int | None = None, *, half: object = None, update: object = None, **scalars: float
    ) -> None:
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
        update : array, nested dict or list of them, or iterable of (name, array) pairs, optional
            What the step did to the parameters, after less before. Expected of every row of a run that was opened with
            ``what=("gradient", "update")``, and of no other.
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
        recorder = self.recorder
        if not recorder.active:
            recorder.too_late("step")
            return
        with recorder.guarded():
            if not recorder.active:  # another thread closed it while this one waited
                return
            pairs = flatten(grads)
            recording = recorder.recording or recorder.begin(describe(recorder.options.chosen(pairs)))
            recording.append(lambda: row_of(recording.builder, pairs, half, update, scalars), step)

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
        self.recorder.annotate(scalars)

    def on_row(self, callback: Callback) -> Callback:
        """Call ``callback(row)`` with every :class:`gradlog.RecordedRow` from now on, on a thread of its own.

        A row comes when the next one is recorded, since until then scalars may be added to it, and the last one when
        the recording ends. Training never waits for the callback: rows are left out while it is 1,024 behind. What it
        raises, and rows that it missed, cost one warning, and a count of them at the end.

        Parameters
        ----------
        callback : callable
            Takes the row. It is returned, so that this is a decorator too.

        Examples
        --------
        >>> import gradlog, numpy as np, tempfile
        >>> steps = []
        >>> with gradlog.open(tempfile.mkdtemp() + "/run.zarr", like={"w": np.zeros(100)}, k=8) as log:
        ...     _ = log.on_row(lambda row: steps.append((row.step, row.norm)))
        ...     for t in range(2):
        ...         log.step({"w": np.full(100, t)})
        >>> steps
        [(0, 0.0), (1, 10.0)]
        """
        self.recorder.too_late("on_row")
        self.recorder.listeners.add(callback)
        return callback

    def parameters(self, params: object) -> None:
        """Keep a sketch of the parameters themselves, as they are before the next step.

        Call it at the start, at checkpoints and at the end. Then anybody who holds a checkpoint years later can tell
        whether it belongs to this run. The sketch is small. It is stored with the next chunk; until then it waits in a
        file, as rows do.

        Parameters
        ----------
        params : array, nested dict or list of them, or iterable of (name, array)
            All parameters of the run, named as in ``like``.
        """
        self.recorder.parameters(params)

    def join(self, like: object) -> None:
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
        self.recorder.join(like)

    def state_dict(self) -> Checkpoint:
        """Return what a checkpoint keeps: run, segment, committed rows, chain head, next step; {} when off.

        Where an integration knows the parameters, a sketch of them is kept with the run.
        """
        return self.recorder.state()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue at a checkpoint's step number. Rows logged after it stay in the store as an abandoned branch."""
        if state:
            self.recorder.run(lambda recording: recording.rewind(state))

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
        self.recorder.close(reason)

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close("" if error is None else ended_by(error))
