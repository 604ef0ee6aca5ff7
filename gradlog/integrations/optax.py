"""JAX and optax: a gradient transformation that logs what passes through it, inside jit and scan.

The sketch is computed by the jitted step; only groups x k floats leave the device, through an ordered
callback. The step's number is part of the transformation's state and so of every optimizer checkpoint: a restored
state continues the run at its own step.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NamedTuple, Unpack

from gradlog.errors import GradientError, UnsupportedError
from gradlog.integrations import missing
from gradlog.integrations.hooks import Hooks, Row

try:
    import jax
    import jax.numpy as jnp
    import optax
except ImportError as error:
    raise missing("optax", error) from error

import numpy as np
from jax.experimental import io_callback

from gradlog.integrations.jax_sketch import JaxSketch, Sketched, filled
from gradlog.recorder.logger import Logger
from gradlog.recorder.options import OptionKeywords, RecordingOptions
from gradlog.recorder.recorder import Recorder


def named_leaves(tree: optax.Params) -> list[tuple[str, jax.Array]]:
    """Leaves of any pytree with dotted names: dicts by key, sequences by index, classes by field.

    A variable of flax.nnx is a box with one field ``value``, which counts as the variable itself: gradients come with
    the box or without it.

    >>> [name for name, _ in named_leaves({"dense": {"kernel": 1.0, "bias": 2.0}})]
    ['dense.bias', 'dense.kernel']
    """
    nnx = sys.modules.get("flax.nnx")
    boxed = None if nnx is None else lambda node: isinstance(node, nnx.Variable)
    paths, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=boxed)
    named = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "w"
        inside = jax.tree_util.tree_leaves_with_path(leaf)
        whole = len(inside) == 1
        named += [(name if whole else f"{name}.{i}", value) for i, (_, value) in enumerate(inside)]
    return named


def open_run(
    path: str | os.PathLike[str],
    params: optax.Params,
    *,
    options: RecordingOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Logger:
    """Open a run for the parameters of a JAX model.

    Parameters
    ----------
    path : str or path-like
        The run's store.
    params : pytree
        Gives names, shapes and groups.
    options, **keywords
        As for :func:`gradlog.open`.

    Returns
    -------
    Logger
        For :func:`log_gradients` or :func:`record`; its ``close()`` waits for rows that are under way.

    Raises
    ------
    ValueError, TypeError
        As of :func:`gradlog.open`.

    Examples
    --------
    >>> log = open_run("run.zarr", {"w": jnp.zeros(100)}, k=16)               # doctest: +SKIP
    """
    from gradlog import open as open_any

    chosen = RecordingOptions.of(options, keywords)
    if chosen.updates:
        raise UnsupportedError(
            "what=('gradient', 'update'): with optax each is recorded by itself, in a run of its own"
        )
    return open_any(path, like=named_leaves(params), options=chosen)


class LogState(NamedTuple):
    """State of :func:`log_gradients`: the number of the next step."""

    count: jax.Array


def log_gradients(log: Logger, *, accumulate: int = 1) -> optax.GradientTransformationExtraArgs:
    """Gradient transformation that hands its updates on unchanged and records them.

    Parameters
    ----------
    log : Logger
        From :func:`open_run`.
    accumulate : int
        ``k`` of an enclosing ``optax.MultiSteps``, which calls the inner transformations at every micro-step: the
        last of k calls holds the accumulated gradient and is the one that is recorded.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Put it in ``optax.chain`` where the gradient of interest passes: first for the raw one, after
        ``clip_by_global_norm`` for the clipped one. ``update(..., value=loss)`` records the loss.

    Notes
    -----
    Ordered callbacks need a computation on one device. On several, sketch inside the step with :func:`sketcher` and
    call :func:`record` outside.

    Examples
    --------
    >>> log = open_run("run.zarr", params)                                   # doctest: +SKIP
    >>> tx = optax.chain(log_gradients(log), optax.adam(1e-3))               # doctest: +SKIP
    """
    sketch = sketcher(log)
    host = _Host(log.recorder, accumulate)

    def init(params: optax.Params) -> LogState:
        return LogState(jnp.zeros((), jnp.int32))

    def update(
        updates: optax.Updates,
        state: LogState,
        params: optax.Params | None = None,
        *,
        value: jax.Array | float | None = None,
        **extra: object,
    ) -> tuple[optax.Updates, LogState]:
        if sketch is not None and log.active:
            with log.recorder.guarded():  # tracing: what goes wrong here leaves the step as it is
                loss = jnp.nan if value is None else value
                io_callback(host, None, state.count, sketch(updates), loss, ordered=True)
        return updates, LogState(state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


class _Host(Hooks):
    """Receives rows from the device, in order. Compiled steps keep it."""

    def __init__(self, recorder: Recorder, accumulate: int) -> None:
        super().__init__(recorder)
        self._accumulate = accumulate
        self._count, self._calls = -1, 0

    def __call__(self, count: jax.Array, row: Sketched, loss: jax.Array) -> None:
        with self.recorder.guarded():
            number, loss = int(count), np.asarray(loss)
            self._calls = self._calls + 1 if number == self._count else 1
            self._count = number
            if self._calls > self._accumulate:
                raise UnsupportedError(
                    f"update() was called {self._calls} times at step {number}: inside optax.MultiSteps(k), pass "
                    "log_gradients(log, accumulate=k)"
                )
            scalars = {"loss": float(loss)} if loss.size == 1 and not np.isnan(loss) else {}
            if self._calls == self._accumulate:
                self.recorder.record(lambda: Row(filled(row), scalars), number)

    def drain(self) -> None:
        """Wait for callbacks that are under way."""
        jax.effects_barrier()


def sketcher(log: Logger) -> Callable[[optax.Updates], Sketched] | None:
    """Return the pure function from a pytree of gradients to its row; None when recording is off.

    Use it inside jit, scan or shard_map, carry the row out, and hand it to :func:`record`. Where the gradients do not
    fit the run, recording ends, as everywhere: with a warning, or with ``on_error="raise"`` by an error while tracing.
    """
    if log.header is None:
        return None
    sketch = JaxSketch(log.header)
    names = [t.name for t in log.header.tensors]

    def function(grads: optax.Updates) -> Sketched:
        row = sketch.nothing()
        if log.active:
            with log.recorder.guarded():
                leaves = dict(named_leaves(grads))
                if unknown := {name for name in leaves.keys() - set(names) if log.recorder.options.chooses(name)}:
                    raise GradientError(
                        f"{sorted(unknown)[0]!r} is no parameter of this run; expected {', '.join(names[:4])}, ...: "
                        "open_run() takes the pytree that is handed to update()"
                    )
                row = sketch([leaves.get(name) for name in names])
        return row

    return function


def record(log: Logger, row: Sketched, step: int | None = None, **scalars: float) -> None:
    """Write a row that :func:`sketcher` made.

    Parameters
    ----------
    log : Logger
        The run.
    row : Sketched
        Of one step. Rows that ``lax.scan`` has stacked are handed over one by one.
    step : int, optional
        Its number. Default: the next one.
    **scalars : float
        Loss and whatever else belongs to this step.
    """
    log.recorder.record(lambda: Row(filled(row), scalars), step)
